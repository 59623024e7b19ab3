"""Stage: planned shard -> shard. The bytes are copied out of bundles, nothing is decoded.

Beside every finished shard lies its part: its entry in the manifest and its rows in the index, written after it
and gone when the version is whole. So a pack that was killed knows which shards it need not write again; a plan
that lies there under its hash says what they are parts of.
"""

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra.config import canonical_json
from infra.errors import ConfigError
from infra.store import Store
from pipeline.shard_plan import PLAN_NAME, read_plan
from shards.manifest import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    MemberRecord,
    ShardEntry,
    ShardRecord,
    index_table,
    member_columns,
    version_key,
)
from shards.plan import PlannedShard
from shards.reader import read_staged_clip
from shards.schema import BUNDLE_MEMBERS, EMBEDDING_MEMBERS, EmbeddingModels, StagedMeta
from shards.strict_json import parse_object
from shards.writer import ShardWriter

_PART_SUFFIX, _PLAN_SUFFIX = ".part", ".plan"
_ENTRY = b"shard"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_MANIFEST_KEY = re.compile(rf"v([1-9][0-9]*)/{re.escape(MANIFEST_NAME)}")
_SHARD_KEY = re.compile(r"v(?P<version>[1-9][0-9]*)/(?P<split>[a-z][a-z0-9_]*)-(?P<index>[0-9]{6})\.tar")
_COPY_BYTES = 8 << 20
_NUM_READERS, _NUM_AHEAD = 4, 8
"""Threads that read clips while others are written, and clips that may wait for it. Assumption, not measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTask:
    """One shard to be written."""

    root: Store
    """Holds the bundles."""
    versions: Store
    """Holds the versions of the dataset."""
    version: int
    plan_key: str
    """Of the plan, in `versions`."""
    models: EmbeddingModels
    shard: PlannedShard


def check_dataset_name(name: str) -> None:
    """Raises `ConfigError` unless `name` can be a folder and a column value."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"a dataset name must be 1 to 64 letters, digits, _ and -, got {name!r}")


def write_shard(task: ShardTask) -> ShardEntry:
    """Write one shard and then its part; its entry in the manifest.

    Raises:
        IntegrityError: a bundle is missing or does not hold the bytes that the lake says.
    """
    with task.versions.open(task.plan_key) as stream:
        rows = read_plan(stream, task.shard)
    with ShardWriter(task.versions, version_key(task.version, task.shard.name)) as writer:
        for row, members in zip(rows, _read_ahead(rows, task), strict=True):
            writer.write(row["clip_id"], members)
    entry = _entry(writer.record, task)
    table = index_table(
        writer.record, split=entry.split, durations_s=[row["duration_s"] for row in rows]
    ).replace_schema_metadata({_ENTRY: canonical_json(asdict(entry))})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    task.versions.write(part_key(task.version, entry.name), sink.getvalue().to_pybytes())
    return entry


def part_key(version: int, shard_name: str) -> str:
    """Key of the part of a shard."""
    return version_key(version, f"{shard_name}{_PART_SUFFIX}")


def read_part(versions: Store, version: int, shard_name: str) -> tuple[ShardEntry, pa.Table]:
    """A finished shard of a version that is being made: its entry and its rows of the index."""
    data = versions.read(part_key(version, shard_name))
    table = pq.read_table(pa.BufferReader(data))
    entry = ShardEntry(**parse_object(table.schema.metadata[_ENTRY], subject=f"part of {shard_name}"))
    return entry, table.replace_schema_metadata(None)


def finished_shards(versions: Store, version: int) -> set[str]:
    """Names of the shards of a version that is being made which are whole already."""
    names = (PurePosixPath(file.key).name for file in versions.files(f"v{version}"))
    return {name.removesuffix(_PART_SUFFIX) for name in names if name.endswith(_PART_SUFFIX)}


def adopt_plan(versions: Store, version: int, plan: Store) -> str:
    """Key of the plan in the folder of the version that is to be made by it.

    What was made by another plan is deleted; what was made by this one stays.

    Args:
        plan: holds the plan under `PLAN_NAME`.
    """
    digest = sha256()
    for block in _blocks(plan):
        digest.update(block)
    key = version_key(version, f"{digest.hexdigest()}{_PLAN_SUFFIX}")
    versions.sweep(f"v{version}")
    if versions.size_bytes(key) is None:
        versions.delete([file.key for file in versions.files(f"v{version}")])
        copy = versions.create(key)
        try:
            for block in _blocks(plan):
                copy.write(block)
            copy.commit()
        finally:
            copy.discard_unless_committed()
    return key


def drop_parts(versions: Store, version: int) -> None:
    """Delete what a finished version needed only while it was made."""
    keys = [file.key for file in versions.files(f"v{version}")]
    versions.delete([key for key in keys if key.endswith((_PART_SUFFIX, _PLAN_SUFFIX))])


def finished_versions(versions: Store) -> list[int]:
    """The versions whose manifest is in place, ascending."""
    matches = (_MANIFEST_KEY.fullmatch(file.key) for file in versions.files())
    return sorted(int(match[1]) for match in matches if match)


def is_readable(versions: Store, version: int) -> bool:
    """Whether a finished version is of the format of today."""
    data = versions.read(version_key(version, MANIFEST_NAME))
    return parse_object(data, subject=MANIFEST_NAME).get("format_version") == FORMAT_VERSION


def latest_version(versions: Store) -> int:
    """The highest finished version; 0 when there is none."""
    return max(finished_versions(versions), default=0)


def next_indices(versions: Store, latest: int) -> dict[str, int]:
    """For every split one more than the highest index of a shard in any version up to `latest`."""
    found: dict[str, int] = {}
    for file in versions.files():
        match = _SHARD_KEY.fullmatch(file.key)
        if match and int(match["version"]) <= latest:
            found[match["split"]] = max(found.get(match["split"], 0), int(match["index"]) + 1)
    return found


def _blocks(plan: Store) -> Iterator[bytes]:
    with plan.open(PLAN_NAME) as stream:
        while block := stream.read(_COPY_BYTES):
            yield block


def _entry(record: ShardRecord, task: ShardTask) -> ShardEntry:
    return ShardEntry(
        name=record.name,
        split=task.shard.split,
        home_version=task.version,
        sha256=record.sha256,
        shard_bytes=record.shard_bytes,
        num_samples=record.num_samples,
    )


def _read_ahead(rows: Iterable[Mapping[str, Any]], task: ShardTask) -> Iterator[dict[str, bytes]]:
    """Members of the samples in order, read by threads while the caller works on those before."""
    pool = ThreadPoolExecutor(max_workers=_NUM_READERS, thread_name_prefix="clips")
    pending: deque[Future[dict[str, bytes]]] = deque()
    try:
        for row in rows:
            pending.append(pool.submit(_members, row, task))
            if len(pending) > _NUM_AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _members(row: Mapping[str, Any], task: ShardTask) -> dict[str, bytes]:
    """Members of a sample: those of the staged clip and its embeddings, the json with the models' names."""
    media = read_staged_clip(task.root, row["bundle_key"], _places(row, BUNDLE_MEMBERS))
    meta = StagedMeta.from_json_bytes(media["json"]).with_embeddings(task.models)
    embeddings = read_staged_clip(task.root, row["embedding_key"], _places(row, EMBEDDING_MEMBERS))
    return media | {"json": meta.to_json_bytes()} | embeddings


def _places(row: Mapping[str, Any], extensions: Sequence[str]) -> list[MemberRecord]:
    return [
        MemberRecord(row["clip_id"], ext, *(row[column] for column in member_columns(ext)))
        for ext in extensions
    ]
