import numpy as np
import pytest

from filters.black_ratio import black_ratio
from infra.errors import TooShort
from tests.filters.pictures import as_signal, flat, scene


def test_black_ratio_no_frames_raises_too_short():
    with pytest.raises(TooShort, match="got 0"):
        black_ratio(as_signal(np.zeros((0, 8, 8), np.uint8)))


@pytest.mark.parametrize(("luma", "expected"), [(0, 1), (16, 1), (37, 1), (38, 0), (235, 0)])
def test_black_ratio_bound_is_a_tenth_of_the_limited_range(luma, expected):
    assert black_ratio(as_signal([flat(luma)])) == expected


@pytest.mark.parametrize("num_black", [0, 1, 3, 4])
def test_black_ratio_counts_black_frames(num_black):
    frames = [flat(16)] * num_black + [scene(1)] * (4 - num_black)
    assert black_ratio(as_signal(frames)) == num_black / 4


@pytest.mark.parametrize(("num_lit", "expected"), [(0, 1), (2, 1), (3, 0), (100, 0)])
def test_black_ratio_two_percent_of_a_black_frame_may_be_lit(num_lit, expected):
    frame = np.full((1, 10, 10), 16, np.uint8)
    frame.flat[:num_lit] = 235
    assert black_ratio(as_signal(frame)) == expected


def test_black_ratio_fade_counts_its_dark_end():
    # 235 down to 16 in 74 steps of 3: 37 and below are the last 8 frames, 37 34 31 28 25 22 19 16.
    assert black_ratio(as_signal([flat(luma) for luma in range(235, 15, -3)])) == 8 / 74


@pytest.mark.parametrize("row", range(8))
def test_black_ratio_light_in_any_row_counts(row):
    frame = np.full((1, 16, 16), 16, np.uint8)
    frame[0, row, :6] = 235
    assert black_ratio(as_signal(frame)) == 0
