"""A run that looks for duplicates among the clips of a root. Started by `avgen dedup`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from infra.root import Root, open_root
from infra.store_lock import HELD_BY_KERNEL, StoreLock
from pipeline.catalog import Catalog
from pipeline.find_duplicates import DedupSummary, find_duplicates
from pipeline.ingest import chosen_recipe
from pipeline.lake import Lake
from pipeline.recipe import Recipe
from pipeline.run_record import start_run


@dataclass(frozen=True, slots=True, kw_only=True)
class DedupRequest:
    """A checked request to look for duplicates."""

    root: Root
    recipe: Recipe


def plan_dedup(root: str, recipe: str | None, overrides: Sequence[str]) -> DedupRequest:
    """Check a request before anything is started.

    Args:
        recipe: name or file; that of the latest ingest run when not given.

    Raises:
        ConfigError: an empty root, or a recipe that no run had.
    """
    home = open_root(root, create=False)
    catalog = Catalog(home)
    settings = chosen_recipe(catalog, recipe, overrides)
    catalog.meant_recipe_id(settings.recipe_id)
    return DedupRequest(root=home, recipe=settings)


def run_dedup(request: DedupRequest, *, lock: StoreLock = HELD_BY_KERNEL) -> DedupSummary:
    """Compare what was not compared yet. A killed run has kept what it had found; the next one goes on.

    The caller holds the root by `lock`.
    """
    recipe = request.recipe
    Lake(request.root.store, lock=lock).create()
    run = start_run(
        request.root,
        "dedup",
        recipe_id=recipe.recipe_id,
        settings_json=recipe.with_all_bounds().model_dump_json(),
        lock=lock,
    )
    with run.marked_at_its_end():
        return find_duplicates(
            Catalog(request.root),
            run.commit,
            run_id=run.run_id,
            recipe_id=recipe.recipe_id,
            config=recipe.dedup,
            now=lambda: datetime.now(UTC),
        )
