"""Planning a long list: a CSV like AudioSet's until all of it is in the lake and queued; `avgen status` then."""

import random
import string
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from crawl.web import Web
from infra.storage import exclusive
from pipeline.feed import Feed
from pipeline.ingest import plan_ingest
from pipeline.list_sources import Lister
from pipeline.run_record import start_run
from tests.bench.report import NUM_ROUNDS, Figure, Report, say

_NUM_LINES = 50_000
_PLAN_MAX_S, _STATUS_MAX_S = 10.0, 2.0
_ID_LETTERS = string.ascii_letters + string.digits + "-_"


def main() -> None:
    """Measure and report."""
    report = Report(
        "crawl_plan",
        settings={"num_lines": _NUM_LINES},
        num_warm_ups=1,
        ceiling="none: wall time against a bar",
    )
    with tempfile.TemporaryDirectory(prefix="avgen-bench-") as folder:
        table = Path(folder, "segments.csv")
        _write_segments(table)
        plan_s, status_s = [], []
        _status_s(_planned(table, Path(folder, "warm-up"))[1])
        for number in range(NUM_ROUNDS):
            say(f"round {number + 1} of {NUM_ROUNDS}")
            seconds, root = _planned(table, Path(folder, f"root{number}"))
            plan_s.append(seconds)
            status_s.append(_status_s(root))
    report.add(Figure(case="plan", metric="wall_s", unit="s", values=tuple(plan_s), bar=_PLAN_MAX_S))
    report.add(
        Figure(case="avgen status", metric="wall_s", unit="s", values=tuple(status_s), bar=_STATUS_MAX_S)
    )
    report.save()


def _write_segments(path: Path) -> None:
    rng = random.Random(0)
    lines = ["# Segments csv", "# num_ytids=50000", "# YTID, start_seconds, end_seconds, positive_labels"]
    for _ in range(_NUM_LINES):
        start_s = rng.randrange(300)
        lines.append(
            f'{"".join(rng.choices(_ID_LETTERS, k=11))}, {start_s}.000, {start_s + 10}.000, "/m/09x0r"'
        )
    path.write_text("\n".join(lines))


def _planned(table: Path, root: Path) -> tuple[float, Path]:
    """Seconds until every line is checked, in the lake and queued; and the root."""
    before_s = time.perf_counter()
    plan = plan_ingest([f"audioset:{table}"], str(root), "default", [])
    with exclusive(root):
        run = start_run(
            root, "ingest", recipe_id=plan.recipe.recipe_id, settings_json=plan.recipe.model_dump_json()
        )
        web = Web.opened(plan.recipe.fetch)
        lister = Lister(plan.specs, web=web, run=run, feed=Feed(plan.recipe.fetch, root))
        lister.start()
        lister.has_ended(timeout_s=600)
        lister.finish()
        seconds = time.perf_counter() - before_s
        web.close()
        run.mark("done")
    assert lister.num_added == _NUM_LINES
    return seconds, root


def _status_s(root: Path) -> float:
    before_s = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "status", "--root", str(root)], check=True, capture_output=True
    )
    return time.perf_counter() - before_s


if __name__ == "__main__":
    main()
