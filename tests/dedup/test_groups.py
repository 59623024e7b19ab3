"""Groups from pairs: exact answers on few clips, laws on many."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dedup.groups import group_clips


def groups(pairs, sources, *, strengths=None, exact=()) -> list[int]:
    pairs_P2 = np.array(pairs, np.int64).reshape(-1, 2)
    strength_P = np.array(strengths or [1.0] * len(pairs))
    may_share_P = np.array([tuple(pair) in exact for pair in pairs], np.bool_)
    return group_clips(pairs_P2, strength_P, may_share_P, np.array(sources)).tolist()


def test_group_clips_group_is_its_smallest_clip():
    assert groups([(2, 3), (1, 2)], [0, 1, 2, 3, 4]) == [0, 1, 1, 1, 4]


def test_group_clips_no_pairs_each_is_alone():
    assert groups([], [0, 0, 0]) == [0, 1, 2]


def test_group_clips_two_clips_of_a_source_stay_apart():
    assert groups([(0, 1)], [7, 7]) == [0, 1]
    assert groups([(0, 2), (1, 2)], [7, 7, 8]) == [0, 1, 0]


def test_group_clips_stronger_pairs_come_first():
    assert groups([(0, 2), (1, 2)], [7, 7, 8], strengths=[0.5, 0.9]) == [0, 1, 1]


def test_group_clips_identical_ones_of_a_source_come_together():
    assert groups([(0, 1)], [7, 7], exact={(0, 1)}) == [0, 0]


@given(st.data())
def test_group_clips_laws(data):
    num = data.draw(st.integers(2, 12))
    sources = data.draw(st.lists(st.integers(0, 5), min_size=num, max_size=num))
    clips = st.integers(0, num - 1)
    drawn = data.draw(st.lists(st.tuples(clips, clips, st.integers(0, 3)), max_size=20))
    pairs = sorted({(min(a, b), max(a, b)): s / 3 for a, b, s in drawn if a != b}.items())
    found = groups([pair for pair, _ in pairs], sources, strengths=[s for _, s in pairs])
    shuffled = data.draw(st.permutations(pairs))
    assert groups([pair for pair, _ in shuffled], sources, strengths=[s for _, s in shuffled]) == found
    for root in set(found):
        members = [clip for clip in range(num) if found[clip] == root]
        assert min(members) == root
        assert len({sources[clip] for clip in members}) == len(members)
    # A pair that is not in one group was kept apart by a source that both groups have.
    for (first, second), _ in pairs:
        one, other = ({sources[c] for c in range(num) if found[c] == found[clip]} for clip in (first, second))
        assert found[first] == found[second] or one & other
