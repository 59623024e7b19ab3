from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import ConfigError
from shards.order import Run, rank_runs, samples_per_rank

SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=8)


def runs_of(sizes, **changes) -> list[Run]:
    arguments = {"rank": 0, "num_ranks": 1, "seed": 0, "epoch": 0, "start_index": 0, **changes}
    return list(rank_runs(sizes, **arguments))


def positions(runs: list[Run]) -> list[tuple[int, int]]:
    return [(run.shard_index, index) for run in runs for index in run.sample_indices]


def epoch_positions(sizes, *, num_ranks, seed=0, epoch=0):
    return [
        positions(runs_of(sizes, rank=rank, num_ranks=num_ranks, seed=seed, epoch=epoch))
        for rank in range(num_ranks)
    ]


def test_rank_runs_golden_order():
    # Origin: this module, 2026-11-23. Whoever resumes a training in the middle of an epoch relies on it.
    assert runs_of([3, 3, 3], num_ranks=2, rank=1, seed=1, epoch=2) == [
        Run(shard_index=0, sample_indices=(2,)),
        Run(shard_index=1, sample_indices=(0, 2, 1)),
    ]


@settings(deadline=None)
@given(sizes=SIZES, data=st.data(), seed=st.integers(0, 99), epoch=st.integers(0, 99))
def test_rank_runs_of_all_ranks_are_disjoint_equal_and_miss_only_the_remainder(sizes, data, seed, epoch):
    num_ranks = data.draw(st.integers(1, sum(sizes)))
    by_rank = epoch_positions(sizes, num_ranks=num_ranks, seed=seed, epoch=epoch)
    read = list(chain.from_iterable(by_rank))
    everything = {(shard, index) for shard, size in enumerate(sizes) for index in range(size)}
    assert {len(one) for one in by_rank} == {sum(sizes) // num_ranks}
    assert len(read) == len(set(read))
    assert set(read) <= everything
    assert len(everything - set(read)) == sum(sizes) % num_ranks


@settings(deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 99), epoch=st.integers(0, 99))
def test_rank_runs_one_rank_reads_everything(sizes, seed, epoch):
    [read] = epoch_positions(sizes, num_ranks=1, seed=seed, epoch=epoch)
    assert sorted(read) == [(shard, index) for shard, size in enumerate(sizes) for index in range(size)]


@settings(deadline=None)
@given(sizes=SIZES, data=st.data())
def test_rank_runs_open_a_shard_seldom(sizes, data):
    num_ranks = data.draw(st.integers(1, sum(sizes)))
    num_runs = sum(len(runs_of(sizes, rank=rank, num_ranks=num_ranks)) for rank in range(num_ranks))
    assert num_runs <= len(sizes) + num_ranks + 1


def test_rank_runs_epochs_and_seeds_differ():
    orders = {
        tuple(epoch_positions([5] * 8, num_ranks=1, seed=seed, epoch=epoch)[0])
        for seed in range(5)
        for epoch in range(5)
    }
    assert len(orders) == 25


def test_rank_runs_remainder_is_not_always_the_same_samples():
    everything = {(0, index) for index in range(11)}
    left_out = [
        everything - set(chain.from_iterable(epoch_positions([11], num_ranks=2, epoch=epoch)))
        for epoch in range(60)
    ]
    assert set.union(*left_out) == everything


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"rank": -1}, "rank"),
        ({"rank": 2, "num_ranks": 2}, "rank"),
        ({"num_ranks": 0}, "num_ranks"),
        ({"num_ranks": 4}, "num_ranks"),
        ({"start_index": -1}, "start_index"),
        ({"start_index": 4}, "start_index"),
    ],
)
def test_rank_runs_argument_out_of_range_raises_config_error(changes, name):
    with pytest.raises(ConfigError, match=f"^{name} must be"):
        runs_of([3], **changes)


def test_samples_per_rank_rounds_down():
    assert samples_per_rank(11, num_ranks=4) == 2


@settings(deadline=None)
@given(sizes=SIZES, data=st.data())
def test_rank_runs_start_index_continues_the_same_order(sizes, data):
    num_ranks = data.draw(st.integers(1, sum(sizes)))
    start_index = data.draw(st.integers(0, sum(sizes) // num_ranks))
    whole, tail = (positions(runs_of(sizes, num_ranks=num_ranks, start_index=i)) for i in (0, start_index))
    assert tail == whole[start_index:]


def test_rank_runs_order_inside_a_shard_varies_with_the_epoch():
    orders = {
        tuple(index - read[0][1] for _, index in read)
        for read in (epoch_positions([30], num_ranks=3, epoch=epoch)[0] for epoch in range(20))
    }
    assert len(orders) == 20
