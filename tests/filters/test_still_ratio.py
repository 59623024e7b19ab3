import numpy as np
import pytest

from filters.still_ratio import still_ratio
from infra.errors import TooShort
from tests.filters.pictures import as_signal, flat, real_shots, scene
from tests.media import needs_corpus

A, B = scene(1), scene(2)


@pytest.mark.parametrize("num_frames", [0, 1])
def test_still_ratio_fewer_than_two_frames_raises_too_short(num_frames):
    with pytest.raises(TooShort, match=f"got {num_frames}"):
        still_ratio(as_signal(np.zeros((num_frames, 8, 8), np.uint8)))


@pytest.mark.parametrize(
    ("frames", "expected"),
    [([A, A], 1), ([A, B], 0), ([A, A, A, B, B], 0.75), ([A, B, A, B], 0), ([A, A, B, A, A], 0.5)],
)
def test_still_ratio_counts_steps_without_change(frames, expected):
    assert still_ratio(as_signal(frames)) == expected


@pytest.mark.parametrize(("num_changed", "expected"), [(25, 1), (26, 0)])
def test_still_ratio_bound_is_a_thousandth_of_256(num_changed, expected):
    # 0.256 steps on average over 100 pixels are 25.6 pixels that change by one.
    frames = np.full((2, 10, 10), 100, np.uint8)
    frames[1].flat[:num_changed] += 1
    assert still_ratio(as_signal(frames)) == expected


@pytest.mark.parametrize("row", [0, 127, 128, 300, 511])
def test_still_ratio_motion_in_any_row_counts(row):
    frames = np.stack([flat(30)] * 2)
    frames[1, row] += 132
    # 132 / 512 is 0.258 a pixel; 131 / 512 is 0.2559.
    assert still_ratio(as_signal(frames)) == 0
    frames[1, row] -= 1
    assert still_ratio(as_signal(frames)) == 1


def test_still_ratio_slide_show_counts_all_but_its_changes():
    frames = [scene(slide) for slide in range(4) for _ in range(10)]
    assert still_ratio(as_signal(frames)) == 36 / 39


def test_still_ratio_slow_fade_is_no_freeze():
    assert still_ratio(as_signal([flat(luma) for luma in range(40, 60)])) == 0


@needs_corpus
def test_still_ratio_real_footage_tells_a_screen_from_a_scene():
    scores = {name: still_ratio(as_signal(shot_NHW)) for name, shot_NHW in real_shots().items()}
    assert scores["screen_1080p_2min.mp4"] > 0.9
    assert scores["vggsound_0B4dYTMsgHA_000130.mp4"] == scores["cockatoo_720p_20fps.mp4"] == 0
