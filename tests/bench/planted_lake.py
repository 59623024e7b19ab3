"""A lake with planted copies, and what `avgen dedup` costs on it.

`python -m tests.bench.planted_lake FOLDER CLIPS` makes it, `... FOLDER` searches it.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from deltalake import write_deltalake

from infra.store_lock import exclusive_store
from pipeline.catalog import Catalog
from pipeline.dedup_run import plan_dedup, run_dedup
from pipeline.fingerprint_clip import PICTURE_KIND, PICTURE_VERSION
from tests.bench.bench_dedup import MIN_SIMILARITY, peak_mib, planted_clips
from tests.bench.made_lake import make_lake

_STAGED_RATIO = 0.5857
"""Spans of a made lake that have a clip."""


def plant_lake(root: Path, num_clips: int) -> None:
    """A lake of about so many staged clips with the picture codes of planted ones."""
    make_lake(root, num_clips=round(num_clips / _STAGED_RATIO))
    clips = _staged(root)
    codes_CB = planted_clips(len(clips)).sets.codes_MSW.view(np.uint8).reshape(len(clips), -1)
    facts = {"kind": PICTURE_KIND, "version": pa.scalar(PICTURE_VERSION, pa.int32())}
    facts["num_codes"] = pa.scalar(codes_CB.shape[1] // 32, pa.int32())
    for name, value in facts.items():
        clips = clips.append_column(name, pa.repeat(value, len(clips)))
    clips = clips.append_column("codes", pa.array([codes_B.tobytes() for codes_B in codes_CB]))
    write_deltalake(str(root / "lake" / "fingerprints"), clips, mode="append", schema_mode="merge")


def search_lake(root: Path) -> dict[str, float]:
    """Figures of `avgen dedup` on a planted lake."""
    request = plan_dedup(str(root), None, [])
    started_s, started_cpu_s = time.perf_counter(), time.process_time()
    with exclusive_store(request.root.store) as lock:
        run_dedup(request, lock=lock)
    figures = {
        "cpu_s": time.process_time() - started_cpu_s,
        "wall_s": time.perf_counter() - started_s,
        "peak_mib": peak_mib(),
    }
    clip_ids = _staged(root)["clip_id"].to_pylist()
    sql = "select clip_id, other_clip_id from duplicate_pairs where method = 'picture' and similarity >= ?"
    found = set(Catalog(root).rows(sql, [MIN_SIMILARITY]))
    copies_P2 = planted_clips(len(clip_ids)).copies_P2.tolist()
    copies = {(clip_ids[original], clip_ids[copy]) for original, copy in copies_P2}
    return figures | {
        "found_ratio": len(found & copies) / len(copies),
        "true_ratio": len(found & copies) / max(1, len(found)),
    }


def _staged(root: Path) -> pa.Table:
    return Catalog(root).query(
        "select clip_id, source_id, recipe_id, run_id from clips where mp4_bytes is not null order by clip_id"
    )


if __name__ == "__main__":
    if len(sys.argv) > 2:
        plant_lake(Path(sys.argv[1]), int(sys.argv[2]))
    else:
        print(json.dumps(search_lake(Path(sys.argv[1]))))
