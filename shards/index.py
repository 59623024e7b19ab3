"""The index of a dataset version: where every sample lies, a shard at a time."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infra.errors import IntegrityError
from infra.store import Store
from shards.manifest import INDEX_NAME, Manifest, MemberRecord, ShardEntry, member_columns, version_key
from shards.schema import SAMPLE_MEMBERS

_MEMBER_COLUMNS = [column for ext in SAMPLE_MEMBERS for column in member_columns(ext)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRows:
    """The rows of one shard.

    Attributes:
        places_NM3: of every sample and member, in file order: offset, bytes, crc32.
    """

    keys: list[str]
    durations_s: NDArray[np.float64]
    places_NM3: NDArray[np.int64]

    def members(self, sample_index: int) -> tuple[MemberRecord, ...]:
        """The members of a sample."""
        key = self.keys[sample_index]
        places = self.places_NM3[sample_index].tolist()
        return tuple(
            MemberRecord(key, ext, *place) for ext, place in zip(SAMPLE_MEMBERS, places, strict=True)
        )


class Index:
    """Reads the rows that are asked for, and holds none. It may travel to another process, also by fork."""

    def __init__(self, versions: Store, manifest: Manifest) -> None:
        self._versions = versions
        self.manifest = manifest
        self._key = version_key(manifest.version, INDEX_NAME)

    def rows(self, shard_index: int) -> ShardRows:
        """The rows of a shard of the manifest.

        Raises:
            IntegrityError: they cannot be read, or are not those of this shard.
        """
        shard = self.manifest.shards[shard_index]
        table = self._read(shard_index, None)
        try:
            columns = [_numbers(table[name]) for name in _MEMBER_COLUMNS]
            rows = ShardRows(
                keys=table["key"].to_pylist(),
                durations_s=_numbers(table["duration_s"]),
                places_NM3=np.stack(columns, axis=1).reshape(len(table), len(SAMPLE_MEMBERS), 3),
            )
            labels = table["shard"].unique().to_pylist() + table["split"].unique().to_pylist()
        except (KeyError, TypeError, ValueError) as err:
            raise IntegrityError(f"{INDEX_NAME} must have the columns of an index, got {err}") from err
        _check_rows(rows, labels, shard)
        return rows

    def keys(self, shard_index: int) -> list[str]:
        """The keys of a shard, in file order. Raises `IntegrityError`."""
        return self._read(shard_index, ["key"])["key"].to_pylist()

    def _read(self, shard_index: int, columns: list[str] | None) -> pa.Table:
        metadata = self._metadata
        try:
            # A stream of its own: after a fork, processes would share its position.
            with self._versions.open(self._key) as stream:
                file = pq.ParquetFile(stream, metadata=metadata)
                return file.read_row_group(shard_index, columns, use_threads=False)
        except (OSError, pa.ArrowException) as err:
            name = self.manifest.shards[shard_index].name
            raise IntegrityError(f"the rows of {name} in {self._key} must be readable, got {err}") from err

    @cached_property
    def _metadata(self) -> pq.FileMetaData:
        try:
            with self._versions.open(self._key) as stream:
                metadata = pq.ParquetFile(stream).metadata
        except (OSError, pa.ArrowException) as err:
            raise IntegrityError(
                f"{self._key} must be a Parquet file, got {err} ({self._versions.url}); repair the version"
            ) from err
        num_shards = len(self.manifest.shards)
        if metadata.num_row_groups != num_shards:
            raise IntegrityError(
                f"{self._key} must have a row group for each of {num_shards} shards,"
                f" got {metadata.num_row_groups} ({self._versions.url}); repair the version"
            )
        return metadata


def _numbers(column: pa.ChunkedArray) -> NDArray[Any]:
    """The column as an array. Not by `to_numpy`, which imports pandas: a second before the first sample."""
    return np.from_dlpack(column.combine_chunks())


def _check_rows(rows: ShardRows, labels: list[str], shard: ShardEntry) -> None:
    """Raises `IntegrityError` unless the rows can be those of the shard."""
    if labels != [shard.name, shard.split] or len(rows.keys) != shard.num_samples or None in rows.keys:
        raise IntegrityError(
            f"{INDEX_NAME} must have {shard.num_samples} rows of {shard.name}, got {len(rows.keys)} of {labels}"
        )
    begins, sizes = rows.places_NM3[:, :, 0].ravel(), rows.places_NM3[:, :, 1].ravel()
    room = np.append(begins[1:], shard.shard_bytes) - begins
    if rows.places_NM3.dtype != np.int64 or begins.min() < 0 or sizes.min() < 1 or (sizes > room).any():
        raise IntegrityError(
            f"members of {shard.name} in {INDEX_NAME} must lie one after the other inside it"
        )
