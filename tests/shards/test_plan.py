import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import ConfigError, IntegrityError
from shards.plan import plan_shards, shard_name

CLIP_IDS = st.lists(st.text("abc-0123456789", min_size=1), unique=True, max_size=50)


def test_shard_name_has_six_digits():
    assert shard_name(12) == "shard-000012.tar"


def test_plan_shards_no_clips_gives_no_shards():
    assert plan_shards([], seed=0, samples_per_shard=3) == []


def test_plan_shards_golden_order():
    # Origin: `printf '7/a' | sha256sum` and so on, sorted by digest, 2026-11-23.
    assert plan_shards(list("abcde"), seed=7, samples_per_shard=2) == [["c", "b"], ["a", "e"], ["d"]]


@settings(deadline=None)
@given(clip_ids=CLIP_IDS, seed=st.integers(0, 9), samples_per_shard=st.integers(1, 9))
def test_plan_shards_is_a_permutation_in_full_shards(clip_ids, seed, samples_per_shard):
    shards = plan_shards(clip_ids, seed=seed, samples_per_shard=samples_per_shard)
    assert sorted(clip for shard in shards for clip in shard) == sorted(clip_ids)
    assert all(len(shard) == samples_per_shard for shard in shards[:-1])
    assert all(1 <= len(shard) <= samples_per_shard for shard in shards)


@settings(deadline=None)
@given(clip_ids=CLIP_IDS, order=st.randoms(use_true_random=False))
def test_plan_shards_is_independent_of_input_order(clip_ids, order: random.Random):
    shuffled = order.sample(clip_ids, len(clip_ids))
    assert plan_shards(shuffled, seed=1, samples_per_shard=4) == plan_shards(
        clip_ids, seed=1, samples_per_shard=4
    )


def test_plan_shards_seeds_give_different_orders():
    clip_ids = [str(i) for i in range(20)]
    plans = {str(plan_shards(clip_ids, seed=seed, samples_per_shard=20)) for seed in range(50)}
    assert len(plans) == 50


def test_plan_shards_spreads_a_source_over_shards():
    clip_ids = [f"s{source:02d}-{clip}" for source in range(50) for clip in range(10)]
    shards = plan_shards(clip_ids, seed=0, samples_per_shard=50)
    assert all(len({clip[:3] for clip in shard}) >= 25 for shard in shards)


def test_plan_shards_duplicate_raises_integrity_error():
    with pytest.raises(IntegrityError, match="first b"):
        plan_shards(["a", "b", "b"], seed=0, samples_per_shard=2)


def test_plan_shards_empty_shards_raise_config_error():
    with pytest.raises(ConfigError, match="samples_per_shard"):
        plan_shards(["a"], seed=0, samples_per_shard=0)
