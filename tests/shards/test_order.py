from collections import Counter
from itertools import chain, zip_longest

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import ConfigError
from shards.order import EpochOrder, Place, Share

SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=8)
LANES = st.integers(1, 20)
SALTS = st.integers(0, 99)


def order_of(sizes, *, seed=0, epoch=0, num_lanes=3) -> EpochOrder:
    return EpochOrder(sizes, seed=seed, epoch=epoch, num_lanes=num_lanes)


def places(order: EpochOrder, positions=None) -> list[Place]:
    return [order.place(position) for position in positions or range(order.num_samples)]


def everything(sizes) -> list[Place]:
    return [Place(shard, index) for shard, size in enumerate(sizes) for index in range(size)]


def test_place_golden_order():
    # Origin: this module, 2026-11-23. Whoever resumes a training in the middle of an epoch relies on it.
    read = places(order_of([3, 3, 2], seed=1, epoch=2, num_lanes=2))
    assert read == [(2, 1), (0, 2), (2, 0), (1, 0), (0, 0), (1, 1), (0, 1), (1, 2)]


def test_place_two_lanes_take_turns_over_the_halves_of_the_line():
    line = places(order_of([3, 3, 2], num_lanes=1))
    assert places(order_of([3, 3, 2], num_lanes=2)) == list(chain(*zip(line[:4], line[4:], strict=True)))


@settings(deadline=None)
@given(sizes=SIZES, num_lanes=LANES, seed=SALTS, epoch=SALTS)
def test_place_every_sample_has_one_position(sizes, num_lanes, seed, epoch):
    order = order_of(sizes, seed=seed, epoch=epoch, num_lanes=num_lanes)
    assert sorted(places(order)) == everything(sizes)


@settings(deadline=None)
@given(sizes=SIZES, num_lanes=LANES)
def test_place_lanes_are_stretches_of_equal_length_longer_ones_first(sizes, num_lanes):
    line = places(order_of(sizes, num_lanes=1))
    read = places(order_of(sizes, num_lanes=num_lanes))
    lanes = [read[lane::num_lanes] for lane in range(num_lanes)]
    assert list(chain.from_iterable(lanes)) == line
    lengths = [len(lane) for lane in lanes]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] - lengths[-1] <= 1


@settings(deadline=None)
@given(sizes=SIZES, num_lanes=LANES)
def test_place_a_lane_goes_through_shards_one_after_the_other(sizes, num_lanes):
    read = places(order_of(sizes, num_lanes=num_lanes))
    runs = 0
    for lane in range(num_lanes):
        shards = [place.shard_index for place in read[lane::num_lanes]]
        runs += sum(one != two for one, two in zip_longest(shards, shards[1:]))
    assert runs <= len(sizes) + num_lanes - 1


def test_place_epochs_and_seeds_differ():
    orders = {
        tuple(places(order_of([5] * 8, seed=seed, epoch=epoch))) for seed in range(5) for epoch in range(5)
    }
    assert len(orders) == 25


def test_place_first_position_is_any_sample_in_some_epoch():
    first = {order_of([4, 4], epoch=epoch).place(0) for epoch in range(99)}
    assert first == set(everything([4, 4]))


@settings(deadline=None)
@given(
    begin=st.integers(0, 40),
    end=st.integers(0, 40),
    num_ranks=st.integers(1, 9),
    num_workers=st.integers(1, 4),
    batch_positions=st.integers(1, 5),
)
def test_positions_of_all_processes_have_no_overlap_and_no_gap(
    begin, end, num_ranks, num_workers, batch_positions
):
    read = Counter(
        position
        for rank in range(num_ranks)
        for worker in range(num_workers)
        for position in Share(
            rank=rank,
            num_ranks=num_ranks,
            worker=worker,
            num_workers=num_workers,
            batch_positions=batch_positions,
        ).positions(begin, end)
    )
    assert read == Counter(range(begin, end))


@settings(deadline=None)
@given(end=st.integers(0, 60), num_workers=st.integers(1, 4), batch_positions=st.integers(1, 5))
def test_positions_batches_of_workers_in_turn_are_those_of_one_worker(end, num_workers, batch_positions):
    def batches(worker: int, num_workers: int) -> list[list[int]]:
        share = Share(
            rank=1, num_ranks=2, worker=worker, num_workers=num_workers, batch_positions=batch_positions
        )
        read = list(share.positions(5, end))
        return [read[i : i + batch_positions] for i in range(0, len(read), batch_positions)]

    by_worker = [batches(worker, num_workers) for worker in range(num_workers)]
    in_turn = [batch for turn in zip_longest(*by_worker) for batch in turn if batch is not None]
    assert in_turn == batches(0, 1)


def test_positions_exact():
    assert list(Share(rank=1, num_ranks=3).positions(10, 20)) == [11, 14, 17]
    second = Share(rank=1, num_ranks=3, worker=1, num_workers=2, batch_positions=2)
    assert list(second.positions(10, 26)) == [17, 20]


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"rank": -1}, "rank"),
        ({"rank": 2, "num_ranks": 2}, "rank"),
        ({"num_ranks": 0}, "rank"),
        ({"worker": 1}, "worker"),
        ({"batch_positions": 0}, "batch_positions"),
    ],
)
def test_share_argument_out_of_range_raises_config_error(changes, name):
    with pytest.raises(ConfigError, match=f"^{name} must be"):
        Share(**changes)


def test_place_far_into_a_large_epoch_shuffles_only_what_is_asked():
    order = order_of([1000] * 10_000, num_lanes=64)
    assert order.num_samples == 10_000_000
    assert len(set(places(order, range(9_000_000, 9_000_064)))) == 64
    assert order._shuffled_shard.cache_info().misses <= 64
