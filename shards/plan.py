"""Which sample goes where at pack time: pure, and independent of the order in which clips are listed."""

from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import sha256

from infra.errors import ConfigError, IntegrityError


def plan_shards(clip_ids: Sequence[str], *, seed: int, samples_per_shard: int) -> list[list[str]]:
    """Clip ids of every shard, in order. Every shard is full but the last.

    Clips of one source are spread over all shards, so that a reader which goes through a shard from
    front to back meets unrelated clips.

    Raises:
        ConfigError: `samples_per_shard` is below 1.
        IntegrityError: a clip is listed twice.
    """
    if samples_per_shard < 1:
        raise ConfigError(f"samples_per_shard must be at least 1, got {samples_per_shard}")
    twice = sorted(clip_id for clip_id, count in Counter(clip_ids).items() if count > 1)
    if twice:
        raise IntegrityError(
            f"every clip must be listed once, got {len(twice)} listed more often, first {twice[0]}"
        )
    shuffled = hash_order(clip_ids, salt=str(seed))
    return [shuffled[i : i + samples_per_shard] for i in range(0, len(shuffled), samples_per_shard)]


def shard_name(index: int) -> str:
    """File name of shard `index`, in [0, 1e6); names sort by index."""
    assert 0 <= index < 1_000_000, f"shard index must have at most six digits, got {index}"
    return f"shard-{index:06d}.tar"


def hash_order(items: Iterable[str], *, salt: str) -> list[str]:
    """The items sorted by sha256 of `<salt>/<item>`: a shuffle that no library version can change."""
    return sorted(items, key=lambda item: (sha256(f"{salt}/{item}".encode()).digest(), item))
