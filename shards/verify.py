"""Proves every byte of a dataset version: what does not hold, one problem each."""

import lzma
import tarfile
import zlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import zip_longest
from math import fsum, isclose
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from infra.errors import ConfigError, IntegrityError
from infra.store import Store
from shards.index import Index, ShardRows
from shards.manifest import INDEX_NAME, MANIFEST_NAME, Manifest, ShardEntry, shard_key, version_key
from shards.reader import Skipped, read_manifest, read_shard
from shards.schema import SAMPLE_MEMBERS, EmbeddingModels, Sample
from shards.wids import list_name, wids_name

_READ_BYTES = 1 << 20
# What tarfile raises on bytes that are no tar; flipped ones may look like any kind of compression.
_NO_TAR = (tarfile.TarError, OSError, EOFError, ValueError, zlib.error, lzma.LZMAError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that does not hold.

    Attributes:
        shard: name of the shard, or other file, that it lies in; empty for the version as a whole.
        key: of the sample; empty where it is about more than one.
        text: a line for people.
    """

    shard: str = ""
    key: str = ""
    text: str


@dataclass(slots=True)
class _Totals:
    """What the samples themselves say, to be compared with the manifest."""

    source_ids: set[str] = field(default_factory=set)
    durations_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """By split, a number a shard."""
    key_hashes: list[NDArray[np.int64]] = field(default_factory=list)
    num_by_models: dict[EmbeddingModels, int] = field(default_factory=lambda: defaultdict(int))


def verify_version(versions: Store, version: int) -> list[Problem]:
    """What does not hold in a dataset version; nothing for a sound one.

    Checked: manifest, index, size and sha256 of every shard, crc32 and content of every member of every sample,
    that plain webdataset reads just these members, that every sample is there once, totals, and that no other
    file lies in the folder. Media are not decoded. Every byte is read once, those of a damaged shard twice.

    Raises:
        StorageUnavailable: the store does not answer.
    """
    try:
        manifest = read_manifest(versions, version)
    except (ConfigError, IntegrityError) as err:
        return [Problem(shard=MANIFEST_NAME, text=str(err))]
    index, totals = Index(versions, manifest), _Totals()
    problems = [*_strays(versions, manifest), *_index_problems(versions, manifest)]
    shard_problems = [
        problem
        for number in range(len(manifest.shards))
        for problem in _shard_problems(versions, index, number, totals)
    ]
    return problems + (shard_problems or list(_total_problems(manifest, index, totals)))


def _strays(versions: Store, manifest: Manifest) -> Iterator[Problem]:
    """Files in the folder of the version that are none of it."""
    splits = [entry.split for entry in manifest.splits]
    known = {MANIFEST_NAME, INDEX_NAME, "README.md"}
    known |= {name for split in splits for name in (wids_name(split), list_name(split))}
    known |= {shard.name for shard in manifest.shards if shard.home_version == manifest.version}
    folder = version_key(manifest.version, "")
    for file in versions.files(folder.rstrip("/")):
        name = file.key.removeprefix(folder)
        if name not in known and not name.startswith("card/"):
            yield Problem(shard=name, text=f"{name} must be in the manifest or not be there")


def _index_problems(versions: Store, manifest: Manifest) -> Iterator[Problem]:
    key = version_key(manifest.version, INDEX_NAME)
    try:
        with versions.open(key) as stream:
            hashed = _HashedStream(stream)
            hashed.drain()
    except OSError as err:
        yield Problem(shard=INDEX_NAME, text=f"{INDEX_NAME} must be readable, got {err}")
        return
    if hashed.sha256 != manifest.index_sha256:
        text = f"{INDEX_NAME} must have sha256 {manifest.index_sha256}, got {hashed.sha256}"
        yield Problem(shard=INDEX_NAME, text=text)


def _shard_problems(versions: Store, index: Index, number: int, totals: _Totals) -> list[Problem]:
    shard = index.manifest.shards[number]
    try:
        rows = index.rows(number)
    except IntegrityError as err:
        return [Problem(shard=shard.name, text=str(err))]
    try:
        with versions.open(shard_key(shard)) as raw:
            stream = _HashedStream(raw)
            problems = list(_walk(stream, shard, rows, totals))
            stream.drain()
    except FileNotFoundError:
        return [Problem(shard=shard.name, text=f"{shard.name} must be there, got no file")]
    except OSError as err:
        return [Problem(shard=shard.name, text=f"{shard.name} must be readable, got {err}")]
    if (stream.num_bytes, stream.sha256) == (shard.shard_bytes, shard.sha256):
        return problems
    text = (
        f"{shard.name} must have {shard.shard_bytes} bytes and sha256 {shard.sha256},"
        f" got {stream.num_bytes} bytes and {stream.sha256}"
    )
    return [Problem(shard=shard.name, text=text), *_damaged_samples(versions, index, number)]


def _walk(stream: "_HashedStream", shard: ShardEntry, rows: ShardRows, totals: _Totals) -> Iterator[Problem]:
    """Problems of the samples as webdataset reads them."""
    from webdataset.tariterators import tar_file_iterator

    members = (member for place in range(len(rows.keys)) for member in rows.members(place))
    payload: dict[str, bytes] = {}
    durations_s = []
    try:
        for place, (member, file) in enumerate(zip_longest(members, tar_file_iterator(stream))):
            found = file and (file["fname"], len(file["data"]), zlib.crc32(file["data"]))
            expected = member and (f"{member.key}.{member.ext}", member.member_bytes, member.crc32)
            if found is None or found != expected:
                text = f"{shard.name} must hold what {INDEX_NAME} says, {expected}, got {found}"
                yield Problem(shard=shard.name, key=member.key if member else "", text=text)
                return
            payload[member.ext] = file["data"]
            if len(payload) == len(SAMPLE_MEMBERS):
                duration_s = float(rows.durations_s[place // len(SAMPLE_MEMBERS)])
                durations_s.append(duration_s)
                yield from _sample_problems(member.key, shard, payload, duration_s, totals)
                payload = {}
    except _NO_TAR as err:
        yield Problem(shard=shard.name, text=f"{shard.name} must read as a tar, got {err}")
    totals.durations_s[shard.split].append(fsum(durations_s))
    totals.key_hashes.append(np.array([hash(key) for key in rows.keys], np.int64))


def _sample_problems(
    key: str, shard: ShardEntry, payload: dict[str, bytes], duration_s: float, totals: _Totals
) -> Iterator[Problem]:
    try:
        meta = Sample.from_members(key, payload).meta
    except IntegrityError as err:
        yield Problem(shard=shard.name, key=key, text=f"sample {key} of {shard.name} is damaged: {err}")
        return
    if not isclose(meta.end_s - meta.start_s, duration_s, abs_tol=1e-6):
        text = f"duration_s of {key} in {INDEX_NAME} must be {meta.end_s - meta.start_s}, got {duration_s}"
        yield Problem(shard=shard.name, key=key, text=text)
    totals.source_ids.add(meta.source_id)
    totals.num_by_models[meta.models] += 1


def _damaged_samples(versions: Store, index: Index, number: int) -> Iterator[Problem]:
    for item in read_shard(versions, index, number):
        if isinstance(item, Skipped):
            yield Problem(shard=item.shard, key=item.key, text=item.reason)


def _total_problems(manifest: Manifest, index: Index, totals: _Totals) -> Iterator[Problem]:
    """Totals of the manifest that the samples contradict."""
    num_sources = len(totals.source_ids)
    if num_sources != manifest.num_sources:
        text = f"num_sources must be the {num_sources} of the samples, got {manifest.num_sources}"
        yield Problem(shard=MANIFEST_NAME, text=text)
    stated = {"the version": manifest.duration_s}
    stated |= {entry.split: entry.duration_s for entry in manifest.splits}
    counted = {split: fsum(durations) for split, durations in totals.durations_s.items()}
    counted["the version"] = fsum(counted.values())
    for subject, duration_s in stated.items():
        if not isclose(duration_s, counted[subject], rel_tol=1e-9):
            text = f"duration_s of {subject} must be the {counted[subject]} of the samples, got {duration_s}"
            yield Problem(shard=MANIFEST_NAME, text=text)
    others = sum(count for models, count in totals.num_by_models.items() if models != manifest.models)
    if others:
        text = f"all samples must be embedded by {manifest.models}, got {others} by others"
        yield Problem(shard=MANIFEST_NAME, text=text)
    for key in sorted(_keys_met_twice(manifest, index, totals)):
        yield Problem(key=key, text=f"sample {key} must be in the version once, got it more often")


def _keys_met_twice(manifest: Manifest, index: Index, totals: _Totals) -> set[str]:
    hashes, counts = np.unique(np.concatenate(totals.key_hashes), return_counts=True)
    suspects = set(hashes[counts > 1].tolist())
    seen: set[str] = set()
    twice: set[str] = set()
    for number in range(len(manifest.shards)) if suspects else ():
        for key in index.keys(number):
            if hash(key) in suspects:
                (twice if key in seen else seen).add(key)
    return twice


class _HashedStream:
    """A stream that hashes what is read of it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._digest = sha256()
        self.num_bytes = 0

    @property
    def sha256(self) -> str:
        """Of what was read so far."""
        return self._digest.hexdigest()

    def read(self, num_bytes: int) -> bytes:
        """The next bytes."""
        data = self._stream.read(num_bytes)
        self._digest.update(data)
        self.num_bytes += len(data)
        return data

    def drain(self) -> None:
        """Read to the end."""
        while self.read(_READ_BYTES):
            pass
