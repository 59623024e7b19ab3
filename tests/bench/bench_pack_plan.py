"""Planning the shards of a synthetic lake of ten million kept clips: selection, global shuffle, plan on disk."""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb
from deltalake import write_deltalake

from pipeline.catalog import Catalog
from pipeline.dedup_config import DedupConfig
from pipeline.lake import Lake
from pipeline.lake_tables import table_schemas
from pipeline.mixture import DatasetConfig
from pipeline.recipe import Recipe
from pipeline.select_clips import select_clips
from pipeline.shard_plan import PLAN_MEMORY_MIB, PackSettings, plan_version
from tests.bench.report import Figure, Report, say

_NUM_CLIPS = 10_000_000
_CLIPS_PER_SOURCE = 4
_RECIPE_ID = "0123456789ab"
_SAMPLES_PER_SHARD = 1000
_BAR_S, _BAR_MIB = 60.0, 2048.0
_PLAN = "--plan"
_CLIPS = """
select printf('%016x', hash(n // {per_source})) as source_id, n % {per_source} as place,
       printf('%s-%08d-%08d', source_id, 10000 * place, 10000 * (place + 1)) as clip_id,
       '{recipe_id}' as recipe_id, 'run' as run_id, 'measure' as stage, 0::integer as pass_index,
       10.0::double * place as start_s, 10.0::double * (place + 1) as end_s,
       10.5 + (hash(n, 'snr_db') % 4000)::double / 100 as snr_db,
       printf('staged/%s/%s-{recipe_id}.tar', source_id[:2], source_id) as bundle_key,
       512 + 610000 * place as mp4_offset_bytes, 400000 + (hash(n, 'mp4') % 9999)::bigint as mp4_bytes,
       (hash(n, 'mp4') % 4294967296)::bigint as mp4_crc32,
       mp4_offset_bytes + mp4_bytes + 1024 as flac_offset_bytes,
       180000 + (hash(n, 'flac') % 9999)::bigint as flac_bytes,
       (hash(n, 'flac') % 4294967296)::bigint as flac_crc32,
       flac_offset_bytes + flac_bytes + 1024 as json_offset_bytes, 800 + n % 100 as json_bytes,
       (hash(n, 'json') % 4294967296)::bigint as json_crc32,
       replace(bundle_key, '.tar', '.npy.tar') as embedding_key,
       512 + 13824 * place as clip_npy_offset_bytes, 10368::bigint as clip_npy_bytes,
       (hash(n, 'clip') % 4294967296)::bigint as clip_npy_crc32,
       11776 + 13824 * place as clap_npy_offset_bytes, 1152::bigint as clap_npy_bytes,
       (hash(n, 'clap') % 4294967296)::bigint as clap_npy_crc32
from range({num_clips}) numbers(n)
"""
_EMBEDDINGS = """
select '{recipe_id}' as recipe_id, kind as model_kind, 'tiny' as model, 'untrained' as weights
from (values ('clip'), ('clap')) kinds(kind)
"""
_RUNS = """
select 'run' as run_id, 'ingest' as command, 'done' as state, '{recipe_id}' as recipe_id, '{{}}' as recipe_json,
       now() as recorded_at
"""


def make_lake(root: Path, *, num_clips: int) -> None:
    """A lake in which every clip is kept and embedded; its sources have no channels."""
    clips = _CLIPS.format(num_clips=num_clips, per_source=_CLIPS_PER_SOURCE, recipe_id=_RECIPE_ID)
    embeddings, runs = (sql.format(recipe_id=_RECIPE_ID) for sql in (_EMBEDDINGS, _RUNS))
    Lake(root).create()
    connection = duckdb.connect(config={"memory_limit": "1GiB"})
    for name, sql in {"clips": clips, "embeddings": embeddings, "runs": runs}.items():
        names = [row[0] for row in connection.sql(f"describe {sql}").fetchall()]
        columns = ", ".join(column for column in table_schemas()[name].names if column in names)
        rows = connection.sql(f"select {columns} from ({sql})").to_arrow_reader(100_000)
        write_deltalake(str(root / "lake" / name), rows, mode="append", schema_mode="merge")


def plan(root: Path) -> None:
    """Select and plan as `avgen pack` does, in this process; its figures as JSON on stdout."""
    catalog = Catalog(root, memory_mib=PLAN_MEMORY_MIB)
    begin_s = time.perf_counter()
    selection = select_clips(
        catalog,
        recipe_id=_RECIPE_ID,
        bounds=Recipe().bounds,
        where="true",
        config=DatasetConfig(),
        dedup=DedupConfig(),
        dataset="bench",
        seed=0,
    )
    selected_s = time.perf_counter()
    planned = plan_version(
        catalog,
        selection,
        PackSettings(seed=0, samples_per_shard=_SAMPLES_PER_SHARD),
        previous=None,
        next_index={},
        work_dir=root,
    )
    print(
        json.dumps(
            {
                "select_s": selected_s - begin_s,
                "plan_s": time.perf_counter() - selected_s,
                "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "num_samples": sum(shard.num_samples for shard in planned.shards),
                "num_shards": len(planned.shards),
                "plan_bytes": planned.path.stat().st_size,
            }
        )
    )


def main(num_clips: int) -> None:
    """Measure and report."""
    report = Report(
        "pack_plan",
        settings={
            "num_clips": num_clips,
            "samples_per_shard": _SAMPLES_PER_SHARD,
            "memory_mib": PLAN_MEMORY_MIB,
        },
        num_warm_ups=0,
        ceiling="none",
    )
    with tempfile.TemporaryDirectory(prefix="avgen-bench-") as folder:
        root = Path(folder)
        say(f"making a lake of {num_clips:,} clips")
        make_lake(root, num_clips=num_clips)
        say("planning")
        command = [sys.executable, "-m", "tests.bench.bench_pack_plan", _PLAN, folder]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    say(done.stdout.strip())
    for metric, unit, bar in (
        ("plan_s", "s", _BAR_S),
        ("select_s", "s", None),
        ("peak_mib", "MiB", _BAR_MIB),
    ):
        report.add(
            Figure(case=f"{num_clips} clips", metric=metric, unit=unit, values=(found[metric],), bar=bar)
        )
    report.save()


if __name__ == "__main__":
    if sys.argv[1:2] == [_PLAN]:
        plan(Path(sys.argv[2]))
    else:
        main(int(sys.argv[1]) if sys.argv[1:] else _NUM_CLIPS)
