"""Peak memory of one curate worker, with its reading child, on a 1080p source of two hours.

The worker is the pipeline's actor in a process that holds what a Ray worker holds.
"""

import os
import tempfile
from pathlib import Path

from pipeline.recipe import load_recipe
from tests.bench.corpus import corpus_files
from tests.bench.media_sources import LONG_1080P, make_long
from tests.bench.one_actor import actor_peak, write_rows
from tests.bench.process_tree import SAMPLE_PAUSE_S
from tests.bench.report import Figure, Report, say
from tests.stored import store

_RECIPE = "default"
_MAX_MIB = 400
_NUM_PLAYS = 60
_CASE = "curate worker, 2 hours of 1080p"


def main() -> None:
    """Measure and report."""
    recipe = load_recipe(_RECIPE, [])
    report = Report(
        "media_memory",
        settings={"recipe_id": recipe.recipe_id, "num_plays": _NUM_PLAYS, "sample_pause_s": SAMPLE_PAUSE_S},
        inputs=corpus_files(LONG_1080P),
        num_warm_ups=0,
        ceiling="none; sum of the proportional set sizes of worker and child: what they share counts once",
    )
    with tempfile.TemporaryDirectory(prefix="avgen-bench-") as folder:
        root, rows_in = Path(folder) / "root", Path(folder) / "rows"
        say("making and curating two hours of 1080p")
        source = store(make_long(Path(folder) / "long.mp4", _NUM_PLAYS), recipe=recipe, root=root)
        write_rows(rows_in, [{"record": (source.item, source.fetched)}])
        peak = actor_peak("curate", recipe=_RECIPE, root=root, rows_in=rows_in, rows_out=Path(os.devnull))
        if not any(root.glob("staged/*/*.tar")):
            raise SystemExit("clips of the source must be kept, none was")
    report.add(Figure(case=_CASE, metric="peak_pss_mib", unit="MiB", values=(peak.tree_mib,), bar=_MAX_MIB))
    report.add(
        Figure(case=_CASE, metric="peak_pss_without_children_mib", unit="MiB", values=(peak.main_mib,))
    )
    report.save()


if __name__ == "__main__":
    main()
