from itertools import pairwise

import cv2
import numpy as np
import pytest

from filters.motion_score import motion_score
from infra.errors import TooShort
from tests.filters.pictures import as_signal, flat, real_shots, scene
from tests.media import needs_corpus

A, B = scene(1), scene(2)


@pytest.mark.parametrize("num_frames", [0, 1])
def test_motion_score_fewer_than_two_frames_raises_too_short(num_frames):
    with pytest.raises(TooShort, match=f"got {num_frames}"):
        motion_score(as_signal(np.zeros((num_frames, 8, 8), np.uint8)))


def test_motion_score_still_picture_is_zero():
    assert motion_score(as_signal([A] * 8)) == 0


@pytest.mark.parametrize(
    ("lumas", "expected"),
    [
        ((16, 235), 219),
        ((100, 103, 106, 109), 3),
        ((100, 101, 103, 106, 110), (1 + 2 + 3 + 4) / 4),
        ((100, 104, 106, 107), (2 + 1 + 1) / 3),
        ((50, 50, 90, 90), 0),
        ((50, 50, 90, 50, 50), (0 + 40 + 0 + 0) / 4),
    ],
)
def test_motion_score_is_the_mean_of_the_smaller_of_two_steps(lumas, expected):
    assert motion_score(as_signal([flat(luma) for luma in lumas])) == pytest.approx(expected)


def test_motion_score_checkerboard_of_pixels_averages_out():
    board = np.tile(np.array([[50, 150], [150, 50]], np.uint8), (8, 8))
    assert motion_score(as_signal([board, board[::-1], board])) == 0


def test_motion_score_moving_bar_is_exact():
    # A bar of one block's width moves by its own width: 2 of 16 columns of blocks change by 200.
    frames = np.full((8, 64, 64), 16, np.uint8)
    for index in range(8):
        frames[index, :, 4 * index : 4 * index + 4] = 216
    assert motion_score(as_signal(frames)) == 200 * 2 / 16


def test_motion_score_cut_between_still_shots_is_zero():
    assert motion_score(as_signal([A] * 4 + [B] * 4)) == 0


@pytest.mark.parametrize("shape", [(1, 1), (3, 9), (2, 5)])
def test_motion_score_tiny_frames_count(shape):
    assert motion_score(as_signal([np.full(shape, 50, np.uint8), np.full(shape, 57, np.uint8)])) == 7


def test_motion_score_grows_with_the_speed_of_a_pan():
    world = scene(9, width=910 + 40 * 8, cells=9)
    scores = [
        motion_score(as_signal(np.stack([world[:, px * step : px * step + 910] for step in range(8)])))
        for px in (0, 2, 5, 10, 20, 40)
    ]
    assert scores == sorted(scores)
    assert scores[0] == 0


@needs_corpus
def test_motion_score_real_footage_is_near_the_mean_change_after_a_gaussian():
    for name in ("cockatoo_720p_20fps.mp4", "vggsound_0B4dYTMsgHA_000130.mp4", "street_360p.mp4"):
        shot_NHW = real_shots()[name]
        blurred = [cv2.GaussianBlur(luma_HW, (5, 5), 0).astype(float) for luma_HW in shot_NHW]
        change_M = np.array([np.abs(b - a).mean() for a, b in pairwise(blurred)])
        reference = np.minimum(change_M, np.append(change_M[1:], change_M[-1])).mean()
        assert motion_score(as_signal(shot_NHW)) == pytest.approx(reference, rel=0.15), name
