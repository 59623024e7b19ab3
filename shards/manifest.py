"""The manifest of a dataset version: what it was made from, and which shards it consists of.

The manifest is small whatever the number of samples; where every byte of a sample lies is in the index beside it,
one row a sample. A shard lies in the folder of the version that wrote it; later versions may use it, too.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any, NamedTuple, Self

import pyarrow as pa

from infra.config import canonical_json
from infra.errors import IntegrityError
from shards.schema import SAMPLE_MEMBERS, EmbeddingModels
from shards.strict_json import array_of, checked, object_of, parse_object, require_keys

FORMAT_VERSION = 2
MANIFEST_NAME = "manifest.json"
INDEX_NAME = "index.parquet"

_SHARD_NAME = re.compile(r"([a-z][a-z0-9_]*)-[0-9]{6}\.tar")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class MemberRecord(NamedTuple):
    """One file in a tar: its data are the bytes [offset_bytes, offset_bytes + member_bytes) of the tar.

    A tuple, because there are five a sample: building a frozen dataclass takes several times as long.
    """

    key: str
    ext: str
    offset_bytes: int
    member_bytes: int
    crc32: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRecord:
    """One finished tar: a shard of a dataset, or the bundle of a source. Members are in file order."""

    name: str
    sha256: str
    shard_bytes: int
    num_samples: int
    members: tuple[MemberRecord, ...]

    def __post_init__(self) -> None:
        end_bytes = [member.offset_bytes + member.member_bytes for member in self.members]
        starts = [member.offset_bytes for member in self.members] + [self.shard_bytes]
        if any(end > start for end, start in zip(end_bytes, starts[1:], strict=True)):
            raise IntegrityError(f"members of {self.name} must lie one after the other inside it")
        num_keys = len(self.by_key())
        if num_keys != self.num_samples:
            raise IntegrityError(f"{self.name} must index {self.num_samples} samples, got {num_keys}")

    def by_key(self) -> dict[str, tuple[MemberRecord, ...]]:
        """Members of every sample, in file order."""
        grouped: dict[str, list[MemberRecord]] = {}
        for member in self.members:
            grouped.setdefault(member.key, []).append(member)
        return {key: tuple(members) for key, members in grouped.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardEntry:
    """One shard of a version."""

    name: str
    split: str
    home_version: int
    """The version that wrote it, in whose folder it lies."""
    sha256: str
    shard_bytes: int
    num_samples: int

    def __post_init__(self) -> None:
        _check_fields(self, subject="a shard")
        match = _SHARD_NAME.fullmatch(self.name)
        if match is None or match[1] != self.split:
            raise IntegrityError(
                f"the name of a shard of {self.split!r} must be {self.split}-NNNNNN.tar, got {self.name!r}"
            )
        if _SHA256.fullmatch(self.sha256) is None:
            raise IntegrityError(
                f"sha256 of {self.name} must be 64 lower hexadecimal digits, got {self.sha256!r}"
            )
        for name in ("home_version", "shard_bytes", "num_samples"):
            if getattr(self, name) < 1:
                raise IntegrityError(f"{name} of {self.name} must be at least 1, got {getattr(self, name)}")

    def path_from(self, version: int) -> str:
        """Path of the shard as seen from the folder of a version that uses it."""
        return self.name if self.home_version == version else f"../{shard_key(self)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitEntry:
    """Totals of one split."""

    split: str
    num_samples: int
    num_shards: int
    duration_s: float

    def __post_init__(self) -> None:
        _check_fields(self, subject="a split")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything that identifies a dataset version. It is written last: where it is, the dataset is whole.

    Attributes:
        version: the k of `v<k>`.
        recipe_id: the recipe whose staged clips were packed.
        recipe_sha256: hash of the whole resolved recipe, bounds included, as JSON.
        sql: the query that selected them.
        mixture_json: the settings that the query was made from.
        duration_s: total over all samples.
        num_forgotten: samples that were removed after the version was packed.
        lake_version: version of every table of the lake that was selected from.
        index_sha256: hash of the index.
        splits: by name.
        shards: by name, which is in the order of the index.
    """

    format_version: int
    name: str
    version: int
    recipe_id: str
    recipe_sha256: str
    seed: int
    samples_per_shard: int
    sql: str
    mixture_json: str
    num_samples: int
    num_sources: int
    duration_s: float
    num_forgotten: int
    models: EmbeddingModels
    lake_version: Mapping[str, int]
    index_sha256: str
    splits: tuple[SplitEntry, ...]
    shards: tuple[ShardEntry, ...]

    def __post_init__(self) -> None:
        _check_fields(self, subject=MANIFEST_NAME)
        if self.format_version != FORMAT_VERSION:
            raise IntegrityError(
                f"format_version must be {FORMAT_VERSION}, got {self.format_version}; pack the dataset again"
            )
        for table, version in self.lake_version.items():
            checked(version, int, name=f"lake_version.{table}", subject=MANIFEST_NAME)
        _check_shards(self)
        _check_totals(self)

    def to_bytes(self) -> bytes:
        """JSON text, the same for equal manifests: it holds no clock, host or path."""
        value = {field.name: getattr(self, field.name) for field in fields(self)}
        value["models"] = asdict(self.models)
        value["lake_version"] = dict(self.lake_version)
        value["splits"] = [asdict(split) for split in self.splits]
        value["shards"] = [asdict(shard) for shard in self.shards]
        return canonical_json(value) + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The inverse of `to_bytes`.

        Raises:
            IntegrityError: not JSON, unknown, missing or mistyped keys, or counts that contradict each other.
        """
        value = parse_object(data, subject=MANIFEST_NAME)
        if value.get("format_version") != FORMAT_VERSION:
            raise IntegrityError(
                f"format_version of {MANIFEST_NAME} must be {FORMAT_VERSION}, got"
                f" {value.get('format_version')!r}; pack the dataset again"
            )
        require_keys(value, [field.name for field in fields(cls)], subject=MANIFEST_NAME)
        value["models"] = EmbeddingModels(**_keys_of(EmbeddingModels, value["models"], subject="models"))
        value["lake_version"] = object_of(value["lake_version"], subject="lake_version")
        for name, kind in (("splits", SplitEntry), ("shards", ShardEntry)):
            entries = array_of(value[name], subject=name)
            value[name] = tuple(kind(**_keys_of(kind, entry, subject=f"one of {name}")) for entry in entries)
        return cls(**value)


def shard_name(split: str, index: int) -> str:
    """File name of a split's shard `index`, in [0, 1e6); names of a split sort by index."""
    assert 0 <= index < 1_000_000, f"shard index must have at most six digits, got {index}"
    return f"{split}-{index:06d}.tar"


def shard_index(name: str) -> int:
    """The index that `shard_name` put into a name."""
    return int(name.removesuffix(".tar").rpartition("-")[2])


def version_key(version: int, name: str) -> str:
    """Key of a file of a version in the store of the dataset's versions."""
    return f"v{version}/{name}"


def shard_key(shard: ShardEntry) -> str:
    """Key of a shard in the store of the dataset's versions."""
    return version_key(shard.home_version, shard.name)


def member_columns(ext: str) -> tuple[str, str, str]:
    """Columns that say where a file of a sample or staged clip lies in its tar, its length, its crc32."""
    name = ext.replace(".", "_")
    return f"{name}_offset_bytes", f"{name}_bytes", f"{name}_crc32"


def index_schema() -> pa.Schema:
    """Columns of the index: one row a sample, in the order of the shards and, in each, of the file."""
    texts = [(name, pa.string()) for name in ("key", "shard", "split")]
    places = [(column, pa.int64()) for ext in SAMPLE_MEMBERS for column in member_columns(ext)]
    return pa.schema([*texts, ("duration_s", pa.float64()), *places])


def index_columns() -> list[str]:
    """Names of the columns of the index."""
    return index_schema().names


def index_table(record: ShardRecord, *, split: str, durations_s: Sequence[float]) -> pa.Table:
    """The rows of one shard in the index.

    Args:
        durations_s: of the samples, in file order.

    Raises:
        IntegrityError: a sample does not have the members of a sample, in their order.
    """
    by_key = record.by_key()
    for key, members in by_key.items():
        if tuple(member.ext for member in members) != SAMPLE_MEMBERS:
            raise IntegrityError(
                f"sample {key} of {record.name} must have the members {SAMPLE_MEMBERS}, in order"
            )
    columns: list[Sequence[object]] = [
        list(by_key), [record.name] * len(by_key), [split] * len(by_key), durations_s,
    ]  # fmt: skip
    for place in range(len(SAMPLE_MEMBERS)):
        of_ext = [members[place] for members in by_key.values()]
        columns += [[member[field] for member in of_ext] for field in (2, 3, 4)]
    schema = index_schema()
    arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
    return pa.table(arrays, schema=schema)


def members_of_row(row: Mapping[str, Any]) -> tuple[MemberRecord, ...]:
    """The members of a sample, in file order, from its row in the index."""
    return tuple(
        MemberRecord(row["key"], ext, *(row[column] for column in member_columns(ext)))
        for ext in SAMPLE_MEMBERS
    )


def _check_fields(record: Any, *, subject: str) -> None:
    for field in fields(record):
        if field.type in (str, int, float):
            value = checked(getattr(record, field.name), field.type, name=field.name, subject=subject)
            object.__setattr__(record, field.name, value)


def _keys_of(kind: type[Any], value: object, *, subject: str) -> dict[str, Any]:
    """`value` itself. Raises `IntegrityError` unless it is a JSON object with the fields of `kind`."""
    tree = object_of(value, subject=subject)
    require_keys(tree, [field.name for field in fields(kind)], subject=subject)
    return tree


def _check_shards(manifest: Manifest) -> None:
    """Raises `IntegrityError` unless the shards are in order, of a size that can be, and were there then."""
    if any(one.name >= two.name for one, two in pairwise(manifest.shards)):
        raise IntegrityError("shard names must be unique and ascending in the manifest")
    for shard in manifest.shards:
        if shard.home_version > manifest.version:
            raise IntegrityError(
                f"home_version of {shard.name} must be at most {manifest.version}, got {shard.home_version}"
            )
        if shard.num_samples > manifest.samples_per_shard:
            raise IntegrityError(
                f"{shard.name} must hold 1 to {manifest.samples_per_shard} samples, got {shard.num_samples}"
            )


def _check_totals(manifest: Manifest) -> None:
    """Raises `IntegrityError` unless the counts of splits and version are those of the shards."""
    if any(one.split >= two.split for one, two in pairwise(manifest.splits)):
        raise IntegrityError("splits must be unique and ascending in the manifest")
    stated = {split.split: (split.num_shards, split.num_samples) for split in manifest.splits}
    counted: dict[str, tuple[int, int]] = {}
    for shard in manifest.shards:
        num_shards, num_samples = counted.get(shard.split, (0, 0))
        counted[shard.split] = (num_shards + 1, num_samples + shard.num_samples)
    if stated != counted:
        raise IntegrityError(f"splits must be those of the shards, {counted} (shards, samples), got {stated}")
    num_samples = sum(shard.num_samples for shard in manifest.shards)
    if num_samples != manifest.num_samples:
        raise IntegrityError(
            f"num_samples must be the {num_samples} of the shards, got {manifest.num_samples}"
        )
