import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import IntegrityError
from shards.order import EpochOrder, Share
from shards.read_state import ReadState

STATES = st.builds(
    ReadState,
    seed=st.integers(0, 2**63),
    epoch=st.integers(0, 9),
    position=st.integers(0, 2**40),
    num_lanes=st.integers(1, 99),
)
SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=8)


def read(sizes, state: ReadState, *, num_ranks: int, steps: int | None = None) -> list[list]:
    """What every rank reads from a state on: all of the epoch, or so many samples each."""
    order = EpochOrder(sizes, seed=state.seed, epoch=state.epoch, num_lanes=state.num_lanes)
    end = order.num_samples if steps is None else state.position + steps * num_ranks
    return [
        [order.place(p) for p in Share(rank=rank, num_ranks=num_ranks).positions(state.position, end)]
        for rank in range(num_ranks)
    ]


@settings(deadline=None)
@given(sizes=SIZES, data=st.data(), num_lanes=st.integers(1, 20), epoch=st.integers(0, 9))
def test_resume_on_other_numbers_of_ranks_sees_every_sample_exactly_once(sizes, data, num_lanes, epoch):
    state = ReadState(seed=3, epoch=epoch, position=0, num_lanes=num_lanes)
    seen = []
    for num_ranks in data.draw(st.lists(st.integers(1, 9), max_size=4)):
        steps = data.draw(st.integers(0, (sum(sizes) - state.position) // num_ranks))
        seen += [place for places in read(sizes, state, num_ranks=num_ranks, steps=steps) for place in places]
        state = ReadState.from_json(state.advanced(steps * num_ranks).to_json())
    last_ranks = data.draw(st.integers(1, 9))
    seen += [place for places in read(sizes, state, num_ranks=last_ranks) for place in places]
    assert sorted(seen) == [(shard, index) for shard, size in enumerate(sizes) for index in range(size)]


@settings(deadline=None)
@given(sizes=SIZES, data=st.data(), num_lanes=st.integers(1, 20))
def test_state_means_the_same_samples_whatever_the_number_of_ranks_that_led_to_it(sizes, data, num_lanes):
    start = ReadState.start(seed=1, num_lanes=num_lanes)
    [line] = read(sizes, start, num_ranks=1)
    num_ranks = data.draw(st.integers(1, 9))
    steps = data.draw(st.integers(0, len(line) // num_ranks))
    seen = [place for places in read(sizes, start, num_ranks=num_ranks, steps=steps) for place in places]
    assert sorted(seen) == sorted(line[: steps * num_ranks])


@given(state=STATES)
def test_from_json_is_the_inverse_of_to_json(state):
    assert ReadState.from_json(state.to_json()) == state
    assert ReadState.from_json(state.to_json().encode()) == state


def test_to_json_golden():
    text = '{"epoch":2,"num_lanes":64,"position":7,"seed":1}'
    assert ReadState.start(seed=1).next_epoch().next_epoch().advanced(7).to_json() == text


def test_next_epoch_begins_at_its_first_sample():
    state = ReadState.start(seed=1).advanced(7).next_epoch()
    assert (state.epoch, state.position) == (1, 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"position": -1},
        {"epoch": -1},
        {"seed": -1},
        {"num_lanes": 0},
        {"position": 1.5},
        {"position": "7"},
        {"position": True},
        {"more": 1},
    ],
)
def test_from_json_impossible_state_raises_integrity_error(changes):
    value = json.loads(ReadState.start(seed=1).to_json()) | changes
    with pytest.raises(IntegrityError):
        ReadState.from_json(json.dumps(value))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"seed": 1}'])
def test_from_json_other_text_raises_integrity_error(text):
    with pytest.raises(IntegrityError):
        ReadState.from_json(text)
