"""What a run fetches next: sources wait by host, hosts take turns, and what is to be tried again comes back.

Pure: the clock and the free space are arguments. Spans of one video that wait together become one job.
"""

import heapq
import itertools
import math
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import urlsplit

from crawl.items import SourceItem
from crawl.policy import FetchConfig, HostLimit
from infra.units import S_PER_H

_LOCAL = "this machine"
# One job more than a host may have connections, for each of them, and no worker waits for its next job.
_JOBS_PER_CONNECTION = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchJob:
    """Spans of one video, for one fetch."""

    job_id: int
    items: tuple[SourceItem, ...]

    @property
    def url(self) -> str:
        """The address that all of its items have."""
        return self.items[0].url


@dataclass(frozen=True, slots=True, kw_only=True)
class Standstill:
    """Why no source is handed out although some wait."""

    code: Literal["paused", "disk_full", "budget"]
    message: str
    num_waiting: int


@dataclass(slots=True, kw_only=True)
class _Host:
    max_jobs: int
    num_jobs: int = 0
    paused_until_s: float = 0.0
    reason: str = ""
    waiting: dict[str, list[SourceItem]] = field(default_factory=dict)
    """Address -> its items, in the order in which the addresses came."""


class Frontier:
    """The sources of one run that are not fetched yet, and those that are on their way."""

    def __init__(self, config: FetchConfig, *, now_s: float) -> None:
        self._config = config
        self._ends_s = now_s + config.budget_h * S_PER_H
        self._hosts: dict[str, _Host] = {}
        self._turns: deque[str] = deque()  # Hosts for which something waits; the next one is first.
        self._later: list[tuple[float, int, SourceItem]] = []
        self._numbers = itertools.count(1)
        self._jobs: dict[int, FetchJob] = {}  # Begun and not fetched.
        self._urls: set[str] = set()  # Of these jobs.
        self.unsettled: set[str] = set()
        """Sources that were handed out and have no outcome in the lake."""
        self._closed = False
        self.num_waiting = 0
        """Sources that were not handed out, or are to be again."""
        self._num_taken = self._num_bytes = 0
        self._patience_s = config.patience_s
        self._idle_since_s = math.inf

    # ---- what comes in ----

    def add(self, items: Iterable[SourceItem], *, due_s: float = 0.0) -> None:
        """Queue sources, which are not handed out before `due_s`."""
        for item in items:
            self.num_waiting += 1
            if due_s > 0.0:
                heapq.heappush(self._later, (due_s, next(self._numbers), item))
            else:
                self._queue(item)

    def close(self) -> None:
        """All sources are listed: what comes from now on was here before."""
        self._closed = True

    def pause(self, host: str, *, until_s: float, reason: str) -> None:
        """Hand out nothing of a host before that time."""
        paused = self._host(host, self._config.limit_of(host)[1])
        if until_s > paused.paused_until_s:
            paused.paused_until_s, paused.reason = until_s, reason

    # ---- what goes out ----

    def take(self, max_jobs: int, *, now_s: float, free_bytes: int) -> list[FetchJob]:
        """The jobs to begin now, at most `max_jobs`, the hosts in turn."""
        while self._later and self._later[0][0] <= now_s:
            self._queue(heapq.heappop(self._later)[2])
        jobs: list[FetchJob] = []
        num_passed = 0  # Hosts in a row that have nothing to give now.
        while len(jobs) < max_jobs and num_passed < len(self._turns) and not self._limit(now_s, free_bytes):
            name = self._turns[0]
            self._turns.rotate(-1)
            job = self._begin(name, now_s)
            if job:
                jobs.append(job)
            num_passed = 0 if job else num_passed + 1
        if jobs:
            self._end_idling(now_s)
        return jobs

    def fetched(self, job_id: int, *, num_bytes: int) -> None:
        """A worker has done with a job, whatever came of it; its host may be given another one."""
        job = self._jobs.pop(job_id)
        self._hosts[host_of(job.url, self._config)[0]].num_jobs -= 1
        self._urls.discard(job.url)
        self._num_bytes += num_bytes

    def defer(self, job: FetchJob, *, until_s: float) -> None:
        """A worker did not try a job at all: it comes back."""
        self.fetched(job.job_id, num_bytes=0)
        self._num_taken -= len(job.items)
        self.settle([item.source_id for item in job.items])
        self.add(job.items, due_s=until_s)

    def settle(self, source_ids: Collection[str]) -> None:
        """These sources have an outcome in the lake."""
        self.unsettled.difference_update(source_ids)

    # ---- when it ends ----

    def is_done(self, *, now_s: float, free_bytes: int) -> bool:
        """Whether nothing is left, or nothing that comes before the run's patience ends."""
        if self.unsettled:
            self._end_idling(now_s)
            return False
        limit = self._limit(now_s, free_bytes)
        if limit and limit.code == "budget":
            return True
        if not self._closed or not self.num_waiting:
            return self._closed
        self._idle_since_s = min(self._idle_since_s, now_s)
        return max(now_s, self._due_s(now_s)) - self._idle_since_s > self._patience_s

    def standstill(self, *, now_s: float, free_bytes: int) -> Standstill | None:
        """Why nothing is handed out now; `None` when nothing waits, or something is handed out."""
        if not self.num_waiting:
            return None
        limit = self._limit(now_s, free_bytes)
        due_s = self._due_s(now_s)
        if limit or due_s <= now_s:
            return limit
        reasons = [
            f"{name} is paused until {_clock(host.paused_until_s)} ({host.reason})"
            for name, host in self._hosts.items()
            if host.waiting and host.paused_until_s > now_s
        ]
        if self._later:
            num_later = f"{len(self._later)} to be tried again"
            reasons.append(f"{num_later}, the first at {_clock(self._later[0][0])}")
        return Standstill(code="paused", message="; ".join(reasons), num_waiting=self.num_waiting)

    # ---- inside ----

    def _queue(self, item: SourceItem) -> None:
        name, limit = host_of(item.url, self._config)
        host = self._host(name, limit)
        if not host.waiting:
            self._turns.append(name)
        host.waiting.setdefault(item.url, []).append(item)

    def _host(self, name: str, limit: HostLimit) -> _Host:
        return self._hosts.setdefault(name, _Host(max_jobs=_JOBS_PER_CONNECTION * limit.connections))

    def _begin(self, name: str, now_s: float) -> FetchJob | None:
        """The host's next address that is not being fetched already, unless the host is paused or busy."""
        host = self._hosts[name]
        if host.paused_until_s > now_s or host.num_jobs >= host.max_jobs:
            return None
        url = next((url for url in host.waiting if url not in self._urls), None)
        if url is None:
            return None
        job = FetchJob(job_id=next(self._numbers), items=tuple(host.waiting.pop(url)))
        if not host.waiting:
            self._turns.remove(name)
        host.num_jobs += 1
        self._jobs[job.job_id] = job
        self._urls.add(url)
        self.unsettled.update(item.source_id for item in job.items)
        self.num_waiting -= len(job.items)
        self._num_taken += len(job.items)
        return job

    def _limit(self, now_s: float, free_bytes: int) -> Standstill | None:
        """The budget that is spent, or the disk that is almost full."""
        config = self._config
        for name, is_spent in (
            ("budget_items", self._num_taken >= config.budget_items),
            ("budget_bytes", self._num_bytes >= config.budget_bytes),
            ("budget_h", now_s >= self._ends_s),
        ):
            if is_spent:
                message = f"fetch.{name} = {getattr(config, name):g} is spent; run again for the rest"
                return Standstill(code="budget", message=message, num_waiting=self.num_waiting)
        if free_bytes < config.min_free_bytes:
            found = f"{free_bytes} bytes are free and fetch.min_free_bytes = {config.min_free_bytes}"
            message = f"the disk of the root is almost full: {found}; make room"
            return Standstill(code="disk_full", message=message, num_waiting=self.num_waiting)
        return None

    def _due_s(self, now_s: float) -> float:
        """When something can be handed out next; not after `now_s` when something can be now."""
        dues = [host.paused_until_s for host in self._hosts.values() if host.waiting]
        if self._later:
            dues.append(self._later[0][0])
        return min(dues, default=math.inf)

    def _end_idling(self, now_s: float) -> None:
        if self._idle_since_s < now_s:
            self._patience_s -= now_s - self._idle_since_s
        self._idle_since_s = math.inf


def host_of(url: str, config: FetchConfig) -> tuple[str, HostLimit]:
    """The name under which an address is counted, and its limit; local files have the worker's own."""
    host = urlsplit(url).hostname
    if url.startswith("file:") or not host:
        return _LOCAL, HostLimit(requests_per_s=config.requests_per_s, connections=config.connections)
    return config.limit_of(host)


def _clock(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%H:%M:%S UTC")
