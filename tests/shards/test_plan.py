import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import ConfigError
from shards.plan import PlannedShard, hash_order, plan_shards

COUNTS = st.dictionaries(st.sampled_from(["test", "train", "val"]), st.integers(1, 40), min_size=1)


def test_plan_shards_no_samples_gives_no_shards():
    assert plan_shards({}, samples_per_shard=3, next_index={}) == []


def test_plan_shards_splits_lie_one_after_the_other_and_indices_go_on():
    assert plan_shards({"val": 3, "train": 5}, samples_per_shard=2, next_index={"val": 7}) == [
        PlannedShard(name="train-000000.tar", split="train", first_row=0, num_samples=2),
        PlannedShard(name="train-000001.tar", split="train", first_row=2, num_samples=2),
        PlannedShard(name="train-000002.tar", split="train", first_row=4, num_samples=1),
        PlannedShard(name="val-000007.tar", split="val", first_row=5, num_samples=2),
        PlannedShard(name="val-000008.tar", split="val", first_row=7, num_samples=1),
    ]


@settings(deadline=None)
@given(counts=COUNTS, samples_per_shard=st.integers(1, 9), first=st.integers(0, 99))
def test_plan_shards_cover_every_row_once_in_full_shards(counts, samples_per_shard, first):
    shards = plan_shards(counts, samples_per_shard=samples_per_shard, next_index=dict.fromkeys(counts, first))
    rows = [row for shard in shards for row in range(shard.first_row, shard.first_row + shard.num_samples)]
    assert rows == list(range(sum(counts.values())))
    names = [shard.name for shard in shards]
    assert names == sorted(set(names))
    for split, count in counts.items():
        sizes = [shard.num_samples for shard in shards if shard.split == split]
        assert sum(sizes) == count
        assert all(size == samples_per_shard for size in sizes[:-1])


def test_plan_shards_empty_shards_raise_config_error():
    with pytest.raises(ConfigError, match="samples_per_shard"):
        plan_shards({"train": 1}, samples_per_shard=0, next_index={})


def test_hash_order_golden():
    # Origin: `printf '7/a' | sha256sum` and so on, sorted by digest, 2026-11-23.
    assert hash_order("abcde", salt="7") == list("cbaed")


def test_hash_order_seeds_give_different_orders():
    items = [str(i) for i in range(20)]
    assert len({str(hash_order(items, salt=str(seed))) for seed in range(50)}) == 50


def test_hash_order_spreads_a_source_over_shards():
    order = hash_order([f"s{source:02d}-{clip}" for source in range(50) for clip in range(10)], salt="0")
    shards = [order[first : first + 50] for first in range(0, 500, 50)]
    assert all(len({clip[:3] for clip in shard}) >= 25 for shard in shards)
