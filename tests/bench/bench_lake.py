"""Questions to a lake of ten million spans, and a lake to which a thousand small commits come."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.catalog import Catalog
from pipeline.funnel import read_funnel
from pipeline.lake import Lake, live_tables
from pipeline.what_if import read_what_if
from tests.bench.made_lake import make_lake
from tests.bench.report import Figure, Report, say

_NUM_CLIPS = 10_000_000
_NUM_QUESTIONS = 20
_NUM_COMMITS, _ROWS_PER_COMMIT = 1_000, 64
_QUERY_BAR_S, _STATUS_BAR_S = 1.5, 2.0
_GROUP_BY = "select kept, video_codec, count(*), avg(snr_db), sum(end_s - start_s) from clips group by all"
_REASONS = "select unnest(reject_reasons) as reason, count(*) from clips where not kept group by 1"
_PERCENTILES = (
    "select approx_quantile(laplacian_variance, [0.05, 0.25, 0.5, 0.75, 0.95]) from clips where kept"
)
_BY_KIND = "select kind, count(*) from clips join sources using (source_id) where kept group by 1"


def main() -> None:
    """Print and keep the figures."""
    report = Report(
        "lake_queries",
        settings={"num_clips": _NUM_CLIPS, "num_commits": _NUM_COMMITS, "rows_per_commit": _ROWS_PER_COMMIT},
        num_warm_ups=1,
        ceiling="none",
    )
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        say(f"making a lake of {_NUM_CLIPS:,} spans")
        recipe = make_lake(root / "large", num_clips=_NUM_CLIPS)
        _ask(report, root / "large", recipe.recipe_id)
        say(f"{_NUM_COMMITS:,} commits")
        _commit(report, root / "small")
    report.save()


def _ask(report: Report, root: Path, recipe_id: str) -> None:
    catalog = Catalog(root)
    bounds = dict(catalog.bounds(recipe_id))
    status = [sys.executable, "-m", "pipeline.cli", "status", "--root", str(root)]
    questions: dict[str, tuple[Callable[[], object], float | None]] = {
        "funnel": (partial(read_funnel, catalog, recipe_id), _QUERY_BAR_S),
        "group_by": (partial(catalog.rows, _GROUP_BY), _QUERY_BAR_S),
        "percentiles": (partial(catalog.rows, _PERCENTILES), _QUERY_BAR_S),
        "reasons": (partial(catalog.rows, _REASONS), _QUERY_BAR_S),
        "source_kinds": (partial(catalog.rows, _BY_KIND), _QUERY_BAR_S),
        "what_if": (partial(read_what_if, catalog, recipe_id=recipe_id, bounds=bounds, where="true"), None),
        "opening": (partial(Catalog, root), None),
        "avgen_status": (
            partial(subprocess.run, status, check=True, stdout=subprocess.DEVNULL),
            _STATUS_BAR_S,
        ),
    }
    for case, (ask, bar) in questions.items():
        times_s = _times_s(ask)
        p95_s = float(np.percentile(times_s, 95))
        report.add(Figure(case=case, metric="p95_s", unit="s", values=(p95_s,), bar=bar))
        report.add(Figure(case=case, metric="wall_s", unit="s", values=times_s))


def _times_s(ask: Callable[[], object]) -> tuple[float, ...]:
    times_s = []
    for _ in range(_NUM_QUESTIONS + 1):
        begin_s = time.perf_counter()
        ask()
        times_s.append(time.perf_counter() - begin_s)
    return tuple(times_s[1:])


def _commit(report: Report, root: Path) -> None:
    lake = Lake(root)
    lake.create()
    times_s = []
    most_files = 0
    for number in range(_NUM_COMMITS):
        rows = [
            {"clip_id": f"{number:08d}-{place}", "source_id": f"{number:016x}", "snr_db": float(place)}
            for place in range(_ROWS_PER_COMMIT)
        ]
        begin_s = time.perf_counter()
        lake.commit({"clips": rows}, run_id="bench", batch_index=number)
        times_s.append(time.perf_counter() - begin_s)
        if number % 10 == 0:
            most_files = max(most_files, _num_files(root))
    report.add(Figure(case="commits", metric="most_live_files", unit="files", values=(most_files,), bar=64))
    tenth = _NUM_COMMITS // 10
    report.add(Figure(case="first tenth", metric="commit_s", unit="s", values=tuple(times_s[:tenth])))
    report.add(Figure(case="last tenth", metric="commit_s", unit="s", values=tuple(times_s[-tenth:])))
    num_rows = Catalog(root).rows("select count(*), count(distinct clip_id) from clips")
    assert num_rows == [(_NUM_COMMITS * _ROWS_PER_COMMIT,) * 2], num_rows


def _num_files(root: Path) -> int:
    return len(live_tables(root)["clips"].files)


if __name__ == "__main__":
    main()
