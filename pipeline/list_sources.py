"""Stage: source specs -> SourceItems, in the lake and in the feed, page by page while the first are fetched."""

import threading
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from crawl.frontier import host_of
from crawl.items import SourceItem, UnexpandedSource, local_path
from crawl.kinds import Web
from crawl.sources import expand, seed_item
from pipeline.batches import batches
from pipeline.catalog import Catalog
from pipeline.feed import RunFeed
from pipeline.lake_rows import Row, failure_row, source_row
from pipeline.records import Failed
from pipeline.run_record import Run

_PAGE_SOURCES = 5_000
_PAGE_S = 2.0
"""A page is committed and handed to the feed when it is this large or this old."""
_MAX_WAITING = 200_000
"""Listing rests while so many sources wait to be fetched: a channel has more entries than a run needs at once."""
_REST_S = 1.0

Found = SourceItem | UnexpandedSource


class Lister:
    """Lists the sources of a run in a thread of its own."""

    def __init__(self, specs: Sequence[str], *, web: Web, run: Run, feed: RunFeed) -> None:
        self._specs, self._web, self._run, self._feed = specs, web, run, feed
        catalog = Catalog(run.root)
        self._known = catalog.known_sources()
        self._finished = catalog.finished_sources(run.recipe_id)
        self._retries = catalog.retries(run.recipe_id)
        self._catalog, self._scratch = catalog, run.root.scratch.resolve()
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._list_all, daemon=True)
        self._error: BaseException | None = None
        self.num_added = 0
        """Sources that the feed has got from here so far."""

    def start(self) -> None:
        """Begin; the feed is closed at the end, however it comes."""
        self._thread.start()

    def has_ended(self, *, timeout_s: float) -> bool:
        """Whether everything is listed, within that time."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def finish(self) -> None:
        """End after the page at hand; the next run lists what is left. Raises what has ended the listing."""
        self._is_stopped.set()
        self._thread.join()
        if self._error:
            raise self._error

    def _list_all(self) -> None:
        try:
            for spec in self._specs:
                self._list(spec)
        except BaseException as err:  # noqa: BLE001 - `finish` raises it in the thread of the flow
            self._error = err
        finally:
            self._feed.close()

    def _list(self, spec: str) -> None:
        seed = seed_item(spec)
        num_listed, listed = self._catalog.begun_listing(seed.source_id) if seed else (0, [])
        self._queue(listed)
        is_whole = True
        for page in batches(
            expand(spec, self._web, first_index=num_listed), max_things=_PAGE_SOURCES, max_age_s=_PAGE_S
        ):
            num_failures = sum(_is_failure_of(seed, source) for source in page)
            num_listed += len(page) - num_failures
            is_whole = is_whole and not num_failures
            place = self._listing_row(seed, spec, num_listed, page) if seed else None
            self._take_in(page, place)
            if self._is_stopped.is_set():
                return
        if seed and is_whole:
            end = self._listing_row(seed, spec, num_listed, []) | {"complete": True}
            self._run.commit({"listings": [end]})

    def _take_in(self, page: Sequence[Found], place: Row | None) -> None:
        """Record a page, how far the listing is with it, and queue what still needs work."""
        now = datetime.now(UTC)
        items = {source.source_id: source for source in page if isinstance(source, SourceItem)}
        items = {name: item for name, item in items.items() if not self._is_own_file(item)}
        unexpanded = {
            source.item.source_id: source for source in page if isinstance(source, UnexpandedSource)
        }
        rows = {
            name: source_row(item, run_id=self._run.run_id, now=now)
            for name, item in (items | {name: source.item for name, source in unexpanded.items()}).items()
            if self._known.add(name)
        }
        failures = [
            self._failure_row(source, now) for name, source in unexpanded.items() if name not in items
        ]
        self._run.commit(
            {"sources": list(rows.values()), "failures": failures, "listings": [place] if place else []}
        )
        self._queue(items.values())

    def _queue(self, items: Iterable[SourceItem]) -> None:
        """Hand what still needs work to the feed, and rest while it has more than enough."""
        todo = [
            (item, self._retries.get(item.source_id, (0, 0.0))[1])
            for item in items
            if self._finished.add(item.source_id)
        ]
        self.num_added += len(todo)
        while self._feed.add(todo) > _MAX_WAITING and not self._is_stopped.wait(_REST_S):
            todo = []

    def _is_own_file(self, item: SourceItem) -> bool:
        """Whether a walk met what this root wrote itself: it may lie below the folder that is walked."""
        return item.url.startswith("file:") and local_path(item.url).is_relative_to(self._scratch)

    def _failure_row(self, source: UnexpandedSource, now: datetime) -> Row:
        failed = Failed(
            subject_id=source.item.source_id, stage="expand", code=source.code, message=source.message
        )
        host, _ = host_of(source.item.url, self._web.config)
        # No time for another attempt: whoever names the source again lists it again.
        row = failure_row(failed, host=host, attempt=1, next_retry_at=None, now=now)
        return row | {"recipe_id": self._run.recipe_id, "run_id": self._run.run_id}

    def _listing_row(self, seed: SourceItem, spec: str, next_index: int, page: Sequence[Found]) -> Row:
        return {
            "source_id": seed.source_id,
            "spec": spec,
            "entry_ids": [source.source_id for source in page if isinstance(source, SourceItem)],
            "next_index": next_index,
            "complete": False,
            "run_id": self._run.run_id,
            "listed_at": datetime.now(UTC),
        }


def _is_failure_of(seed: SourceItem | None, source: Found) -> bool:
    return (
        isinstance(source, UnexpandedSource) and seed is not None and source.item.source_id == seed.source_id
    )
