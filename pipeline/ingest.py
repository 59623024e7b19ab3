"""Sources -> lake and staged bundles: what has finished is committed, what may be tried again comes back."""

import os
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from crawl.fetch import part_name
from crawl.frontier import host_of
from crawl.items import SourceItem
from crawl.kinds import Web, check_kinds
from crawl.policy import FetchConfig
from crawl.sources import expand
from infra.config import override_config
from infra.errors import ConfigError, IntegrityError, transient_codes
from infra.root import Root, open_root
from infra.storage import remove_folders
from infra.telemetry import Advance
from pipeline.batches import batches
from pipeline.catalog import Catalog
from pipeline.feed import RunFeed
from pipeline.lake_rows import Row, failure_row, finished_rows
from pipeline.recipe import EmbedConfig, Recipe, load_recipe
from pipeline.records import FinishedSource, SourceOutcome
from pipeline.run_record import Run
from pipeline.stage_embeddings import stage_embeddings

_BATCH_SOURCES = 64
_BATCH_S = 2.0
"""A batch is committed when it is this large or this old: what a kill can cost is what is younger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestPlan:
    """A checked request to ingest."""

    specs: tuple[str, ...]
    """What is listed; empty when `items` are worked off."""
    items: tuple[SourceItem, ...] = ()
    """Sources of the lake that are worked on again."""
    only_missing: bool = False
    """Whether that is for the clips that bounds admit today and that were never encoded."""
    root: Root
    recipe: Recipe


def plan_ingest(specs: Sequence[str], root: str, recipe: str, overrides: Sequence[str]) -> IngestPlan:
    """Check everything that can be wrong with a request before anything is started.

    Raises:
        ConfigError: no or wrong sources, an unusable root, a wrong recipe or override.
    """
    if not specs:
        raise ConfigError("at least one --source must be given, got none; for example --source dir:videos")
    settings = load_recipe(recipe, overrides)
    _check_sources(specs, settings.fetch)
    _check_weights_files(settings.embed)
    return IngestPlan(specs=tuple(specs), root=open_root(root, create=True), recipe=settings)


def plan_retry(root: str, code: str, overrides: Sequence[str]) -> IngestPlan:
    """Once more what failed with a class, under the recipe of the latest ingest run.

    Args:
        overrides: changes to settings that decide no verdict, such as `fetch.cookies_path=FILE`.

    Raises:
        ConfigError: nothing failed so, or an override makes another recipe of it.
    """
    home = open_root(root, create=False)
    catalog = Catalog(home)
    recipe_id = catalog.latest_recipe_id()
    latest = Recipe.model_validate_json(catalog.recipe_json(recipe_id))
    recipe = override_config(latest, overrides)
    if (recipe.recipe_id, recipe.bounds) != (recipe_id, latest.bounds):
        raise ConfigError(
            "--set of retry must leave the verdicts as they are: settings of fetch and media only,"
            f" got {' '.join(overrides)}; for another recipe use `avgen run`"
        )
    items, specs = catalog.failed_items(recipe_id, code)
    return IngestPlan(specs=tuple(specs), items=tuple(items), root=home, recipe=recipe)


def plan_only_missing(root: str, recipe: str | None, overrides: Sequence[str]) -> IngestPlan:
    """The sources of which something is missing under bounds that are looser than when they were measured.

    Args:
        recipe: name or file; that of the latest ingest run when not given.

    Raises:
        ConfigError: the recipe would make other clips of the sources, not the same ones under other bounds.
    """
    home = open_root(root, create=False)
    catalog = Catalog(home)
    settings = chosen_recipe(catalog, recipe, overrides)
    known = catalog.recipe_ids()
    if settings.recipe_id not in known:
        raise ConfigError(
            "--only-missing must have a recipe that was run before, with other bounds at most, got a new one"
            f" ({settings.recipe_id}; known: {', '.join(known)}); leave out --only-missing"
        )
    catalog.judge_by(settings.recipe_id, settings.bounds)
    items = catalog.missing_items(settings.recipe_id)
    return IngestPlan(specs=(), items=tuple(items), root=home, recipe=settings, only_missing=True)


def chosen_recipe(catalog: Catalog, recipe: str | None, overrides: Sequence[str]) -> Recipe:
    """The recipe of that name or file, or else that of the latest ingest run, with overrides applied.

    Raises:
        ConfigError: there is no such recipe, no run yet, or an override is wrong.
    """
    if recipe is not None:
        return load_recipe(recipe, overrides)
    latest = Recipe.model_validate_json(catalog.recipe_json(catalog.latest_recipe_id()))
    return override_config(latest, overrides)


def _check_sources(specs: Sequence[str], config: FetchConfig) -> None:
    """Raises `ConfigError` for malformed sources, and for cookies, proxies or credentials that cannot be read."""
    check_kinds(config, specs)
    web = Web.opened(config)
    for spec in specs:
        expand(spec, web)
    web.close()


def _check_weights_files(embed: EmbedConfig) -> None:
    """Raises `ConfigError` where weights are given as a path that is no file; names are looked up when loaded."""
    for key, weights in (("clip_weights", embed.clip_weights), ("clap_weights", embed.clap_weights)):
        if (os.sep in weights or Path(weights).suffix) and not Path(weights).is_file():
            raise ConfigError(
                f"embed.{key} must be a file or a published name, got {weights!r}; correct the path"
            )


class Committer:
    """Stages embeddings, appends sources to the lake as they finish, and sends back what may be tried again."""

    def __init__(self, run: Run, recipe: Recipe, feed: RunFeed) -> None:
        self._run, self._recipe, self._feed = run, recipe, feed
        self._rng = random.Random()  # Only for the jitter of pauses.
        retries = Catalog(run.root).retries(run.recipe_id)
        self._num_failures = {source_id: number for source_id, (number, _) in retries.items()}
        self._transient = transient_codes()
        self.counts = {"kept": 0, "rejected": 0, "failed": 0}

    def commit_all(self, finished: Iterable[FinishedSource], advance: Advance) -> None:
        """Commit until there are no more.

        Raises:
            IntegrityError: a source went in and did not come out.
        """
        num_done = 0
        for batch in batches(finished, max_things=_BATCH_SOURCES, max_age_s=_BATCH_S):
            self._commit(batch)
            num_done += len(batch)
            standing = self._feed.standing()
            note = ", ".join(f"{number} {ending}" for ending, number in self.counts.items())
            advance(num_done, note, total=num_done + standing.num_open + standing.num_waiting)
        if open_ids := self._feed.open_ids():
            raise IntegrityError(
                f"every source must end, {len(open_ids)} did not, first {open_ids[0]}; run the command again"
            )

    def _commit(self, batch: Sequence[FinishedSource]) -> None:
        now = datetime.now(UTC)
        origin = {"recipe_id": self._run.recipe_id, "run_id": self._run.run_id}
        staged = [
            stage_embeddings(source, store=self._run.root.store, recipe_id=self._run.recipe_id)
            for source in batch
        ]
        rows = finished_rows(staged, models=self._recipe.embed, **origin)
        failures = [self._failure_row(source.outcome, now) for source in batch if source.outcome.failed]
        self._run.commit(rows | {"failures": [row | origin for row in failures]})
        due_at = {row["subject_id"]: row["next_retry_at"] for row in failures if row["next_retry_at"]}
        items = {source.outcome.item.source_id: source.outcome.item for source in batch}
        again = [(items[source_id], due.timestamp()) for source_id, due in due_at.items()]
        self._feed.settle(list(items), again=again)
        for source in batch:
            self.counts[_ending(source)] += 1

    def _failure_row(self, outcome: SourceOutcome, now: datetime) -> Row:
        assert outcome.failed is not None
        config = self._recipe.fetch
        source_id = outcome.item.source_id
        attempt = self._num_failures.get(source_id, 0) + 1
        next_retry_at = None
        if outcome.failed.code in self._transient:
            self._num_failures[source_id] = attempt
            next_retry_at = config.next_retry_at(attempt, now=now, jitter=self._rng.random())
        host, _ = host_of(outcome.item.url, config)
        return failure_row(outcome.failed, host=host, attempt=attempt, next_retry_at=next_retry_at, now=now)


def drop_sources(root: Root | Path) -> None:
    """Delete the media that only runs with `media.keep_sources = false` fetched, also those of killed runs.

    Only at the end of a run: two sources may share one file, and each needs it until it has ended.
    """
    Root.of(root).store.delete(Catalog(root).dropped_media_keys())


def drop_partial_fetches(root: Root, recipe_id: str) -> None:
    """Delete what was read of sources that will not be asked for again; the rest goes on where it stopped."""
    folders = {path.name: path for path in root.partial_dir.glob("*")}
    if folders:
        wanted = {part_name(url) for url in Catalog(root).open_urls(recipe_id)}
        remove_folders(path for name, path in folders.items() if name not in wanted)


def _ending(source: FinishedSource) -> str:
    curated = source.outcome.curated
    if curated is None:
        return "failed"
    return "kept" if any(verdict.kept for verdict in curated.verdicts) else "rejected"
