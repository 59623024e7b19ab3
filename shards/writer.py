"""Samples -> tar, manifest -> files. Equal input gives equal bytes, and a file appears whole or not at all.

The headers come from `tarfile`, not from `webdataset.TarWriter`, because `import webdataset` imports torch:
4 s and 504 MiB resident in every process that stages a bundle (measured 2026-11-23, webdataset 1.0.2, torch
with CUDA). A test holds the bytes equal to those of `webdataset.TarWriter`.
"""

import tarfile
import zlib
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import PurePosixPath
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from infra.errors import IntegrityError
from infra.store import NewFile, Store
from shards.manifest import (
    INDEX_NAME,
    MANIFEST_NAME,
    Manifest,
    MemberRecord,
    ShardRecord,
    index_schema,
    version_key,
)
from shards.schema import BUNDLE_MEMBERS, EMBEDDING_MEMBERS, SAMPLE_MEMBERS, check_key

_MODE = 0o644
_LAYOUTS = (SAMPLE_MEMBERS, BUNDLE_MEMBERS, EMBEDDING_MEMBERS)


class ShardWriter:
    """Context manager that writes one tar: a shard of samples, or a bundle of a source's clips or embeddings.

    Until the block ends without an error there is nothing at `key`; then the whole file is there, and
    `record` says what it holds. After an error neither the file nor a temporary one is left. A process that
    is killed leaves a temporary file: see `Store.sweep`.
    """

    def __init__(self, store: Store, key: str) -> None:
        self._store, self._key = store, key
        self._name = PurePosixPath(key).name
        self._layout: tuple[str, ...] | None = None
        self._keys: set[str] = set()
        self._members: list[MemberRecord] = []
        self._record: ShardRecord | None = None

    def __enter__(self) -> Self:
        self._file = HashedFile(self._store.create(self._key))
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error_type is None:
                self._finish()
        finally:
            self._file.discard_unless_committed()

    @property
    def record(self) -> ShardRecord:
        """What the finished file holds; there is none before the block has ended."""
        assert self._record is not None, "the record exists once the `with` block has ended without an error"
        return self._record

    def write(self, key: str, members: Mapping[str, bytes]) -> None:
        """Append one sample (or staged clip).

        Args:
            members: bytes by extension, exactly `SAMPLE_MEMBERS`, `BUNDLE_MEMBERS` or `EMBEDDING_MEMBERS` in
                that order, and the same for all samples of a file.

        Raises:
            IntegrityError: a key with a dot, a key twice, other members, or a member without bytes. Nothing
                of the sample has been written then.
        """
        self._check(key, members)
        self._keys.add(key)
        self._layout = tuple(members)
        for ext, data in members.items():
            self._append(key, ext, data)

    def _check(self, key: str, members: Mapping[str, bytes]) -> None:
        check_key(key)
        if key in self._keys:
            raise IntegrityError(f"every key of {self._name} must be unique, got {key} twice")
        allowed = _LAYOUTS if self._layout is None else (self._layout,)
        if tuple(members) not in allowed:
            raise IntegrityError(f"members of {key} must be one of {allowed}, in order, got {tuple(members)}")
        empty = [ext for ext, data in members.items() if not data]
        if empty:
            raise IntegrityError(f"every member of {key} must have bytes, got none for {empty}")

    def _append(self, key: str, ext: str, data: bytes) -> None:
        header = tarfile.TarInfo(f"{key}.{ext}")
        header.size, header.mode = len(data), _MODE
        self._file.write(header.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict"))
        self._members.append(
            MemberRecord(
                key=key,
                ext=ext,
                offset_bytes=self._file.num_bytes,
                member_bytes=len(data),
                crc32=zlib.crc32(data),
            )
        )
        self._file.write(data)
        self._file.write(bytes(-len(data) % tarfile.BLOCKSIZE))

    def _finish(self) -> None:
        """Write the end of the tar (two empty blocks, filled up to a record) and put it in its place."""
        if not self._keys:
            raise IntegrityError(f"{self._name} must hold at least one sample, got none")
        self._file.write(bytes(2 * tarfile.BLOCKSIZE))
        self._file.write(bytes(-self._file.num_bytes % tarfile.RECORDSIZE))
        self._file.commit()
        self._record = ShardRecord(
            name=self._name,
            sha256=self._file.sha256,
            shard_bytes=self._file.num_bytes,
            num_samples=len(self._keys),
            members=tuple(self._members),
        )


def write_index(versions: Store, version: int, tables: Iterable[pa.Table]) -> str:
    """Write the index of a version, one row group a table (one table a shard); its sha256.

    Only one table at a time is in memory.
    """
    file = HashedFile(versions.create(version_key(version, INDEX_NAME)))
    try:
        with pq.ParquetWriter(file, index_schema(), compression="zstd") as writer:
            for table in tables:
                writer.write_table(table, row_group_size=max(1, table.num_rows))
        file.commit()
    finally:
        file.discard_unless_committed()
    return file.sha256


def write_manifest(versions: Store, manifest: Manifest) -> None:
    """Write the manifest of a version: to be called when all its other files are in place."""
    versions.write(version_key(manifest.version, MANIFEST_NAME), manifest.to_bytes())


class HashedFile:
    """A new file of a store that knows its length and its sha256; also a stream that pyarrow can write to."""

    closed = False

    def __init__(self, file: NewFile) -> None:
        self._file = file
        self._digest = sha256()
        self.num_bytes = 0

    @property
    def sha256(self) -> str:
        """Hash of what was written so far, 64 hexadecimal digits."""
        return self._digest.hexdigest()

    def write(self, data: bytes) -> int:
        """Append."""
        self._file.write(data)
        self._digest.update(data)
        self.num_bytes += len(data)
        return len(data)

    def tell(self) -> int:
        """How much was written."""
        return self.num_bytes

    def flush(self) -> None:
        """Nothing: only what was committed is there."""

    def close(self) -> None:
        """Nothing: see `commit`."""

    def commit(self) -> None:
        """Give the file its key."""
        self._file.commit()

    def discard_unless_committed(self) -> None:
        """Leave nothing behind. To be called in any case, as in `finally`."""
        self._file.discard_unless_committed()
