"""Throughput of two curate actors under Ray Data against two plain processes that do the same, on two cores.

Steady state: the clock starts when both workers are warm. What starting takes is reported apart.
"""

import os
import tempfile
from functools import partial
from pathlib import Path

from pipeline.recipe import load_recipe
from tests.bench.corpus import corpus_files
from tests.bench.media_sources import KEPT_FILES, make_kept, spread_s
from tests.bench.media_workers import NUM_WORKERS, Load, Walls, plain_walls, ray_walls
from tests.bench.report import Figure, Report, say
from tests.stored import store

_RECIPE = "default"
_MIN_RATIO = 0.90
_NUM_ROUNDS = 3
_SOURCES = (60, 10, 120)
_CASE = f"{_SOURCES[0]} sources of {_SOURCES[1]} to {_SOURCES[2]} s, {NUM_WORKERS} cores"


def main() -> None:
    """Measure and report."""
    recipe = load_recipe(_RECIPE, [])
    files = [path for name in KEPT_FILES for path in corpus_files(name)]
    report = Report(
        "media_ray",
        settings={"recipe_id": recipe.recipe_id, "sources_num_low_s_high_s": _SOURCES},
        inputs=files,
        num_warm_ups=1,
        ceiling=f"{NUM_WORKERS} plain processes that take the sources from one queue and run curate_source",
    )
    # Short: Ray puts sockets in it, whose paths are bounded.
    with tempfile.TemporaryDirectory(prefix="avgb-") as folder:
        os.environ["RAY_TMPDIR"] = folder
        root = Path(folder) / "root"
        (root / "made").mkdir(parents=True)
        say("making sources")
        paths = make_kept(root / "made", spread_s(*_SOURCES))
        warm_up, *sources = (store(path, recipe=recipe, root=root) for path in [files[1], *paths])
        load = Load(sources=sources, warm_up=warm_up, recipe_name=_RECIPE, root=root)
        rounds = [_round(load, round_index) for round_index in range(_NUM_ROUNDS)]
    ratios = tuple(plain.work_s / ray.work_s for ray, plain in rounds)
    figure = partial(Figure, case=_CASE)
    report.add(
        figure(metric="throughput_ratio", unit="ratio", values=ratios, bar=_MIN_RATIO, more_is_better=True)
    )
    for name, walls in zip(("ray", "plain"), zip(*rounds, strict=True), strict=True):
        report.add(figure(metric=f"{name}_wall_s", unit="s", values=tuple(wall.work_s for wall in walls)))
        report.add(figure(metric=f"{name}_start_s", unit="s", values=tuple(wall.start_s for wall in walls)))
    report.save()


def _round(load: Load, round_index: int) -> tuple[Walls, Walls]:
    """Under Ray, then without."""
    walls = ray_walls(load), plain_walls(load)
    say(f"round {round_index + 1} of {_NUM_ROUNDS}: {', '.join(f'{wall.work_s:.1f} s' for wall in walls)}")
    return walls


if __name__ == "__main__":
    main()
