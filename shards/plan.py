"""Which samples make which shard: pure, and independent of the order in which clips are listed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256

from infra.errors import ConfigError
from shards.manifest import shard_name


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedShard:
    """A shard that is to be written: rows [first_row, first_row + num_samples) of the plan."""

    name: str
    split: str
    first_row: int
    num_samples: int


def plan_shards(
    num_samples: Mapping[str, int], *, samples_per_shard: int, next_index: Mapping[str, int]
) -> list[PlannedShard]:
    """The shards of all splits, by name. Every shard is full but the last one of a split.

    Args:
        num_samples: rows of every split in the plan, where the splits lie one after the other, by name.
        next_index: of the first shard of a split; 0 where none is named.

    Raises:
        ConfigError: `samples_per_shard` is below 1.
    """
    if samples_per_shard < 1:
        raise ConfigError(f"samples_per_shard must be at least 1, got {samples_per_shard}")
    shards = []
    end_row = 0
    for split, count in sorted(num_samples.items()):
        first_row, end_row = end_row, end_row + count
        for index, row in enumerate(range(first_row, end_row, samples_per_shard), next_index.get(split, 0)):
            shards.append(
                PlannedShard(
                    name=shard_name(split, index),
                    split=split,
                    first_row=row,
                    num_samples=min(samples_per_shard, end_row - row),
                )
            )
    return shards


def hash_order(items: Iterable[str], *, salt: str) -> list[str]:
    """The items sorted by sha256 of `<salt>/<item>`: a shuffle that no library version can change."""
    return sorted(items, key=lambda item: (sha256(f"{salt}/{item}".encode()).digest(), item))
