"""Shards -> samples, for training: a sample comes out whole and proven, or as `Skipped`, never in part."""

import logging
import re
import zlib
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from errno import EIO
from functools import cache, cached_property, lru_cache, partial
from itertools import accumulate
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from infra.errors import ConfigError, IntegrityError
from infra.store import LocalStore, Store
from shards.index import Index, ShardRows
from shards.manifest import MANIFEST_NAME, Manifest, MemberRecord, ShardEntry, shard_key, version_key
from shards.order import EpochOrder, Place, Share
from shards.read_state import ReadState
from shards.schema import Sample

# For object stores. Assumption, not measured: eight requests at a time fill a connection of 10 Gbit/s.
_NUM_THREADS = 8
_NUM_AHEAD = 16
"""Samples that are held in memory before they are asked for."""
_NUM_CACHED_SHARDS = 64
"""Shards whose index rows are kept for random access."""
_VERSION_NAME = re.compile(r"v([1-9][0-9]*)")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A position of the epoch whose sample cannot be given whole.

    Attributes:
        key: of the sample; empty where even that cannot be read.
    """

    key: str
    shard: str
    reason: str


class ShardReader:
    """The samples of one split of a finished dataset version, as a stream or one by one.

    It holds the manifest and, once a sample was asked for, the footer of the index; it keeps no file open. It may
    travel to other processes: by fork or spawn from a folder, by spawn alone from an object store.
    """

    def __init__(
        self, versions: Store, version: int, *, split: str = "train", max_skipped_ratio: float = 0.01
    ) -> None:
        """Arguments:
            versions: the folder of the dataset, which holds its versions.
            max_skipped_ratio: share of the split's samples that may be skipped in an epoch.

        Raises:
            ConfigError: no such version or split.
            IntegrityError: the manifest contradicts itself.
        """
        self.manifest = read_manifest(versions, version)
        self.max_skipped_ratio = max_skipped_ratio
        self.num_skipped_by_shard: Counter[str] = Counter()
        """Positions that the streams of this reader have skipped, in this process."""
        self._versions = versions
        self._split = split
        self._index = Index(versions, self.manifest)
        # Places count the shards of the split alone; the index has those of all splits.
        self._numbers = [i for i, shard in enumerate(self.manifest.shards) if shard.split == split]
        self._shards = [self.manifest.shards[number] for number in self._numbers]
        self._ends = list(accumulate(shard.num_samples for shard in self._shards))
        self._cached_rows = lru_cache(maxsize=_NUM_CACHED_SHARDS)(self._rows)
        if not self._shards:
            known = ", ".join(entry.split for entry in self.manifest.splits)
            raise ConfigError(f"split must be one of {known} of {self._subject}, got {split}")

    def __reduce__(self) -> tuple[partial[Self], tuple[Store, int]]:
        make = partial(type(self), split=self._split, max_skipped_ratio=self.max_skipped_ratio)
        return make, (self._versions, self.manifest.version)

    @classmethod
    def opened(cls, dataset_dir: Path, *, split: str = "train", max_skipped_ratio: float = 0.01) -> Self:
        """The reader of the version in a local folder `.../<name>/v<k>`.

        Raises:
            ConfigError: the folder is none of a finished version.
        """
        match = _VERSION_NAME.fullmatch(dataset_dir.name)
        if match is None:
            raise ConfigError(f"the folder of a dataset version must be named v1, v2, ..., got {dataset_dir}")
        versions = LocalStore(dataset_dir.parent)
        return cls(versions, int(match[1]), split=split, max_skipped_ratio=max_skipped_ratio)

    @property
    def num_samples(self) -> int:
        """Samples of the split."""
        return self._ends[-1]

    def stream(
        self,
        state: ReadState,
        *,
        rank: int = 0,
        num_ranks: int = 1,
        worker: int = 0,
        num_workers: int = 1,
        batch_positions: int = 1,
    ) -> Generator[Sample | Skipped, None, None]:
        """One item for every position of this process in the rest of the epoch, in order (see `shards/order.py`).

        Args:
            worker: of `num_workers` loader processes that take batches of `batch_positions` in turn.

        Raises:
            ConfigError: at once, if an argument is out of range.
            IntegrityError: on the way, if more is skipped than `check_skipped` allows.
            StorageUnavailable: on the way, if the store does not answer.
        """
        share = Share(
            rank=rank,
            num_ranks=num_ranks,
            worker=worker,
            num_workers=num_workers,
            batch_positions=batch_positions,
        )
        if state.position > self.num_samples:
            raise ConfigError(
                f"position of a read state must be at most the {self.num_samples} samples of {self._subject}, got"
                f" {state.position}; use it with the dataset version that it is of"
            )
        return self._counted(self._read_ahead(state, share), num_readers=num_ranks * num_workers)

    def sample(self, key: str) -> Sample:
        """The sample of that key. The first call reads the keys of the whole split.

        Raises:
            ConfigError: the split has no such sample.
            IntegrityError: it is damaged.
        """
        hashes, indices = self._key_table
        first, last = (np.searchsorted(hashes, hash(key), side) for side in ("left", "right"))
        for index in indices[first:last].tolist():
            place = self._place(index)
            if self._cached_rows(place.shard_index).keys[place.sample_index] == key:
                return self.sample_at(index)
        raise ConfigError(f"a sample of {self._subject} must be named, got {key}")

    def sample_at(self, index: int) -> Sample:
        """A sample by its number in [0, num_samples), in the order of `keys`.

        Raises:
            ConfigError: there is no such number.
            IntegrityError: it is damaged.
        """
        place = self._place(index)
        members = self._cached_rows(place.shard_index).members(place.sample_index)
        return read_sample(self._versions, self._shards[place.shard_index], members)

    def keys(self) -> Iterator[str]:
        """Keys of the split, in the order of shards and files."""
        for number in self._numbers:
            yield from self._index.keys(number)

    def check_skipped(self, num_skipped: int, *, num_readers: int = 1) -> None:
        """Raises `IntegrityError` when more of an epoch is skipped than may be.

        One lost shard is little of a dataset and much of what one of many readers has, so `max_skipped_ratio` is
        that of the whole split. A reader that knows only its own losses gives up at half of its share, too.
        """
        ratio, share = self.max_skipped_ratio, self.num_samples / num_readers
        if num_skipped > min(ratio * self.num_samples, max(ratio, 0.5) * share):
            worst = ", ".join(f"{name} ({count})" for name, count in self.num_skipped_by_shard.most_common(8))
            raise IntegrityError(
                f"at most {ratio:.2%} of {self.num_samples} samples may be skipped in an epoch, got {num_skipped}"
                f" with {num_readers} readers of {self._subject}; skipped here: {worst or 'none'}; run"
                " `avgen repair`"
            )

    @property
    def _subject(self) -> str:
        return f"{self._versions.url}/v{self.manifest.version}"

    @cached_property
    def _key_table(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Hashes of all keys in ascending order, and the number of the sample of each: 16 bytes a sample."""
        hashes = np.fromiter((hash(key) for key in self.keys()), np.int64, count=self.num_samples)
        order = np.argsort(hashes)
        return hashes[order], order

    def _place(self, index: int) -> Place:
        if not 0 <= index < self.num_samples:
            raise ConfigError(
                f"index must be from 0 to {self.num_samples - 1} in {self._subject}, got {index}"
            )
        shard_index = bisect_right(self._ends, index)
        return Place(shard_index, index - self._ends[shard_index] + self._shards[shard_index].num_samples)

    def _rows(self, shard_index: int) -> ShardRows:
        return self._index.rows(self._numbers[shard_index])

    def _read_ahead(self, state: ReadState, share: Share) -> Iterator[Sample | Skipped]:
        """The items of a share in order."""
        order = EpochOrder(
            [shard.num_samples for shard in self._shards],
            seed=state.seed,
            epoch=state.epoch,
            num_lanes=state.num_lanes,
        )
        with _begin_reads(self._versions) as (begin, num_ahead):
            rows = lru_cache(maxsize=state.num_lanes)(partial(begin, self._rows))
            pending: deque[Callable[[], Sample | Skipped]] = deque()
            for position in share.positions(state.position, order.num_samples):
                place = order.place(position)
                # The rows are begun before the sample, so no thread waits for rows that wait for a thread.
                pending.append(begin(self._item, place, rows(place.shard_index)))
                if len(pending) > num_ahead:
                    yield pending.popleft()()
            while pending:
                yield pending.popleft()()

    def _item(self, place: Place, rows: Callable[[], ShardRows]) -> Sample | Skipped:
        shard = self._shards[place.shard_index]
        try:
            members = rows().members(place.sample_index)
        except IntegrityError as err:
            return Skipped(key="", shard=shard.name, reason=str(err))
        return _whole_or_skipped(self._versions, shard, members)

    def _counted(
        self, items: Iterator[Sample | Skipped], *, num_readers: int
    ) -> Generator[Sample | Skipped, None, None]:
        """The same items; what is skipped is counted, said once a shard, and has an end."""
        num_skipped = 0
        for item in items:
            if isinstance(item, Skipped):
                num_skipped += 1
                self.num_skipped_by_shard[item.shard] += 1
                if self.num_skipped_by_shard[item.shard] == 1:
                    _log.warning("%s of %s is damaged: %s", item.shard, self._subject, item.reason)
                self.check_skipped(num_skipped, num_readers=num_readers)
            yield item


@contextmanager
def _begin_reads(store: Store) -> Iterator[tuple[Callable[..., Any], int]]:
    """How to begin a read, which gives a function that ends it, and how many to have begun ahead of need.

    A folder answers at once; handing its bytes over from another thread costs half as much again as reading them.
    """
    if isinstance(store, LocalStore):
        yield lambda work, *arguments: cache(partial(work, *arguments)), 0
        return
    pool = ThreadPoolExecutor(max_workers=_NUM_THREADS, thread_name_prefix="samples")
    try:
        yield lambda work, *arguments: pool.submit(work, *arguments).result, _NUM_AHEAD
    finally:
        pool.shutdown(cancel_futures=True)


def read_manifest(versions: Store, version: int) -> Manifest:
    """The manifest of a finished dataset version.

    Raises:
        ConfigError: there is none, so the version does not exist or was not finished.
        IntegrityError: it contradicts itself, or is that of another version.
    """
    key = version_key(version, MANIFEST_NAME)
    try:
        manifest = Manifest.from_bytes(versions.read(key))
    except (FileNotFoundError, NotADirectoryError) as err:
        raise ConfigError(
            f"a dataset version must have {key}, got none in {versions.url}; run `avgen pack` (again)"
        ) from err
    if manifest.version != version:
        raise IntegrityError(f"version in {key} of {versions.url} must be {version}, got {manifest.version}")
    return manifest


def num_samples(dataset_dir: Path) -> int:
    """Training samples of the finished version in a local folder."""
    return ShardReader.opened(dataset_dir).num_samples


def iter_samples_of_shard(
    versions: Store, manifest: Manifest, shard_name: str, *, every: int = 1
) -> Iterator[Sample | Skipped]:
    """Every n-th sample of a shard, whatever its split, in file order. For many shards: `read_shard`.

    Raises:
        ConfigError: the version has no such shard.
        IntegrityError: its rows in the index cannot be read.
    """
    names = [shard.name for shard in manifest.shards]
    if shard_name not in names:
        raise ConfigError(f"a shard of {versions.url}/v{manifest.version} must be named, got {shard_name}")
    yield from read_shard(versions, Index(versions, manifest), names.index(shard_name), every=every)


def read_shard(versions: Store, index: Index, number: int, *, every: int = 1) -> Iterator[Sample | Skipped]:
    """Every n-th sample of the `number`-th shard of a manifest, in file order.

    Raises:
        IntegrityError: its rows in the index cannot be read.
    """
    shard, rows = index.manifest.shards[number], index.rows(number)
    for place in range(0, shard.num_samples, every):
        yield _whole_or_skipped(versions, shard, rows.members(place))


def _whole_or_skipped(
    versions: Store, shard: ShardEntry, members: Sequence[MemberRecord]
) -> Sample | Skipped:
    try:
        return read_sample(versions, shard, members)
    except IntegrityError as err:
        return Skipped(key=members[0].key, shard=shard.name, reason=str(err))


def read_sample(versions: Store, shard: ShardEntry, members: Sequence[MemberRecord]) -> Sample:
    """One sample, by one read of its range of the shard.

    Raises:
        IntegrityError: the shard is missing or truncated, or a byte of the sample is not what it was.
    """
    key = members[0].key
    try:
        return Sample.from_members(key, read_members(versions, shard_key(shard), members))
    except IntegrityError as err:
        raise IntegrityError(f"sample {key} of {shard.name} is damaged: {err}") from err


def read_members(store: Store, key: str, members: Sequence[MemberRecord]) -> dict[str, bytes]:
    """Bytes by extension of neighbouring members of a tar, in file order, each proven by its crc32.

    Raises:
        IntegrityError: the file is missing, truncated, altered or on a broken disk.
    """
    first, last = members[0], members[-1]
    begin = first.offset_bytes
    try:
        data = store.read_range(
            key, offset_bytes=begin, num_bytes=last.offset_bytes + last.member_bytes - begin
        )
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as err:
        raise IntegrityError(f"{key} must be in {store.url}, got no file") from err
    except OSError as err:
        if err.errno != EIO:
            raise
        raise IntegrityError(f"{key} of {store.url} must be readable, got {err}") from err
    view = memoryview(data)
    return {member.ext: _proven(view[member.offset_bytes - begin :], member) for member in members}


def read_staged_clip(store: Store, bundle_key: str, members: Sequence[MemberRecord]) -> dict[str, bytes]:
    """One staged clip (or its embeddings) out of its source's bundle, as bytes by extension, each proven.

    Raises:
        IntegrityError: the bundle is missing, truncated or altered.
    """
    try:
        return read_members(store, bundle_key, members)
    except IntegrityError as err:
        raise IntegrityError(
            f"clip {members[0].key} of bundle {bundle_key} is damaged: {err}; restore it"
        ) from err


def _proven(rest: memoryview, member: MemberRecord) -> bytes:
    """The member's bytes, with which `rest` begins."""
    data = bytes(rest[: member.member_bytes])
    if len(data) != member.member_bytes:
        raise IntegrityError(f"{member.ext} must have {member.member_bytes} bytes, got the first {len(data)}")
    crc32 = zlib.crc32(data)
    if crc32 != member.crc32:
        raise IntegrityError(f"{member.ext} must have the crc32 {member.crc32}, got {crc32}")
    return data
