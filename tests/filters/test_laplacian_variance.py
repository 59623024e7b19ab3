from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from filters.laplacian_variance import laplacian_variance
from filters.letterbox_ratio import picture_box
from infra.errors import TooShort
from tests.filters.pictures import as_signal, decode_luma, flat, real_shots, scene
from tests.media import CORPUS, ffmpeg, needs_corpus


def test_laplacian_variance_no_frames_raises_too_short():
    with pytest.raises(TooShort):
        laplacian_variance(as_signal(np.zeros((0, 8, 8), np.uint8)))


def test_laplacian_variance_flat_frames_is_zero():
    assert laplacian_variance(as_signal([flat(16), flat(235)])) == 0


def test_laplacian_variance_single_bright_pixel_is_exact():
    luma = np.zeros((5, 5), np.uint8)
    luma[2, 2] = 10
    # One -40 and four +10 in 25 pixels, mean 0.
    assert laplacian_variance(as_signal([luma])) == pytest.approx((40**2 + 4 * 10**2) / 25)


def test_laplacian_variance_is_the_median_over_frames():
    sharp = np.random.default_rng(0).integers(16, 236, (64, 64), np.uint8)
    alone = laplacian_variance(as_signal([sharp]))
    assert laplacian_variance(as_signal([sharp, sharp, np.full_like(sharp, 50)])) == alone
    assert laplacian_variance(as_signal([sharp, np.full_like(sharp, 50)])) == alone / 2


LIT_FRAMES = hnp.arrays(
    np.uint8,
    st.tuples(st.integers(1, 4), st.integers(1, 20), st.integers(1, 20)),
    elements=st.integers(25, 255),
)


@given(LIT_FRAMES)
def test_laplacian_variance_equals_opencv_in_float64(luma_NHW):
    expected = np.median([cv2.Laplacian(luma_HW, cv2.CV_64F, ksize=1).var() for luma_HW in luma_NHW])
    assert laplacian_variance(as_signal(luma_NHW)) == pytest.approx(expected, rel=1e-9, abs=1e-6)


def test_laplacian_variance_falls_with_blur():
    rng = np.random.default_rng(1)
    sharp = np.clip(scene(1) + rng.normal(0, 12, (512, 910)), 16, 235).astype(np.uint8)
    scores = [
        laplacian_variance(as_signal([cv2.GaussianBlur(sharp, (0, 0), sigma)])) for sigma in (0.5, 1, 2, 4)
    ]
    assert scores == sorted(scores, reverse=True)
    assert laplacian_variance(as_signal([sharp])) > 100 > scores[-1]


@pytest.mark.parametrize(("top", "left"), [(0, 0), (64, 0), (0, 90), (64, 90)])
def test_laplacian_variance_black_bars_are_left_out_with_their_edges(top, left):
    picture = np.random.default_rng(2).integers(40, 236, (512, 910), np.uint8)
    inside = picture[top : 512 - top, left : 910 - left]
    barred = np.pad(inside, ((top, top), (left, left)), constant_values=16)
    rows, columns = 8 * (top > 0), 8 * (left > 0)
    away = inside[rows : len(inside) - rows, columns : inside.shape[1] - columns]
    assert laplacian_variance(as_signal([barred])) == laplacian_variance(as_signal([away]))


def test_laplacian_variance_thin_picture_between_bars_is_measured():
    strip = np.full((512, 910), 16, np.uint8)
    strip[250:260] = np.random.default_rng(3).integers(40, 236, (10, 910), np.uint8)
    assert laplacian_variance(as_signal([strip])) == laplacian_variance(as_signal([strip[252:258]])) > 1000


@needs_corpus
def test_laplacian_variance_real_clips_fall_with_every_step_of_gaussian_blur():
    for name, shot_NHW in real_shots().items():
        rows, columns = picture_box(shot_NHW)
        sharp = shot_NHW[::8, rows, columns][:, 8:-8, 8:-8]
        blurred = [
            [cv2.GaussianBlur(luma_HW, (0, 0), sigma) for luma_HW in sharp]
            for sigma in (0.5, 0.7, 1, 1.5, 2, 3, 4, 6)
        ]
        scores = [laplacian_variance(as_signal(frames)) for frames in (sharp, *blurred)]
        assert all(sharper > softer for sharper, softer in pairwise(scores)), name


def remade(file_name, folder, filters):
    """The first second of a corpus file after ffmpeg filters, nearly lossless, as the pipeline decodes it."""
    path = folder / "remade.mp4"
    ffmpeg(
        "-i", CORPUS / file_name, "-t", "1", "-vf", filters,
        "-c:v", "libx264", "-preset", "ultrafast", "-crf", "12", "-c:a", "aac", path,
    )  # fmt: skip
    return laplacian_variance(as_signal(decode_luma(path, num_frames=8)))


@needs_corpus
@pytest.mark.parametrize("file_name", ["bigbuckbunny_720p.mp4", "vggsound_0B4dYTMsgHA_000130.mp4"])
def test_laplacian_variance_real_clip_in_other_sizes_and_frames_stays_in_its_band(file_name, tmp_path):
    whole = remade(file_name, tmp_path, "scale=-2:720")
    bands = {
        "scale=-2:480:flags=bicubic": (0.7, 1),
        "scale=-2:1080:flags=bicubic": (0.85, 1.15),
        "scale=-2:720,pad=ih*2.39:ih:(ow-iw)/2:0": (0.85, 1.15),  # pillarboxed, at the same scale
        "scale=-2:720,pad=iw:iw*3/4:0:(oh-ih)/2": (1, 1.8),  # letterboxed, hence seen at 3/4 of the scale
    }
    ratios = {filters: remade(file_name, tmp_path, filters) / whole for filters in bands}
    assert {
        filters: low <= ratios[filters] <= high for filters, (low, high) in bands.items()
    } == dict.fromkeys(bands, True), ratios
