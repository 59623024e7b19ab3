"""Which rank reads which sample when: pure, the same on every machine and in every library version.

An epoch is a circle: all shards in an order that depends on (seed, epoch). From a starting point that also
depends on (seed, epoch), the circle is cut into one stretch of equal length a rank. So a rank goes from shard to
shard with few openings, whatever the number of shards and ranks, and all ranks read equally many samples. What is
left over (fewer samples than ranks) is not read in this epoch; the starting point moves every epoch, so it is
other samples each time. Inside each run of a shard a rank reads in shuffled order: packing has mixed the sources
already, so this only has to vary what meets in a batch from epoch to epoch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

from infra.errors import ConfigError
from shards.plan import hash_order


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Samples of one shard, by their place in it, in the order in which they are to be read."""

    shard_index: int
    sample_indices: tuple[int, ...]


def samples_per_rank(num_samples: int, *, num_ranks: int) -> int:
    """Samples that every rank reads in an epoch.

    Raises:
        ConfigError: there are fewer samples than ranks, or no ranks.
    """
    if not 1 <= num_ranks <= num_samples:
        raise ConfigError(
            f"num_ranks must be from 1 to the number of samples ({num_samples}), got {num_ranks}; "
            "use fewer ranks or loader workers, or a larger dataset"
        )
    return num_samples // num_ranks


def rank_runs(
    num_samples_by_shard: Sequence[int], *, rank: int, num_ranks: int, seed: int, epoch: int, start_index: int
) -> Iterator[Run]:
    """What `rank` reads in `epoch`, in order, from its `start_index`-th sample on.

    Raises:
        ConfigError: at once, if there are fewer samples than ranks or an argument is out of range.
    """
    num_samples = sum(num_samples_by_shard)
    per_rank = samples_per_rank(num_samples, num_ranks=num_ranks)
    if not 0 <= rank < num_ranks:
        raise ConfigError(f"rank must be from 0 to {num_ranks - 1}, got {rank}")
    if not 0 <= start_index <= per_rank:
        raise ConfigError(f"start_index must be from 0 to {per_rank}, got {start_index}")
    salt = f"{seed}/{epoch}"
    begin = int.from_bytes(sha256(f"{salt}/start".encode()).digest()) % num_samples + rank * per_rank
    circle = 2 * _shuffled(range(len(num_samples_by_shard)), salt=salt)
    stretches = _cut(circle, num_samples_by_shard, begin=begin, end=begin + per_rank)
    return _without_first(_shuffled_runs(stretches, salt=f"{salt}/{rank}"), start_index)


def _cut(
    shard_indices: Sequence[int], num_samples_by_shard: Sequence[int], *, begin: int, end: int
) -> Iterator[tuple[int, range]]:
    """Shards, and places in them, that cover the positions [begin, end) of the shards laid end to end."""
    offset = 0
    for shard_index in shard_indices:
        num_samples = num_samples_by_shard[shard_index]
        places = range(max(begin - offset, 0), min(end - offset, num_samples))
        if places:
            yield shard_index, places
        offset += num_samples


def _shuffled_runs(stretches: Iterator[tuple[int, range]], *, salt: str) -> Iterator[Run]:
    for shard_index, places in stretches:
        indices = _shuffled(places, salt=f"{salt}/{shard_index}")
        yield Run(shard_index=shard_index, sample_indices=tuple(indices))


def _without_first(runs: Iterator[Run], count: int) -> Iterator[Run]:
    for run in runs:
        rest = run.sample_indices[count:]
        count = max(count - len(run.sample_indices), 0)
        if rest:
            yield Run(shard_index=run.shard_index, sample_indices=rest)


def _shuffled(numbers: Sequence[int], *, salt: str) -> list[int]:
    return [int(text) for text in hash_order(map(str, numbers), salt=salt)]
