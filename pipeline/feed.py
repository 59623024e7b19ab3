"""The frontier of a run with a clock, a disk and a lock: what workers take jobs from, and the driver fills."""

import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from crawl.frontier import FetchJob, Frontier, Standstill
from crawl.items import SourceItem
from crawl.policy import FetchConfig
from crawl.politeness import HostPause
from infra.root import Root

_POLL_S = 0.25
"""How often time, disk and budget are looked at while nobody brings anything."""


Due = tuple[SourceItem, float]
"""A source, and the Unix time before which it is not fetched; 0: at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How things stand."""

    standstill: Standstill | None
    num_waiting: int
    """Sources that were not handed out yet, or are to be again."""
    num_open: int
    """Sources that were handed out and have no outcome."""


class JobReports(Protocol):
    """What a worker holds of the feed; it may be in another process."""

    def fetched(self, job_id: int, *, num_bytes: int) -> None:
        """See `Feed`, as for all that follow."""

    def defer(self, job: FetchJob, *, until_s: float) -> None:
        """A worker did not try a job."""

    def pause(self, pause: HostPause) -> None:
        """A host wants to be left alone."""


class RunFeed(JobReports, Protocol):
    """What the driver of a run holds of the feed."""

    def add(self, sources: Sequence[Due]) -> int:
        """Queue sources; how many wait now."""

    def close(self) -> None:
        """All sources are listed."""

    def settle(self, source_ids: Sequence[str], *, again: Sequence[Due]) -> None:
        """These sources have an outcome."""

    def standing(self) -> Standing:
        """How things stand."""

    def new_pauses(self) -> tuple[HostPause, ...]:
        """Hosts that want to be left alone, as far as they were not told before."""

    def open_ids(self) -> list[str]:
        """Sources without an outcome."""


class Feed:
    """Thread-safe; in a run on Ray it is an actor."""

    def __init__(self, config: FetchConfig, root: Root | Path) -> None:
        self._scratch = Root.of(root).scratch
        self._scratch.mkdir(parents=True, exist_ok=True)
        self._frontier = Frontier(config, now_s=time.time())
        self._changed = threading.Condition()
        self._pauses: list[HostPause] = []

    def add(self, sources: Sequence[Due]) -> int:
        """Queue sources; how many wait now."""
        with self._changed:
            self._changed.notify_all()
            return self._add(sources)

    def close(self) -> None:
        """All sources are listed."""
        with self._changed:
            self._frontier.close()
            self._changed.notify_all()

    def settle(self, source_ids: Sequence[str], *, again: Sequence[Due]) -> None:
        """These sources have an outcome in the lake; those of `again` come back at that Unix time."""
        with self._changed:
            self._frontier.settle(source_ids)
            self._add(again)
            self._changed.notify_all()

    def take(self, max_jobs: int, *, wait_s: float) -> list[FetchJob] | None:
        """Jobs to begin now, after at most `wait_s` maybe none; `None` when the run has nothing left to do."""
        deadline_s = time.monotonic() + wait_s
        with self._changed:
            while True:
                now_s, free_bytes = time.time(), shutil.disk_usage(self._scratch).free
                jobs = self._frontier.take(max_jobs, now_s=now_s, free_bytes=free_bytes)
                if jobs:
                    return jobs
                if self._frontier.is_done(now_s=now_s, free_bytes=free_bytes):
                    return None
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    return []
                self._changed.wait(min(left_s, _POLL_S))

    def fetched(self, job_id: int, *, num_bytes: int) -> None:
        """A worker has done with a job."""
        with self._changed:
            self._frontier.fetched(job_id, num_bytes=num_bytes)
            self._changed.notify_all()

    def defer(self, job: FetchJob, *, until_s: float) -> None:
        """A worker did not try a job."""
        with self._changed:
            self._frontier.defer(job, until_s=until_s)
            self._changed.notify_all()

    def pause(self, pause: HostPause) -> None:
        """A host wants to be left alone: nothing of it is handed out until then."""
        with self._changed:
            self._frontier.pause(pause.host, until_s=pause.until_s, reason=f"{pause.code}: {pause.reason}")
            self._pauses.append(pause)

    def standing(self) -> Standing:
        """How things stand."""
        with self._changed:
            now_s, free_bytes = time.time(), shutil.disk_usage(self._scratch).free
            return Standing(
                standstill=self._frontier.standstill(now_s=now_s, free_bytes=free_bytes),
                num_waiting=self._frontier.num_waiting,
                num_open=len(self._frontier.unsettled),
            )

    def new_pauses(self) -> tuple[HostPause, ...]:
        """Hosts that want to be left alone, as far as they were not told before."""
        with self._changed:
            pauses, self._pauses = tuple(self._pauses), []
            return pauses

    def _add(self, sources: Sequence[Due]) -> int:
        for item, due_s in sources:
            self._frontier.add([item], due_s=due_s)
        return self._frontier.num_waiting

    def open_ids(self) -> list[str]:
        """Sources that were handed out and have no outcome."""
        with self._changed:
            return sorted(self._frontier.unsettled)
