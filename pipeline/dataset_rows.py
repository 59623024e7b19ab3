"""What the lake records of a finished version: rows of `datasets`, `shards` and `samples`.

The samples come first, in batches that are numbered by the version and not by the run: whoever goes on with a
record that was cut short commits the same batches again, and the lake passes over those that it has.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.config import canonical_json
from infra.store import Store
from pipeline.catalog import Catalog
from pipeline.lake_rows import Row
from pipeline.make_version import DatasetRequest, recipe_json
from pipeline.pack_dataset import finished_versions, is_readable
from pipeline.run_record import Run
from shards.manifest import INDEX_NAME, Manifest, shard_key, version_key
from shards.reader import read_manifest

_ROWS_PER_COMMIT = 100_000
_SOURCE_OF_KEY = r"^(.*)-[^-]*-[^-]*$"
"""As `shards.schema.source_of`."""


def record_versions(request: DatasetRequest, run: Run) -> None:
    """Tell the lake of every finished version that it does not know."""
    known = Catalog(request.root).rows("select version from datasets where dataset = ?", [request.name])
    for version in finished_versions(request.versions):
        if (version,) not in known and is_readable(request.versions, version):
            manifest = read_manifest(request.versions, version)
            run_id = f"{request.name}-v{version}"
            for batch_index, table in enumerate(sample_tables(request.versions, manifest)):
                run.lake.commit({"samples": table.to_pylist()}, run_id=run_id, batch_index=batch_index)
            run.commit(_version_rows(manifest, request, run.run_id))


def sample_tables(versions: Store, manifest: Manifest) -> Iterator[pa.Table]:
    """Rows of `samples`, in the order of the index, some at a time."""
    columns = ["key", "shard", "split", "mp4_offset_bytes"]
    with versions.local_copy(version_key(manifest.version, INDEX_NAME)) as path:
        for batch in pq.ParquetFile(path).iter_batches(_ROWS_PER_COMMIT, columns=columns):
            key, shard, split, offset_bytes = batch.columns
            yield pa.table(
                {
                    "dataset": pa.repeat(manifest.name, len(key)),
                    "version": pa.repeat(pa.scalar(manifest.version, pa.int32()), len(key)),
                    "split": split,
                    "clip_id": key,
                    "source_id": pc.replace_substring_regex(key, _SOURCE_OF_KEY, r"\1"),
                    "shard": shard,
                    "offset_bytes": offset_bytes,
                }
            )


def _version_rows(manifest: Manifest, request: DatasetRequest, run_id: str) -> dict[str, list[Row]]:
    version = {"dataset": manifest.name, "version": manifest.version}
    recipe = recipe_json(request.recipe)
    is_its_recipe = sha256(recipe.encode()).hexdigest() == manifest.recipe_sha256
    dataset = version | {
        "recipe_id": manifest.recipe_id,
        "run_id": run_id,
        "sql": manifest.sql,
        "seed": manifest.seed,
        "samples_per_shard": manifest.samples_per_shard,
        "num_samples": manifest.num_samples,
        "num_sources": manifest.num_sources,
        "num_shards": len(manifest.shards),
        "duration_s": manifest.duration_s,
        "mixture_json": manifest.mixture_json,
        "recipe_json": recipe if is_its_recipe else None,
        "lake_version": canonical_json(dict(manifest.lake_version)).decode(),
        "manifest_sha256": sha256(manifest.to_bytes()).hexdigest(),
        "packed_at": datetime.now(UTC),
    }
    shards = [
        version
        | {
            "split": shard.split,
            "shard": shard.name,
            "home_version": shard.home_version,
            "uri": f"{request.versions.url}/{shard_key(shard)}",
            "sha256": shard.sha256,
            "shard_bytes": shard.shard_bytes,
            "num_samples": shard.num_samples,
        }
        for shard in manifest.shards
    ]
    return {"datasets": [dataset], "shards": shards}
