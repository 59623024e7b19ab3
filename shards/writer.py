"""Samples -> tar, manifest -> files. Equal input gives equal bytes, and a file appears whole or not at all.

The headers come from `tarfile`, not from `webdataset.TarWriter`, because `import webdataset` imports torch:
4 s and 504 MiB resident in every process that stages a bundle (measured 2026-11-23, webdataset 1.0.2, torch
with CUDA). A test holds the bytes equal to those of `webdataset.TarWriter`.
"""

import os
import tarfile
import zlib
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from infra.errors import IntegrityError
from infra.storage import sync
from shards.manifest import INDEX_NAME, MANIFEST_NAME, Manifest, MemberRecord, ShardRecord, index_table
from shards.schema import BUNDLE_MEMBERS, SAMPLE_MEMBERS, check_key

_MODE = 0o644
_TEMP_SUFFIX = ".tmp"


class ShardWriter:
    """Context manager that writes one tar: a shard of samples, or the bundle of a source's staged clips.

    Until the block ends without an error there is nothing at `path`; then the whole file is there, and
    `record` says what it holds. After an error neither the file nor a temporary one is left. A process that
    is killed leaves a temporary file: see `remove_leftovers`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset_bytes = 0
        self._digest = sha256()
        self._layout: tuple[str, ...] | None = None
        self._keys: set[str] = set()
        self._members: list[MemberRecord] = []
        self._record: ShardRecord | None = None

    def __enter__(self) -> Self:
        self._file = _AtomicFile(self._path)
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
            members: bytes by extension, exactly `SAMPLE_MEMBERS` or `BUNDLE_MEMBERS` in that order, and the
                same for all samples of a file.

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
            raise IntegrityError(f"every key of {self._path.name} must be unique, got {key} twice")
        allowed = (SAMPLE_MEMBERS, BUNDLE_MEMBERS) if self._layout is None else (self._layout,)
        if tuple(members) not in allowed:
            raise IntegrityError(f"members of {key} must be one of {allowed}, in order, got {tuple(members)}")
        empty = [ext for ext, data in members.items() if not data]
        if empty:
            raise IntegrityError(f"every member of {key} must have bytes, got none for {empty}")

    def _append(self, key: str, ext: str, data: bytes) -> None:
        header = tarfile.TarInfo(f"{key}.{ext}")
        header.size, header.mode = len(data), _MODE
        self._put(header.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict"))
        self._members.append(
            MemberRecord(
                key=key,
                ext=ext,
                offset_bytes=self._offset_bytes,
                member_bytes=len(data),
                crc32=zlib.crc32(data),
            )
        )
        self._put(data)
        self._put(bytes(-len(data) % tarfile.BLOCKSIZE))

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self._offset_bytes += len(data)

    def _finish(self) -> None:
        """Write the end of the tar (two empty blocks, filled up to a record) and put it in its place."""
        if not self._keys:
            raise IntegrityError(f"{self._path.name} must hold at least one sample, got none")
        self._put(bytes(2 * tarfile.BLOCKSIZE))
        self._put(bytes(-self._offset_bytes % tarfile.RECORDSIZE))
        self._file.commit()
        self._record = ShardRecord(
            name=self._path.name,
            sha256=self._digest.hexdigest(),
            shard_bytes=self._offset_bytes,
            num_samples=len(self._keys),
            members=tuple(self._members),
        )


def write_manifest(dataset_dir: Path, manifest: Manifest) -> None:
    """Write the index and then, last of all files of the version, the manifest."""
    sink = pa.BufferOutputStream()
    pq.write_table(index_table(manifest), sink)
    _write_atomically(dataset_dir / INDEX_NAME, sink.getvalue().to_pybytes())
    _write_atomically(dataset_dir / MANIFEST_NAME, manifest.to_bytes())


def remove_leftovers(folder: Path) -> list[str]:
    """Delete the temporary files that killed writers left in `folder`; returns their names, sorted.

    Only for the one process that owns the folder: a writer that is at work there would lose its file.
    """
    leftovers = sorted(path for path in folder.glob(f".*{_TEMP_SUFFIX}") if path.is_file())
    for path in leftovers:
        path.unlink()
    return [path.name for path in leftovers]


def _write_atomically(path: Path, data: bytes) -> None:
    file = _AtomicFile(path)
    try:
        file.write(data)
        file.commit()
    finally:
        file.discard_unless_committed()


class _AtomicFile:
    """A new file that takes its name, durably, when it is committed. The one place that opens for writing."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        # Unique: a task that was given up for dead and its successor may write the same path at once.
        self._temp = path.with_name(f".{path.name}.{uuid4().hex}{_TEMP_SUFFIX}")
        self._stream: BinaryIO = self._temp.open("xb")

    def write(self, data: bytes) -> None:
        self._stream.write(data)

    def commit(self) -> None:
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        self._temp.replace(self._path)
        sync(self._path.parent)

    def discard_unless_committed(self) -> None:
        try:
            self._stream.close()
        finally:
            self._temp.unlink(missing_ok=True)
