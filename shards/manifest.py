"""The manifest of a dataset version: what it was made from, and where every byte of it lies."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any, NamedTuple, Self

import pyarrow as pa

from infra.config import canonical_json
from infra.errors import IntegrityError
from shards.schema import SAMPLE_MEMBERS, EmbeddingModels, check_key
from shards.strict_json import array_of, checked, object_of, parse_object, require_keys

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
INDEX_NAME = "index.parquet"

_SHARD_NAME = re.compile(r"shard-[0-9]{6}\.tar")
_SHARD_KEYS = ("name", "sha256", "shard_bytes", "num_samples", "samples", "crc32")


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
class Manifest:
    """Everything that identifies a dataset version. It is written last: where it is, the dataset is whole.

    Attributes:
        version: the k of `v<k>`.
        recipe_id: the recipe whose staged clips were packed.
        sql: the query that selected them.
        duration_s: total over all samples.
    """

    format_version: int
    name: str
    version: int
    recipe_id: str
    seed: int
    samples_per_shard: int
    sql: str
    num_samples: int
    num_sources: int
    duration_s: float
    models: EmbeddingModels
    shards: tuple[ShardRecord, ...]

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.type in (str, int, float):
                value = checked(getattr(self, field.name), field.type, name=field.name, subject=MANIFEST_NAME)
                object.__setattr__(self, field.name, value)
        if self.format_version != FORMAT_VERSION:
            raise IntegrityError(f"format_version must be {FORMAT_VERSION}, got {self.format_version}")
        _check_shards(self)

    def to_bytes(self) -> bytes:
        """JSON text, the same for equal manifests: it holds no clock, host or path."""
        value = {field.name: getattr(self, field.name) for field in fields(self)}
        value["models"] = asdict(self.models)
        value["shards"] = [_shard_object(shard) for shard in self.shards]
        return canonical_json(value) + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The inverse of `to_bytes`.

        Raises:
            IntegrityError: not JSON, unknown, missing or mistyped keys, or counts that contradict each other.
        """
        value = parse_object(data, subject=MANIFEST_NAME)
        require_keys(value, [field.name for field in fields(cls)], subject=MANIFEST_NAME)
        models = object_of(value["models"], subject="models")
        require_keys(models, [field.name for field in fields(EmbeddingModels)], subject="models")
        shards = tuple(_shard_record(shard) for shard in array_of(value["shards"], subject="shards"))
        return cls(**{**value, "models": EmbeddingModels(**models), "shards": shards})


def index_table(manifest: Manifest) -> pa.Table:
    """One row a member, in file order: key, shard, ext, offset_bytes, member_bytes."""
    rows = [(shard.name, member) for shard in manifest.shards for member in shard.members]
    return pa.table(
        {
            "key": pa.array([member.key for _, member in rows], pa.string()),
            "shard": pa.array([name for name, _ in rows], pa.string()),
            "ext": pa.array([member.ext for _, member in rows], pa.string()),
            "offset_bytes": pa.array([member.offset_bytes for _, member in rows], pa.int64()),
            "member_bytes": pa.array([member.member_bytes for _, member in rows], pa.int64()),
        }
    )


def _check_shards(manifest: Manifest) -> None:
    """Raises `IntegrityError` unless the shards are in order, whole, and hold every sample once."""
    if any(one.name >= two.name for one, two in pairwise(manifest.shards)):
        raise IntegrityError("shard names must be unique and ascending in the manifest")
    keys: set[str] = set()
    for shard in manifest.shards:
        if _SHARD_NAME.fullmatch(shard.name) is None:
            raise IntegrityError(f"a shard name must match {_SHARD_NAME.pattern}, got {shard.name!r}")
        if not 1 <= shard.num_samples <= manifest.samples_per_shard:
            raise IntegrityError(
                f"{shard.name} must hold 1 to {manifest.samples_per_shard} samples, got {shard.num_samples}"
            )
        for key, members in shard.by_key().items():
            if tuple(member.ext for member in members) != SAMPLE_MEMBERS:
                raise IntegrityError(
                    f"sample {key} of {shard.name} must have the members {SAMPLE_MEMBERS}, in order"
                )
            if key in keys:
                raise IntegrityError(f"sample {key} must be in one shard once, got it again in {shard.name}")
            keys.add(key)
    if len(keys) != manifest.num_samples:
        raise IntegrityError(f"num_samples must be the {len(keys)} of the shards, got {manifest.num_samples}")


def _shard_object(shard: ShardRecord) -> dict[str, Any]:
    samples = {
        key: {member.ext: [member.offset_bytes, member.member_bytes] for member in members}
        for key, members in shard.by_key().items()
    }
    return {
        "name": shard.name,
        "sha256": shard.sha256,
        "shard_bytes": shard.shard_bytes,
        "num_samples": shard.num_samples,
        "samples": samples,
        "crc32": [member.crc32 for member in shard.members],
    }


def _shard_record(value: object) -> ShardRecord:
    shard = object_of(value, subject="a shard")
    require_keys(shard, _SHARD_KEYS, subject="a shard")
    name = checked(shard["name"], str, name="name", subject="a shard")
    places = sorted(_places(object_of(shard["samples"], subject=f"samples of {name}"), subject=name))
    sums = array_of(shard["crc32"], subject=f"crc32 of {name}")
    if len(sums) != len(places):
        raise IntegrityError(f"crc32 of {name} must list {len(places)} members, got {len(sums)}")
    if not all(type(crc) is int for crc in sums):
        raise IntegrityError(f"crc32 of {name} must list whole numbers")
    members = tuple(
        MemberRecord(key, ext, offset, size, crc)
        for (offset, size, key, ext), crc in zip(places, sums, strict=True)
    )
    return ShardRecord(
        name=name,
        sha256=checked(shard["sha256"], str, name="sha256", subject=name),
        shard_bytes=checked(shard["shard_bytes"], int, name="shard_bytes", subject=name),
        num_samples=checked(shard["num_samples"], int, name="num_samples", subject=name),
        members=members,
    )


def _places(samples: Mapping[str, object], *, subject: str) -> Iterator[tuple[int, int, str, str]]:
    """Offset, size, key and extension of every member."""
    for key, value in samples.items():
        check_key(key)
        for ext, place in object_of(value, subject=f"{key} of {subject}").items():
            match place:
                case [int(offset), int(size)] if offset >= 0 and size >= 0:
                    yield offset, size, key, ext
                case _:
                    raise IntegrityError(f"{key}.{ext} of {subject} must be [offset, bytes], got {place!r}")
