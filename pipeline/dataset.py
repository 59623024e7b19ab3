"""A dataset version: query, plan, shards, manifest, and the lake's record of them. Started by `avgen pack`."""

from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from infra.config import canonical_json
from infra.errors import ConfigError
from infra.storage import fresh_folder, open_root
from infra.telemetry import progress
from pipeline.catalog import Catalog
from pipeline.lake import Lake
from pipeline.lake_rows import Row
from pipeline.pack_dataset import (
    Selection,
    check_dataset_name,
    finished_versions,
    latest_version,
    make_manifest,
    plan_shares,
    same_content,
    select_clips,
    selection_sql,
    write_share,
)
from pipeline.ray_adapter import run_shares
from pipeline.run_record import Run, start_run
from shards.manifest import Manifest, ShardRecord
from shards.reader import read_manifest
from shards.schema import source_of
from shards.writer import write_manifest

_SHARD_MEMORY_MIB = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetRequest:
    """A checked request to pack."""

    name: str
    root: Path
    recipe_id: str
    where: str
    samples_per_shard: int
    seed: int

    @property
    def versions_dir(self) -> Path:
        """Folder of the dataset's versions."""
        return self.root / "datasets" / self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSummary:
    """What a packed version holds."""

    name: str
    version: int
    folder: str
    num_shards: int
    num_samples: int
    num_sources: int
    duration_s: float
    num_bytes: int
    written: bool
    """False when the latest version already was what was asked for."""


def plan_dataset(
    name: str, root: str, where: str, samples_per_shard: int, seed: int, recipe_id: str | None
) -> DatasetRequest:
    """Check a request before anything is started.

    Args:
        recipe_id: whose clips are meant; those of the latest finished run when not given.

    Raises:
        ConfigError: a bad name, an empty root, a condition that is not SQL or that selects nothing.
    """
    check_dataset_name(name)
    if samples_per_shard < 1:
        raise ConfigError(f"--samples-per-shard must be at least 1, got {samples_per_shard}")
    path = open_root(root, create=False)
    catalog = Catalog(path)
    meant_recipe_id = catalog.meant_recipe_id(recipe_id)
    # The clips themselves, with their embeddings, are read once, when the shards are planned.
    selection_sql(catalog, recipe_id=meant_recipe_id, where=where)
    return DatasetRequest(
        name=name,
        root=path,
        recipe_id=meant_recipe_id,
        where=where,
        samples_per_shard=samples_per_shard,
        seed=seed,
    )


def build(request: DatasetRequest) -> DatasetSummary:
    """Write the next version, or return the latest one when it already holds what is asked for.

    A killed build leaves a version without a manifest, which the next build writes again, byte for byte, or one
    that the lake does not know of, which the next build records.
    """
    # What a killed run had committed may still be in the journal, and is to be selected from.
    Lake(request.root).create()
    selection = select_clips(Catalog(request.root), recipe_id=request.recipe_id, where=request.where)
    run = start_run(
        request.root, "build-dataset", recipe_id=selection.recipe_id, settings_json=_settings_json(request)
    )
    with run.marked_at_its_end():
        manifest, written = _manifest_of(request, selection)
        _record_versions(request, run)
    return DatasetSummary(
        name=manifest.name,
        version=manifest.version,
        folder=str(request.versions_dir / f"v{manifest.version}"),
        num_shards=len(manifest.shards),
        num_samples=manifest.num_samples,
        num_sources=manifest.num_sources,
        duration_s=manifest.duration_s,
        num_bytes=sum(shard.shard_bytes for shard in manifest.shards),
        written=written,
    )


def _manifest_of(request: DatasetRequest, selection: Selection) -> tuple[Manifest, bool]:
    latest = latest_version(request.versions_dir)
    if latest:
        manifest = read_manifest(request.versions_dir / f"v{latest}")
        if same_content(manifest, selection, seed=request.seed, samples_per_shard=request.samples_per_shard):
            return manifest, False
    dataset_dir = request.versions_dir / f"v{latest + 1}"
    fresh_folder(dataset_dir)  # Without a manifest, what is there is half of another attempt.
    shards = _write_all(request, selection, dataset_dir)
    manifest = make_manifest(
        selection,
        shards,
        name=request.name,
        version=latest + 1,
        seed=request.seed,
        samples_per_shard=request.samples_per_shard,
    )
    write_manifest(dataset_dir, manifest)
    return manifest, True


def _write_all(request: DatasetRequest, selection: Selection, dataset_dir: Path) -> list[ShardRecord]:
    shares = plan_shares(
        selection,
        root=request.root,
        dataset_dir=dataset_dir,
        seed=request.seed,
        samples_per_shard=request.samples_per_shard,
    )
    records: list[ShardRecord] = []
    with progress("shards", total=len(shares)) as advance:
        for record in run_shares(shares, write_share, memory_mib=_SHARD_MEMORY_MIB):
            records.append(record)
            advance(len(records), f"{sum(r.shard_bytes for r in records):,} bytes")
    return records


def _record_versions(request: DatasetRequest, run: Run) -> None:
    """Tell the lake of every finished version that it does not know."""
    known = Catalog(request.root).query("select version from datasets where dataset = ?", [request.name])
    known_versions = set(known.column("version").to_pylist())
    for version in finished_versions(request.versions_dir):
        if version not in known_versions:
            run.commit(
                _dataset_rows(read_manifest(request.versions_dir / f"v{version}"), request, run.run_id)
            )


def _dataset_rows(manifest: Manifest, request: DatasetRequest, run_id: str) -> dict[str, list[Row]]:
    version = {"dataset": manifest.name, "version": manifest.version}
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
        "manifest_sha256": sha256(manifest.to_bytes()).hexdigest(),
        "packed_at": datetime.now(UTC),
    }
    shards = [
        version
        | {
            "shard": shard.name,
            "uri": str(request.versions_dir / f"v{manifest.version}" / shard.name),
            "sha256": shard.sha256,
            "shard_bytes": shard.shard_bytes,
            "num_samples": shard.num_samples,
        }
        for shard in manifest.shards
    ]
    samples = [
        version
        | {
            "clip_id": key,
            "source_id": source_of(key),
            "shard": shard.name,
            "offset_bytes": members[0].offset_bytes,
        }
        for shard in manifest.shards
        for key, members in shard.by_key().items()
    ]
    return {"datasets": [dataset], "shards": shards, "samples": samples}


def _settings_json(request: DatasetRequest) -> str:
    return canonical_json(
        {
            "name": request.name,
            "where": request.where,
            "samples_per_shard": request.samples_per_shard,
            "seed": request.seed,
        }
    ).decode()
