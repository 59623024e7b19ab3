"""Measures how much moves: from slide shows and fixed cameras to sport and shaken phones.

Shapes: N frames, H rows, W columns, M = N - 1 steps from a frame to the next.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from filters.registry import Bounds, register
from filters.signals import VideoSignal
from infra.errors import TooShort


@register(
    name="motion_score",
    version=1,
    needs="video",
    unit="luma",
    keep=Bounds(),
    source="VMAF motion2 feature (Li et al. 2016, Toward a Practical Perceptual Video Quality Metric; libvmaf"
    " integer_motion): mean change of blurred luma, the smaller of two successive steps; block means of 4 x 4"
    " instead of its 5-tap Gaussian",
)
def motion_score(video: VideoSignal) -> float:
    """Mean absolute luma change from a frame to the next after averaging over 4 x 4 pixels, in [0, 219].

    Each step counts as the smaller of itself and the next, so a cut and a change of light do not count. Measured
    between frames of the signal's rate, 1/8 s apart by default. Up to 3 rows and columns at the right and bottom
    edge are left out. Light that flickers, grain and black bars count as they are seen.

    Raises:
        TooShort: fewer than 2 frames.
    """
    import cv2

    if len(video.luma_NHW) < 2:
        raise TooShort(f"motion_score must have at least 2 frames, got {len(video.luma_NHW)}")
    blurred_NHW = _block_means(video.luma_NHW)
    num_blocks = blurred_NHW[0].size
    change_M = np.array([cv2.norm(a, b, cv2.NORM_L1) / num_blocks for a, b in pairwise(blurred_NHW)])
    return float(np.minimum(change_M, np.append(change_M[1:], change_M[-1])).mean())


def _block_means(luma_NHW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Frames averaged over 2 x 2 pixels twice; a side below 4 px stays as it is."""
    num_frames, rows, columns = luma_NHW.shape
    height, width = max(rows // 2, 1), max(columns // 2, 1)
    # One buffer a size for all frames: allocating each costs as much as the averaging. The frame itself is copied
    # before it is averaged: a plain copy waits less for memory than averaging does.
    frame_HW, half_HW = np.empty((rows, columns), np.uint8), np.empty((height, width), np.uint8)
    blurred_NHW = np.empty((num_frames, max(height // 2, 1), max(width // 2, 1)), np.uint8)
    for luma_HW, blurred_HW in zip(luma_NHW, blurred_NHW, strict=True):
        np.copyto(frame_HW, luma_HW)
        _halve(frame_HW, half_HW)
        _halve(half_HW, blurred_HW)
    return blurred_NHW


def _halve(luma_HW: NDArray[np.uint8], half_HW: NDArray[np.uint8]) -> None:
    """Average 2 x 2 pixels into one of `half_HW`."""
    import cv2

    height, width = half_HW.shape
    even_HW = luma_HW[: 2 * height, : 2 * width]
    cv2.resize(even_HW, (width, height), dst=half_HW, interpolation=cv2.INTER_AREA)
