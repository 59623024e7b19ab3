"""Versions of datasets without what is forgotten: shards and index written anew, manifest last.

A shard that several versions use is written once. Its new entry and its rows of the index are set aside as a part
until all is done; from the part every version takes what is true of the shard now. Every step may be done again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import file_digest
from math import fsum
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infra.config import canonical_json
from infra.errors import IntegrityError
from infra.store import Store
from pipeline.catalog import Catalog
from pipeline.forget_bundles import cut_tar, tar_members
from pipeline.forget_intent import PARTS, Intent
from pipeline.pack_dataset import finished_versions
from pipeline.remake_card import list_files, remade_card
from shards.manifest import (
    INDEX_NAME,
    MANIFEST_NAME,
    Manifest,
    ShardEntry,
    SplitEntry,
    member_columns,
    shard_key,
    version_key,
)
from shards.reader import read_manifest
from shards.schema import SAMPLE_MEMBERS, source_of
from shards.strict_json import parse_object
from shards.wids import list_name, wids_name
from shards.writer import write_index, write_manifest

_ENTRY = b"shard"
_NUM_DECIMALS = 3
"""Durations are sums of whole milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldSamples:
    """What a version holds of what is to go."""

    dataset: str
    version: int
    num_samples: int
    shards: tuple[ShardEntry, ...]
    """Those that hold it."""


@dataclass(slots=True)
class _Rest:
    """What is left of a version, gathered while its index is written."""

    entries: list[ShardEntry] = field(default_factory=list)
    durations_s: dict[str, list[float]] = field(default_factory=dict)
    source_hashes: list[NDArray[np.int64]] = field(default_factory=list)

    def add(self, entry: ShardEntry, rows: pa.Table) -> None:
        self.entries.append(entry)
        self.durations_s.setdefault(entry.split, []).append(fsum(rows["duration_s"].to_pylist()))
        keys = rows["key"].to_pylist()
        self.source_hashes.append(np.array([hash(source_of(key)) for key in keys], np.int64))


def dataset_names(root: Store) -> list[str]:
    """The datasets of a root."""
    return sorted({file.key.split("/")[1] for file in root.files("datasets") if file.key.count("/") > 1})


def held_samples(root: Store, intent: Intent) -> list[HeldSamples]:
    """The finished versions that hold anything of what is to go."""
    found = []
    for name in dataset_names(root):
        versions = _versions(root, name)
        for version in finished_versions(versions):
            manifest = read_manifest(versions, version)
            numbers = {
                shard: sum(map(intent.takes, keys)) for shard, keys in _keys_by_shard(versions, version)
            }
            held = tuple(shard for shard in manifest.shards if numbers.get(shard.name))
            if held:
                num_samples = sum(numbers.values())
                found.append(HeldSamples(dataset=name, version=version, num_samples=num_samples, shards=held))
    return found


def check_shards(root: Store, held: Sequence[HeldSamples]) -> None:
    """Prove the shards that are to be written anew: what was damaged before would look sound afterwards.

    Raises:
        IntegrityError: one of them is not what its manifest says.
    """
    shards = {(one.dataset, shard_key(shard)): shard for one in held for shard in one.shards}
    for (name, key), shard in shards.items():
        versions = _versions(root, name)
        try:
            with versions.open(key) as stream:
                digest = file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
        except FileNotFoundError:
            digest = "no file"
        if digest != shard.sha256:
            raise IntegrityError(
                f"a shard must be sound before samples are taken out of it, {key} of {name} has sha256 {digest};"
                f" run `avgen repair {name}` first, nothing was forgotten"
            )


def forget_samples(root: Store, intent: Intent, catalog: Catalog, work_dir: Path) -> None:
    """Take what goes out of all versions of all datasets. What a killed pack has left goes as a whole."""
    for name in dataset_names(root):
        versions = _versions(root, name)
        parts = root.below(f"{PARTS}/{name}")
        finished = finished_versions(versions)
        _drop_unfinished(versions, finished)
        for version in finished:
            _forget_in_version(_Cut(versions, parts, intent), version, catalog, work_dir)


@dataclass(frozen=True, slots=True)
class _Cut:
    """Where shards are, where their parts are, and what goes."""

    versions: Store
    parts: Store
    intent: Intent

    def part(self, shard: ShardEntry, rows: pa.Table) -> tuple[ShardEntry | None, pa.Table] | None:
        """What is left of a shard, and its rows; `None` when nothing of it goes."""
        key = f"{shard_key(shard)}.part"
        if self.parts.size_bytes(key) is None:
            keys = rows["key"].to_pylist()
            if not any(map(self.intent.takes, keys)):
                return None
            self._write_part(key, shard, rows.filter([not self.intent.takes(name) for name in keys]))
        table = pq.read_table(pa.BufferReader(self.parts.read(key)))
        written = (table.schema.metadata or {}).get(_ENTRY)
        entry = ShardEntry(**parse_object(written, subject=key)) if written else None
        return entry, table.replace_schema_metadata(None)

    def _write_part(self, key: str, shard: ShardEntry, rows: pa.Table) -> None:
        metadata = None
        if rows.num_rows == 0:
            self.versions.delete([shard_key(shard)])
        else:
            cut_tar(self.versions, shard_key(shard), self.intent)
            rows = self._replaced(shard, rows)
            metadata = {_ENTRY: canonical_json(asdict(self._entry(shard, rows.num_rows)))}
        sink = pa.BufferOutputStream()
        pq.write_table(rows.replace_schema_metadata(metadata), sink)
        self.parts.write(key, sink.getvalue().to_pybytes())

    def _replaced(self, shard: ShardEntry, rows: pa.Table) -> pa.Table:
        """The rows with the new places; checksums stay, so that what was damaged is found to be."""
        with self.versions.open(shard_key(shard)) as stream:
            places = {(one.key, one.ext): one for one in tar_members(stream)}
        keys = rows["key"].to_pylist()
        if set(places) != {(key, ext) for key in keys for ext in SAMPLE_MEMBERS}:
            raise IntegrityError(
                f"{shard_key(shard)} of {self.versions.url} must hold what {INDEX_NAME} says, it does not;"
                " restore it, and run the command again"
            )
        for ext in SAMPLE_MEMBERS:
            column = member_columns(ext)[0]
            offsets = pa.array([places[key, ext].offset_bytes for key in keys], pa.int64())
            rows = rows.set_column(rows.schema.get_field_index(column), column, offsets)
        return rows

    def _entry(self, shard: ShardEntry, num_samples: int) -> ShardEntry:
        with self.versions.open(shard_key(shard)) as stream:
            digest = file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
        num_bytes = self.versions.size_bytes(shard_key(shard)) or 0
        return replace(shard, sha256=digest, shard_bytes=num_bytes, num_samples=num_samples)


def _forget_in_version(cut: _Cut, version: int, catalog: Catalog, work_dir: Path) -> None:
    versions, intent = cut.versions, cut.intent
    manifest = read_manifest(versions, version)
    touched = any(cut.parts.size_bytes(f"{shard_key(shard)}.part") is not None for shard in manifest.shards)
    touched = touched or any(
        intent.takes(key) for _, keys in _keys_by_shard(versions, version) for key in keys
    )
    texts = {"sql": intent.redact(manifest.sql), "mixture_json": intent.redact(manifest.mixture_json)}
    rest, index_sha256 = _Rest(), manifest.index_sha256
    if touched:
        index_sha256 = write_index(versions, version, _rest_of_index(cut, manifest, rest))
        if not rest.entries:
            _drop_version(versions, version)
            return
        manifest = _rest_of_manifest(manifest, rest, index_sha256)
    elif all(getattr(manifest, name) == text for name, text in texts.items()):
        return
    manifest = replace(manifest, sql=texts["sql"], mixture_json=texts["mixture_json"])
    _write_texts(versions, manifest, catalog, work_dir)
    write_manifest(versions, manifest)


def _rest_of_index(cut: _Cut, manifest: Manifest, rest: _Rest) -> Iterator[pa.Table]:
    """The rows of every shard that is left. The index may be the new one already; then its shards are fewer."""
    shards = {shard.name: shard for shard in manifest.shards}
    with cut.versions.open(version_key(manifest.version, INDEX_NAME)) as stream:
        file = pq.ParquetFile(stream)
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group)
            shard = shards[rows["shard"][0].as_py()]
            entry, left = cut.part(shard, rows) or (shard, rows)
            if entry is not None:
                rest.add(entry, left)
                yield left


def _rest_of_manifest(manifest: Manifest, rest: _Rest, index_sha256: str) -> Manifest:
    durations_s = {split: fsum(durations) for split, durations in rest.durations_s.items()}
    num_samples = sum(entry.num_samples for entry in rest.entries)
    return replace(
        manifest,
        num_samples=num_samples,
        num_forgotten=manifest.num_forgotten + manifest.num_samples - num_samples,
        num_sources=len(np.unique(np.concatenate(rest.source_hashes))),
        duration_s=round(fsum(durations_s.values()), _NUM_DECIMALS),
        index_sha256=index_sha256,
        splits=tuple(
            SplitEntry(
                split=split,
                num_samples=sum(entry.num_samples for entry in rest.entries if entry.split == split),
                num_shards=sum(entry.split == split for entry in rest.entries),
                duration_s=round(duration_s, _NUM_DECIMALS),
            )
            for split, duration_s in sorted(durations_s.items())
        ),
        shards=tuple(rest.entries),
    )


def _write_texts(versions: Store, manifest: Manifest, catalog: Catalog, work_dir: Path) -> None:
    """Card and lists; those of splits that are gone are deleted."""
    version = manifest.version
    with versions.local_copy(version_key(version, INDEX_NAME)) as index:
        files = remade_card(catalog, manifest, index=index, work_dir=work_dir)
    files |= list_files(manifest)
    for name, content in files.items():
        versions.write(version_key(version, name), content)
    splits = {shard.split for shard in manifest.shards}
    old = [file.key.rpartition("/")[2] for file in versions.files(f"v{version}")]
    gone = {name.removesuffix(".txt") for name in old if name.endswith(".txt")} - splits
    names = [name for split in sorted(gone) for name in (list_name(split), wids_name(split))]
    versions.delete([version_key(version, name) for name in names])


def _drop_version(versions: Store, version: int) -> None:
    """A version of which nothing is left."""
    versions.delete([version_key(version, MANIFEST_NAME)])
    versions.delete([file.key for file in versions.files(f"v{version}")])


def _drop_unfinished(versions: Store, finished: Sequence[int]) -> None:
    """What killed packs left; shards that a finished version uses stay wherever they lie."""
    used = {shard_key(shard) for version in finished for shard in read_manifest(versions, version).shards}
    folders = {f"v{version}" for version in finished}
    left = [file.key for file in versions.files() if file.key.split("/")[0] not in folders]
    versions.delete([key for key in left if key not in used])
    for folder in {key.split("/")[0] for key in (file.key for file in versions.files())} | {""}:
        versions.sweep(folder)


def _keys_by_shard(versions: Store, version: int) -> Iterator[tuple[str, list[str]]]:
    with versions.open(version_key(version, INDEX_NAME)) as stream:
        file = pq.ParquetFile(stream)
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, ["key", "shard"])
            yield rows["shard"][0].as_py(), rows["key"].to_pylist()


def _versions(root: Store, name: str) -> Store:
    return root.below(f"datasets/{name}")
