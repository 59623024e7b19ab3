"""One run over its sources: listing, fetching, curating and committing side by side until nothing is left."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from crawl.blocklist import Blocklist
from crawl.kinds import Web
from crawl.politeness import Desk, HostPause
from infra.telemetry import Advance, stderr_console
from pipeline.actors import FetchPlace
from pipeline.catalog import Catalog
from pipeline.earlier_passes import EarlierPasses, write_earlier_passes
from pipeline.feed import RunFeed
from pipeline.ingest import Committer, IngestPlan
from pipeline.lake_rows import pause_row
from pipeline.list_sources import Lister
from pipeline.records import FinishedSource
from pipeline.run_record import Run

_HEAD_START_S = 2.0
"""A listing that ends within this time tells how many workers are worth starting."""
_WATCH_S = 1.0

Stream = Callable[[FetchPlace, int | None], Iterator[FinishedSource]]
"""The workers: what they are given, and how many sources there are if that is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """Who does the work of a run, in this process or on a cluster."""

    feed: RunFeed
    desk: Desk
    stream: Stream


def work_off(plan: IngestPlan, run: Run, *, workers: Workers, advance: Advance) -> None:
    """List and work off the sources of a plan; what is put off for longer than the run's patience stays pending.

    Says on stderr which hosts are paused, and why nothing is fetched while that is so.
    """
    feed, catalog = workers.feed, Catalog(plan.root)
    for pause in catalog.paused_hosts(now_s=time.time()):
        workers.desk.pause(pause)
        feed.pause(pause)
    for pause in feed.new_pauses():  # The lake knows of these.
        _say_pause(pause)
    place = FetchPlace(
        recipe=plan.recipe,
        root=plan.root,
        desk=workers.desk,
        feed=feed,
        blocklist=Blocklist(catalog.blocks()),
        earlier=_earlier_passes(plan, run, catalog) if plan.only_missing else None,
    )
    web = Web.opened(plan.recipe.fetch, workers.desk, on_pause=feed.pause)
    lister = Lister(plan.specs, web=web, run=run, feed=feed)
    feed.add([(item, 0.0) for item in plan.items])
    lister.start()
    is_short = lister.has_ended(timeout_s=_HEAD_START_S)
    num_sources = lister.num_added + len(plan.items) if is_short else None
    with closing(web):
        try:
            with _watched(feed, run):
                if num_sources != 0:
                    Committer(run, plan.recipe, feed).commit_all(workers.stream(place, num_sources), advance)
        finally:
            lister.finish()
    left = feed.standing().standstill
    if left:
        _say(f"sources left for a later run: {left.num_waiting} ({left.message})")


def _earlier_passes(plan: IngestPlan, run: Run, catalog: Catalog) -> EarlierPasses:
    catalog.judge_by(run.recipe_id, plan.recipe.bounds)
    return write_earlier_passes(catalog, run)


@contextmanager
def _watched(feed: RunFeed, run: Run) -> Iterator[None]:
    """Tell the lake and people of hosts that are paused, and people of a run that stands still."""
    is_over = threading.Event()

    def watch() -> None:
        said, is_last = "", False
        while not is_last:
            is_last = is_over.wait(_WATCH_S)
            now = datetime.now(UTC)
            if pauses := feed.new_pauses():
                run.commit({"hosts": [pause_row(pause, run_id=run.run_id, now=now) for pause in pauses]})
            for pause in pauses:
                _say_pause(pause)
            still = feed.standing().standstill
            if still and still.message != said:
                _say(f"waiting, sources left: {still.num_waiting} ({still.message})")
            said = still.message if still else ""

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        watcher.join()


def _say_pause(pause: HostPause) -> None:
    until = datetime.fromtimestamp(pause.until_s, UTC)
    _say(f"{pause.host} is left alone until {until:%H:%M:%S} UTC: {pause.reason}")


def _say(line: str) -> None:
    stderr_console().print(line, markup=False)
