"""Two workers that curate sources, as Ray actors and as plain processes. Both begin when both are warm."""

import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

from pipeline.curate_source import Workplace
from pipeline.ray_adapter import (
    CurateActor,
    _dataset,
    _placement,
    _records,
    open_workplace,
    plan_pools,
    ray_session,
)
from pipeline.recipe import Recipe, load_recipe
from tests.bench.media_work import Fate, curate, fate
from tests.stored import Source

NUM_WORKERS = 2
_POLL_PAUSE_S = 0.01
_AMPLE_MIB = 1 << 20  # The pool is as large as the cores allow; memory must not bound it.


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Sources to work off."""

    sources: Sequence[Source]
    warm_up: Source
    recipe_name: str
    root: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Walls:
    """Wall times of working them off."""

    start_s: float
    """Until the last worker was warm."""
    work_s: float
    """From there to the last result."""


def ray_walls(load: Load) -> Walls:
    """The pool of curate actors as the pipeline places it, fed by Ray Data. Raises: as `_walls`."""
    with (
        tempfile.TemporaryDirectory(dir=load.root, prefix="gate-") as gate,
        ray_session(num_cpus=NUM_WORKERS),
    ):
        started_at_s = time.time()
        recipe = load_recipe(load.recipe_name, [])
        records = [(source.item, source.fetched) for source in load.sources]
        pool = plan_pools(NUM_WORKERS, 0, memory_mib=_AMPLE_MIB, num_sources=len(records)).curate
        arguments = {"warm_up": load.warm_up, "recipe": recipe, "root": load.root, "gate": Path(gate)}
        dataset = _dataset(records, max_blocks=len(records))
        dataset = dataset.flat_map(_WarmActor, fn_constructor_kwargs=arguments, **_placement(pool))
        outcomes = [part.outcome for part in _records(dataset) if part.outcome]
        ended_at_s = time.time()
        return _walls([fate(outcome.curated) for outcome in outcomes], started_at_s, Path(gate), ended_at_s)


def plain_walls(load: Load) -> Walls:
    """Processes that run `curate_source` on one source after another. Raises: as `_walls`."""
    with tempfile.TemporaryDirectory(dir=load.root, prefix="gate-") as gate:
        started_at_s = time.time()
        with ProcessPoolExecutor(
            NUM_WORKERS,
            mp_context=get_context("spawn"),
            initializer=_start,
            initargs=(load.warm_up, load.root, load.recipe_name, Path(gate)),
        ) as pool:
            work = partial(_plain_fate, root=load.root, recipe_name=load.recipe_name)
            fates = list(pool.map(work, load.sources))
            ended_at_s = time.time()
        return _walls(fates, started_at_s, Path(gate), ended_at_s)


def _walls(fates: Sequence[Fate], started_at_s: float, gate: Path, ended_at_s: float) -> Walls:
    """Raises `SystemExit` when a source was not kept: it would be work that the others do not have."""
    if set(fates) != {"kept"}:
        raise SystemExit(f"every source must be kept, got {sorted(set(fates))}")
    opened_at_s = max(path.stat().st_mtime for path in gate.iterdir())
    return Walls(start_s=opened_at_s - started_at_s, work_s=ended_at_s - opened_at_s)


class _WarmActor(CurateActor):
    """A curate actor that is warm once it is built, and built when all are."""

    def __init__(self, *, warm_up: Source, recipe: Recipe, root: Path, gate: Path) -> None:
        super().__init__(recipe=recipe, root=root, work_dir=root / "tmp")
        for _ in self({"record": (warm_up.item, warm_up.fetched)}):
            pass
        _pass(gate)


def _start(warm_up: Source, root: Path, recipe_name: str, gate: Path) -> None:
    _plain_fate(warm_up, root=root, recipe_name=recipe_name)
    _pass(gate)


def _plain_fate(source: Source, *, root: Path, recipe_name: str) -> Fate:
    recipe, place = _opened(root, recipe_name)
    return fate(curate(source, recipe=recipe, place=place))


@cache
def _opened(root: Path, recipe_name: str) -> tuple[Recipe, Workplace]:
    """What this process works with, opened once."""
    recipe = load_recipe(recipe_name, [])
    return recipe, open_workplace(recipe, root=root, work_dir=Path(tempfile.mkdtemp(dir=root)))


def _pass(gate: Path) -> None:
    """Say in a folder that a worker is warm, and wait for the others."""
    with tempfile.NamedTemporaryFile(dir=gate, delete=False):
        while len(list(gate.iterdir())) < NUM_WORKERS:
            time.sleep(_POLL_PAUSE_S)
