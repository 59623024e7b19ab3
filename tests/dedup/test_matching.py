"""How alike sets of codes are, on sets whose answer is plain."""

import numpy as np

from dedup.bands import as_words
from dedup.matching import CodeSets, candidate_pairs, likeness
from dedup.pdq import MIRROR_MASK
from dedup.picture import picture_bands

BANDS = picture_bands(max_distance=30)


def moments(*seeds: int, parts: int = 2) -> np.ndarray:
    """Codes [M, S, 32] of moments, one a seed."""
    shape = (parts, 32)
    codes = [np.random.default_rng(seed).integers(0, 256, shape, np.uint8) for seed in seeds]
    return np.stack(codes) if codes else np.empty((0, *shape), np.uint8)


def sets_of(*clips: np.ndarray) -> CodeSets:
    codes = np.concatenate(clips)
    words = as_words(codes.reshape(-1, 32)).reshape(*codes.shape[:2], 4)
    return CodeSets(codes_MSW=words, num_C=np.array([len(clip) for clip in clips]))


def alike(one: np.ndarray, other: np.ndarray) -> tuple[float, int]:
    like = likeness(sets_of(one, other), np.array([[0, 1]]), BANDS)
    return float(like.similarity_P[0]), int(like.num_shared_P[0])


def test_likeness_equal_sets_are_one():
    assert alike(moments(1, 2, 3), moments(1, 2, 3)) == (1.0, 3)


def test_likeness_order_and_repetition_do_not_count():
    assert alike(moments(1, 2, 3), moments(3, 1, 2, 1)) == (1.0, 3)


def test_likeness_is_the_share_of_both():
    assert alike(moments(1, 2, 3, 4), moments(1, 5)) == (2 / 6, 1)


def test_likeness_of_strangers_and_of_nothing_is_zero():
    assert alike(moments(1, 2), moments(3, 4)) == (0.0, 0)
    assert alike(moments(1, 2), moments()) == (0.0, 0)


def test_likeness_mirrored_sets_are_one_and_half_mirrored_ones_half():
    mirrored = moments(1, 2) ^ MIRROR_MASK
    assert alike(moments(1, 2), mirrored) == (1.0, 2)
    assert alike(moments(1, 2), np.concatenate([mirrored[:1], moments(2)])) == (0.5, 1)


def test_likeness_a_part_of_one_may_be_near_another_part_of_the_other():
    cropped = moments(1, 2)
    cropped[:, 0], cropped[:, 1] = cropped[:, 1].copy(), moments(8, 9)[:, 1]
    assert alike(moments(1, 2), cropped) == (1.0, 2)


def test_likeness_pairs_do_not_depend_on_each_other():
    clips = [moments(*range(start, start + 3)) for start in (0, 1, 2, 7)] + [moments()]
    pairs_P2 = np.array([(i, j) for i in range(5) for j in range(i)])
    together = likeness(sets_of(*clips), pairs_P2, BANDS).similarity_P.tolist()
    assert together == [alike(clips[i], clips[j])[0] for i, j in pairs_P2]


def test_candidate_pairs_are_those_with_a_new_clip_and_a_near_code():
    sets = sets_of(moments(1, 2), moments(5), moments(2, 3), moments(), moments(3, 1))
    is_new_C = np.array([False, True, True, True, False])
    pairs_P2, work = candidate_pairs(sets, is_new_C, BANDS)
    assert pairs_P2.tolist() == [[0, 2], [2, 4]]
    assert work.num_codes == 14


def test_code_sets_only_keeps_the_clips_without_moments():
    sets = sets_of(moments(1, 2), moments(3)).only(np.array([False, True, False]))
    assert (sets.num_C.tolist(), sets.first_C.tolist(), len(sets.codes_MSW)) == ([1, 0], [0, 1], 1)
