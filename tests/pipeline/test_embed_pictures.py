"""Which frames the picture encoder sees."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.embed_pictures import EMBED_SIDE_PX, embed_pictures, middle_frames

SIDE_PX = 16


def gray_frames(num_frames: int) -> np.ndarray:
    """Frame `i` has the luma 16 + i % 200 all over and no colour."""
    i420_NB = np.full((num_frames, SIDE_PX * SIDE_PX * 3 // 2), 128, np.uint8)
    i420_NB[:, : SIDE_PX * SIDE_PX] = 16 + np.arange(num_frames)[:, None] % 200
    return i420_NB


def frames_seen(num_frames: int, frame_rate_fps: Fraction) -> list[int]:
    """Which of up to 200 frames the pictures show."""
    seen_NB = gray_frames(num_frames)[middle_frames(num_frames, frame_rate_fps)]
    pictures_NHWC = embed_pictures(seen_NB, side_px=SIDE_PX)
    assert pictures_NHWC.shape[1:] == (EMBED_SIDE_PX, EMBED_SIDE_PX, 3)
    return [round(float(level) / 1.164384) for level in pictures_NHWC[:, 0, 0, 0]]


@pytest.mark.parametrize(
    ("num_frames", "frame_rate_fps", "expected"),
    [
        (80, Fraction(8), [4, 12, 20, 28, 36, 44, 52, 60, 68, 76]),
        (18, Fraction(8), [4, 12, 17]),
        (1, Fraction(8), [0]),
        (75, Fraction(25), [12, 37, 62]),
        (180, Fraction(30000, 1001), [14, 44, 74, 104, 134, 164, 179]),
        (179, Fraction(30000, 1001), [14, 44, 74, 104, 134, 164]),
        (12, Fraction(5, 2), [1, 3, 6, 8, 11]),
        (3, Fraction(1), [0, 1, 2]),
    ],
)
def test_embed_pictures_shows_the_middle_of_each_second_begun(num_frames, frame_rate_fps, expected):
    assert frames_seen(num_frames, frame_rate_fps) == expected


@settings(deadline=None, max_examples=30)
@given(
    num_frames=st.integers(1, 120),
    frame_rate_fps=st.fractions(min_value=1, max_value=60, max_denominator=1001),
)
def test_embed_pictures_one_for_each_second_begun(num_frames, frame_rate_fps):
    seen = frames_seen(num_frames, frame_rate_fps)
    assert len(seen) - 1 < num_frames / frame_rate_fps <= len(seen)
    for second, index in enumerate(seen[:-1]):
        assert index / frame_rate_fps <= second + Fraction(1, 2) < (index + 1) / frame_rate_fps
