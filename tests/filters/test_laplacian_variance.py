import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from filters.laplacian_variance import laplacian_variance
from infra.errors import TooShort
from tests.filters.pictures import as_signal, flat, scene


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


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(2, 20), st.integers(2, 20))))
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
