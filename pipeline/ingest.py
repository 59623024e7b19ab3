"""Sources -> lake and staged bundles: expands, works off what is not finished yet, commits in batches."""

import os
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from crawl.items import SourceItem, UnexpandedSource, local_path
from crawl.sources import expand, seed_item
from infra.errors import ConfigError, IntegrityError
from infra.storage import open_root, remove_files
from infra.telemetry import Advance
from pipeline.catalog import Catalog
from pipeline.lake_rows import failure_row, finished_rows, source_row
from pipeline.recipe import EmbedConfig, Recipe, load_recipe
from pipeline.records import Failed, FinishedSource
from pipeline.run_record import Run

_Arrival = FinishedSource | BaseException | None
_BATCH_SOURCES = 64
_BATCH_S = 5.0
"""A batch is committed when it is this large or this old: what a kill can cost is what is younger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestPlan:
    """A checked request to ingest."""

    specs: tuple[str, ...]
    root: Path
    recipe: Recipe


def plan_ingest(specs: Sequence[str], root: str, recipe: str, overrides: Sequence[str]) -> IngestPlan:
    """Check everything that can be wrong with a request before anything is started.

    Raises:
        ConfigError: no or wrong sources, an unusable root, a wrong recipe or override.
    """
    if not specs:
        raise ConfigError("at least one --source must be given, got none; for example --source dir:videos")
    settings = load_recipe(recipe, overrides)
    for spec in specs:
        expand(spec, config=settings.fetch)
    _check_weights_files(settings.embed)
    return IngestPlan(specs=tuple(specs), root=open_root(root, create=True), recipe=settings)


def _check_weights_files(embed: EmbedConfig) -> None:
    """Raises `ConfigError` where weights are given as a path that is no file; names are looked up when loaded."""
    for key, weights in (("clip_weights", embed.clip_weights), ("clap_weights", embed.clap_weights)):
        if (os.sep in weights or Path(weights).suffix) and not Path(weights).is_file():
            raise ConfigError(
                f"embed.{key} must be a file or a published name, got {weights!r}; correct the path"
            )


def expand_sources(plan: IngestPlan, run: Run) -> list[SourceItem]:
    """List the sources, record those that are new, and return those that still need work."""
    recipe_id = plan.recipe.recipe_id
    found = [
        source
        for spec in plan.specs
        for source in expand(spec, config=plan.recipe.fetch)
        if not _is_own_file(source, plan.root)
    ]
    items = {source.source_id: source for source in found if isinstance(source, SourceItem)}
    unexpanded = {source.item.source_id: source for source in found if isinstance(source, UnexpandedSource)}
    seed_ids = {seed.source_id for spec in plan.specs if (seed := seed_item(spec)) is not None}
    catalog = Catalog(plan.root)
    known, finished = catalog.known_source_ids(), catalog.finished_source_ids(recipe_id)
    now = datetime.now(UTC)
    seeds = {source_id: source.item for source_id, source in unexpanded.items()}
    run.commit(
        {
            "sources": [
                source_row(item, run_id=run.run_id, now=now)
                for source_id, item in (seeds | items).items()
                if source_id not in known
            ],
            "failures": [
                failure_row(_expand_failure(source), recipe_id=recipe_id, run_id=run.run_id, now=now)
                for source_id, source in unexpanded.items()
                if source_id not in finished
            ],
            "listings": [
                {"source_id": source_id, "run_id": run.run_id, "listed_at": now}
                for source_id in sorted(seed_ids & catalog.unlisted_source_ids())
                if source_id not in items and source_id not in unexpanded
            ],
        }
    )
    return [item for source_id, item in items.items() if source_id not in finished]


def _is_own_file(source: SourceItem | UnexpandedSource, root: Path) -> bool:
    """Whether a walk met what this root wrote itself: it may lie below the folder that is walked."""
    return (
        isinstance(source, SourceItem)
        and source.kind == "dir"
        and local_path(source.url).is_relative_to(root.resolve())
    )


def commit_sources(
    items: Sequence[SourceItem],
    finished: Iterable[FinishedSource],
    run: Run,
    recipe: Recipe,
    advance: Advance,
) -> None:
    """Append sources to the lake as they finish, a batch at a time.

    Raises:
        IntegrityError: a source went in and did not come out.
    """
    num_done = 0
    open_ids = {item.source_id for item in items}
    counts = {"kept": 0, "rejected": 0, "failed": 0}
    for batch in _batches(finished):
        now = datetime.now(UTC)
        run.commit(
            finished_rows(batch, recipe_id=recipe.recipe_id, run_id=run.run_id, models=recipe.embed, now=now)
        )
        num_done += len(batch)
        for source in batch:
            counts[_ending(source)] += 1
            open_ids.discard(source.outcome.item.source_id)
        advance(num_done, ", ".join(f"{number} {ending}" for ending, number in counts.items()))
    if open_ids:
        raise IntegrityError(
            f"every source must end, {len(open_ids)} did not, first {min(open_ids)}; run the command again"
        )


def drop_sources(root: Path) -> None:
    """Delete the media that only runs with `media.keep_sources = false` fetched, also those of killed runs.

    Only at the end of a run: two sources may share one file, and each needs it until it has ended.
    """
    remove_files(root / key for key in Catalog(root).dropped_media_keys())


def _batches(finished: Iterable[FinishedSource]) -> Iterator[list[FinishedSource]]:
    """Batches of at most `_BATCH_SOURCES` sources, in which none has waited longer than `_BATCH_S`."""
    arrivals: queue.Queue[_Arrival] = queue.Queue(maxsize=_BATCH_SOURCES)
    # A daemon, so that an interrupted run does not wait for the source that is being worked on.
    threading.Thread(target=_hand_over, args=(finished, arrivals), daemon=True).start()
    batch: list[FinishedSource] = []
    due_s = 0.0
    while True:
        try:
            arrival = arrivals.get(timeout=max(0.0, due_s - time.monotonic()) if batch else None)
        except queue.Empty:
            yield batch
            batch = []
            continue
        if isinstance(arrival, BaseException):
            raise arrival
        if arrival is None:
            break
        due_s = due_s if batch else time.monotonic() + _BATCH_S
        batch.append(arrival)
        if len(batch) == _BATCH_SOURCES:
            yield batch
            batch = []
    if batch:
        yield batch


def _hand_over(finished: Iterable[FinishedSource], arrivals: "queue.Queue[_Arrival]") -> None:
    """Put every source into the queue, then what ended them: an error, or `None` for the last one."""
    try:
        for source in finished:
            arrivals.put(source)
    except BaseException as err:  # noqa: BLE001 - the batches raise it
        arrivals.put(err)
    else:
        arrivals.put(None)


def _ending(source: FinishedSource) -> str:
    curated = source.outcome.curated
    if curated is None:
        return "failed"
    return "kept" if any(verdict.kept for verdict in curated.verdicts) else "rejected"


def _expand_failure(source: UnexpandedSource) -> Failed:
    return Failed(subject_id=source.item.source_id, stage="expand", code=source.code, message=source.message)
