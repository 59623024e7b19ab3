"""Which sample comes where in an epoch, and who reads it: pure, the same on every machine and library version.

In an epoch all shards lie end to end, in an order that depends on (seed, epoch), and the samples of every
shard are shuffled by (seed, epoch, shard). This line is cut into lanes of equal length, and the epoch takes one
sample of every lane in turn: position p is step p // num_lanes of lane p % num_lanes. So samples that meet in a
batch come from many shards, a reader goes through few shards at a time, and neither depends on how many readers
there are.

Rank r of R reads every R-th position. What all ranks together have passed is therefore one number, and another
number of ranks can go on from it.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

from infra.errors import ConfigError
from shards.plan import hash_order


class Place(NamedTuple):
    """A sample of a dataset: the `sample_index`-th of the `shard_index`-th shard."""

    shard_index: int
    sample_index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The positions that one process reads.

    Attributes:
        worker: of `num_workers` loader processes of the rank. They take its batches in turn, `batch_positions` a
            batch, so a loader that asks them in turn gets the rank's own order.

    Raises:
        ConfigError: when built, if a number is out of range.
    """

    rank: int = 0
    num_ranks: int = 1
    worker: int = 0
    num_workers: int = 1
    batch_positions: int = 1

    def __post_init__(self) -> None:
        for name, count in (("rank", self.num_ranks), ("worker", self.num_workers)):
            index = getattr(self, name)
            if not 0 <= index < count:
                raise ConfigError(f"{name} must be from 0 to num_{name}s - 1 = {count - 1}, got {index}")
        if self.batch_positions < 1:
            raise ConfigError(f"batch_positions must be at least 1, got {self.batch_positions}")

    def positions(self, begin: int, end: int) -> Iterator[int]:
        """This process's part of the positions [begin, end), ascending."""
        of_rank = range(begin + self.rank, end, self.num_ranks)
        stride = self.num_workers * self.batch_positions
        for first in range(self.worker * self.batch_positions, len(of_rank), stride):
            yield from of_rank[first : first + self.batch_positions]


class EpochOrder:
    """The order of one epoch. Shards are shuffled when they are reached, so beginning anywhere is cheap.

    Positions may be asked in any order; ascending ones, however far apart, shuffle a shard once a lane.
    """

    def __init__(self, num_samples_by_shard: Sequence[int], *, seed: int, epoch: int, num_lanes: int) -> None:
        self._salt = f"{seed}/{epoch}"
        self._sizes = num_samples_by_shard
        self._shard_indices = _shuffled(len(num_samples_by_shard), salt=self._salt)
        self._ends = list(accumulate(num_samples_by_shard[index] for index in self._shard_indices))
        self._num_lanes = num_lanes
        self._shuffled_shard = lru_cache(maxsize=num_lanes)(self._shuffle_shard)

    @property
    def num_samples(self) -> int:
        """Positions of the epoch."""
        return self._ends[-1] if self._ends else 0

    def place(self, position: int) -> Place:
        """The sample at a position in [0, num_samples)."""
        step, lane = divmod(position, self._num_lanes)
        lane_steps, num_longer_lanes = divmod(self.num_samples, self._num_lanes)
        offset = lane * lane_steps + min(lane, num_longer_lanes) + step
        turn = bisect_right(self._ends, offset)
        shard_index = self._shard_indices[turn]
        first = self._ends[turn] - self._sizes[shard_index]
        return Place(shard_index, self._shuffled_shard(shard_index)[offset - first])

    def _shuffle_shard(self, shard_index: int) -> list[int]:
        return _shuffled(self._sizes[shard_index], salt=f"{self._salt}/{shard_index}")


def _shuffled(count: int, *, salt: str) -> list[int]:
    return [int(text) for text in hash_order(map(str, range(count)), salt=salt)]
