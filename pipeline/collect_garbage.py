"""Finds and removes what nothing names any more: bundles, media, downloads, versions that were not finished."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from crawl.fetch import part_name
from infra.errors import ConfigError
from infra.root import Root, open_root
from infra.store import TEMP_SUFFIX, LocalStore, Store
from infra.store_lock import exclusive_store
from pipeline.catalog import Catalog
from pipeline.forget_shards import dataset_names
from pipeline.lake import Lake
from pipeline.pack_dataset import finished_versions
from pipeline.run_record import start_run
from shards.manifest import MANIFEST_NAME, Manifest, shard_key, version_key
from shards.reader import read_manifest

_UNNAMED = "select key, num_bytes from read_parquet('{found}') anti join ({named}) using (key) order by key"
_BUNDLES = "select unnest([bundle_key, embedding_key]) as key from raw.clips"
_MEDIA = "select media_key as key from fetches"
# A training that was killed may go on.
_TRAINED = """
select distinct recipe_json->>'$.dataset' from runs where command = 'train' and run_id not in (
    select run_id from runs where command = 'train' and state = 'done')
"""
_PARQUET_ROWS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphans:
    """Files of one kind that nothing names."""

    kind: str
    """`bundles`, `media`, `partial`, `unfinished_versions`, `shards`, `old_versions`, `temporary`."""
    num_bytes: int
    keys: tuple[str, ...]
    """In the store; of `partial` and `temporary` local paths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GcPlan:
    """What would be removed now."""

    root: Root
    versions_keep: int | None
    """How many versions of a dataset stay; all when not given."""
    orphans: tuple[Orphans, ...]
    old_versions: tuple[tuple[str, int], ...]
    """Dataset and version of those that go because they are old."""


def plan_gc(root: str, *, versions_keep: int | None = None) -> GcPlan:
    """Look for what nothing names. Nothing is changed.

    Raises:
        ConfigError: a run is writing to the root, whose files no table names yet; or no version would stay.
    """
    if versions_keep is not None and versions_keep < 1:
        raise ConfigError(f"--versions-keep must be at least 1, got {versions_keep}")
    home = open_root(root, create=False)
    with exclusive_store(home.store) as lock:
        Lake(home.store, lock=lock).create()
        return _plan(home, versions_keep)


def collect_garbage(plan: GcPlan) -> GcPlan:
    """Remove it; what was removed. It is looked for anew, and what came to be named since stays.

    Raises:
        ConfigError: a run is writing to the root.
    """
    root = plan.root
    with exclusive_store(root.store) as lock:
        run = start_run(root, "gc", recipe_id="", settings_json="{}", lock=lock)
        with run.marked_at_its_end():
            now = _plan(root, plan.versions_keep)
            if now.old_versions:
                versions = " or ".join(
                    f"(dataset = '{name}' and version = {k})" for name, k in now.old_versions
                )
                run.lake.delete(dict.fromkeys(("datasets", "shards", "samples"), versions))
                # Without its manifest a version is none, whatever of it is left.
                root.store.delete(_manifest_key(name, k) for name, k in now.old_versions)
            for orphans in now.orphans:
                if orphans.kind in ("partial", "temporary"):
                    for key in orphans.keys:
                        Path(key).unlink(missing_ok=True)
                else:
                    root.store.delete(orphans.keys)
            _drop_empty_folders(root.partial_dir)
    return now


def _plan(root: Root, versions_keep: int | None) -> GcPlan:
    catalog, store = Catalog(root), root.store
    root.tmp_dir.mkdir(parents=True, exist_ok=True)
    old = [
        (name, k) for name in dataset_names(store) for k in _old_versions(store, name, versions_keep, catalog)
    ]
    dropped = set(catalog.dropped_media_keys())
    media = _unnamed(root, catalog, "media", _MEDIA)
    media += [(key, store.size_bytes(key) or 0) for key in dropped if store.size_bytes(key) is not None]
    by_kind = {
        "bundles": _unnamed(root, catalog, "staged", _BUNDLES),
        "media": sorted(set(media)),
        "partial": list(_partial(root, catalog)),
        **_dataset_orphans(store, old),
        "temporary": list(_temporary(root)),
    }
    return GcPlan(
        root=root,
        versions_keep=versions_keep,
        orphans=tuple(
            Orphans(kind=kind, num_bytes=sum(size for _, size in found), keys=tuple(key for key, _ in found))
            for kind, found in by_kind.items()
            if found
        ),
        old_versions=tuple(old),
    )


def _unnamed(root: Root, catalog: Catalog, folder: str, named: str) -> list[tuple[str, int]]:
    """Files below a folder that a query does not name, with their sizes."""
    found = root.tmp_dir / f"gc-{folder}.parquet"
    schema = pa.schema([("key", pa.string()), ("num_bytes", pa.int64())])
    try:
        with pq.ParquetWriter(found, schema) as writer:
            rows: list[dict[str, object]] = []
            for file in root.store.files(folder):
                rows.append({"key": file.key, "num_bytes": file.num_bytes})
                if len(rows) == _PARQUET_ROWS:
                    writer.write_table(pa.Table.from_pylist(rows, schema))
                    rows = []
            writer.write_table(pa.Table.from_pylist(rows, schema))
        quoted = str(found).replace("'", "''")
        return [(key, size) for key, size in catalog.rows(_UNNAMED.format(found=quoted, named=named))]
    finally:
        found.unlink(missing_ok=True)


def _partial(root: Root, catalog: Catalog) -> Iterator[tuple[str, int]]:
    """What was read of sources that no recipe asks for any more."""
    wanted = {part_name(url) for recipe_id in catalog.recipe_ids() for url in catalog.open_urls(recipe_id)}
    for folder in sorted(root.partial_dir.glob("*")):
        if folder.name not in wanted:
            yield from _sizes(path for path in sorted(folder.rglob("*")) if path.is_file())


def _temporary(root: Root) -> Iterator[tuple[str, int]]:
    """What killed writers left unfinished."""
    folders = {root.scratch} | ({root.store.folder} if isinstance(root.store, LocalStore) else set())
    paths = {path for folder in folders for path in folder.rglob(f".*{TEMP_SUFFIX}") if path.is_file()}
    yield from _sizes(sorted(paths))


def _sizes(paths: Iterable[Path]) -> Iterator[tuple[str, int]]:
    for path in paths:
        yield str(path), path.stat().st_size


def _old_versions(store: Store, name: str, versions_keep: int | None, catalog: Catalog) -> list[int]:
    """Versions that are not among the latest; one that a training has begun with stays."""
    if versions_keep is None:
        return []
    finished = finished_versions(store.below(f"datasets/{name}"))
    in_use = {row[0] for row in catalog.rows(_TRAINED)}
    return [k for k in finished[:-versions_keep] if f"datasets/{name}/v{k}" not in in_use]


def _dataset_orphans(store: Store, old: Iterable[tuple[str, int]]) -> dict[str, list[tuple[str, int]]]:
    """Files of datasets that belong to no version that stays."""
    kinds: dict[str, list[tuple[str, int]]] = {"old_versions": [], "unfinished_versions": [], "shards": []}
    going = set(old)
    for name in dataset_names(store):
        versions = store.below(f"datasets/{name}")
        finished = finished_versions(versions)
        staying = [read_manifest(versions, k) for k in finished if (name, k) not in going]
        named = {shard_key(shard) for manifest in staying for shard in manifest.shards}
        for file in versions.files():
            if (kind := _kind_of(file.key, finished, staying)) and file.key not in named:
                kinds[kind].append((f"datasets/{name}/{file.key}", file.num_bytes))
    return kinds


def _kind_of(key: str, finished: list[int], staying: list[Manifest]) -> str:
    """Why a file that no manifest names as a shard may go; empty when it may not."""
    folder, _, name = key.partition("/")
    if folder in {f"v{manifest.version}" for manifest in staying}:
        return "shards" if name.endswith((".tar", ".part", ".plan")) else ""
    return "old_versions" if folder in {f"v{k}" for k in finished} else "unfinished_versions"


def _manifest_key(name: str, version: int) -> str:
    return f"datasets/{name}/{version_key(version, MANIFEST_NAME)}"


def _drop_empty_folders(folder: Path) -> None:
    for path in sorted(folder.glob("*")):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
