import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from filters.letterbox_ratio import letterbox_ratio, picture_box
from infra.errors import TooShort
from tests.filters.pictures import as_signal, decode_luma, flat, scene
from tests.media import CORPUS, needs_corpus


def barred(*, top=0, bottom=0, left=0, right=0, bar_luma=16):
    """Six frames of two shots, with bars laid over them."""
    frames = np.stack([np.maximum(scene(index // 3), 40) for index in range(6)])
    rows, columns = frames.shape[1:]
    inside = np.zeros((rows, columns), bool)
    inside[top : rows - bottom, left : columns - right] = True
    return np.where(inside, frames, np.uint8(bar_luma))


def test_letterbox_ratio_no_frames_raises_too_short():
    with pytest.raises(TooShort, match="got 0"):
        letterbox_ratio(as_signal(np.zeros((0, 8, 8), np.uint8)))


@pytest.mark.parametrize(
    ("bars", "rows", "columns"),
    [
        ({}, 512, 910),
        ({"top": 64, "bottom": 64}, 384, 910),
        ({"left": 91, "right": 91}, 512, 728),
        ({"top": 1}, 511, 910),
        ({"right": 100}, 512, 810),
        ({"top": 50, "bottom": 62, "left": 200, "right": 210}, 400, 500),
    ],
)
def test_letterbox_ratio_is_the_share_outside_the_picture(bars, rows, columns):
    expected = pytest.approx(1 - rows * columns / (512 * 910), abs=1e-12)
    assert letterbox_ratio(as_signal(barred(**bars))) == expected


@pytest.mark.parametrize(("bar_luma", "expected"), [(0, 0.25), (16, 0.25), (24, 0.25), (25, 0), (128, 0)])
def test_letterbox_ratio_bars_are_black_up_to_24(bar_luma, expected):
    assert letterbox_ratio(as_signal(barred(top=64, bottom=64, bar_luma=bar_luma))) == expected


def test_letterbox_ratio_noise_and_a_few_lit_pixels_in_bars_are_forgiven():
    frames = barred(top=64, bottom=64)
    frames[:, :64] += np.random.default_rng(0).integers(0, 6, (6, 64, 910), np.uint8)
    frames[2, 10, 100:110] = 235
    assert letterbox_ratio(as_signal(frames)) == 0.25


@pytest.mark.parametrize("luma", [16, 24, 200])
def test_letterbox_ratio_frames_of_one_luma_have_no_bars(luma):
    assert letterbox_ratio(as_signal([flat(luma)] * 3)) == 0


def test_letterbox_ratio_black_frames_beside_pictures_do_not_count():
    frames = np.concatenate([np.full((4, 512, 910), 16, np.uint8), barred(top=128)])
    assert letterbox_ratio(as_signal(frames)) == 0.25


def test_letterbox_ratio_lines_that_are_lit_once_are_no_bars():
    frames = barred(top=64, bottom=64)
    frames[3] = 100
    assert letterbox_ratio(as_signal(frames)) == 0


def test_letterbox_ratio_lit_disc_before_black_has_no_bars():
    row, column = np.mgrid[:512, :910]
    disc = np.where((row - 256) ** 2 + (column - 455) ** 2 < 200**2, 180, 16).astype(np.uint8)
    assert letterbox_ratio(as_signal([disc] * 2)) == 0


def test_picture_box_is_rows_and_columns_of_the_picture():
    box = picture_box(barred(top=50, bottom=62, left=200, right=210))
    assert box == (slice(50, 450), slice(200, 700))


@pytest.mark.parametrize("lit_frame", [0, 3, 8, 11])
def test_picture_box_one_frame_without_bars_is_enough(lit_frame):
    frames = np.concatenate([barred(top=64, left=91)] * 2)
    frames[lit_frame] = 100
    assert picture_box(frames) == (slice(0, 512), slice(0, 910))


LUMA = hnp.arrays(
    np.uint8,
    st.tuples(st.integers(1, 20), st.integers(4, 12), st.integers(4, 12)),
    elements=st.sampled_from([16, 99]),
)


@given(LUMA)
def test_picture_box_is_that_of_the_brightest_that_each_pixel_gets(luma_NHW):
    assert picture_box(luma_NHW) == picture_box(luma_NHW.max(axis=0)[None])


@needs_corpus
@pytest.mark.parametrize(
    ("file_name", "expected"),
    [("screen_1080p_2min.mp4", 0.436), ("vggsound_0B4dYTMsgHA_000130.mp4", 0), ("world_270p.mp4", 0)],
)
def test_letterbox_ratio_real_file_has_its_golden_score(file_name, expected):
    # Measured by eye: the screen stands in a black frame; the globe turns before black space. 2026-11-23.
    frames = decode_luma(CORPUS / file_name, num_frames=12)
    assert letterbox_ratio(as_signal(frames)) == pytest.approx(expected, abs=0.005)
