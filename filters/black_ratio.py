"""Finds clips that are black for a while: fades, gaps between programmes, covered lenses."""

import numpy as np
from numpy.typing import NDArray

from filters.registry import Bounds, register
from filters.signals import VideoSignal
from infra.errors import TooShort

# Source: ffmpeg blackdetect documentation, default pixel_black_th 0.10 of the range; vf_blackdetect.c rounds down.
_BLACK_LUMA_MAX = int(16 + 0.10 * (235 - 16))
# Source: ffmpeg blackdetect documentation, default picture_black_ratio_th.
_BLACK_PIXEL_RATIO_MIN = 0.98
# Most frames are lit, which some rows prove: every one of so many. Costs or saves time only.
_SOME_EVERY = 8


def black_frames(luma_NHW: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which of the frames are black, N."""
    import cv2

    # One buffer for all frames: allocating each costs more than the comparison.
    buffer_HW = np.empty(luma_NHW.shape[1:], np.uint8)
    num_pixels = buffer_HW.size

    def is_lit(luma_HW: NDArray[np.uint8]) -> bool:
        lit_HW = buffer_HW[: len(luma_HW)]
        cv2.threshold(luma_HW, _BLACK_LUMA_MAX, 255, cv2.THRESH_BINARY, dst=lit_HW)
        return num_pixels - cv2.countNonZero(lit_HW) < _BLACK_PIXEL_RATIO_MIN * num_pixels

    return np.array([not is_lit(frame[::_SOME_EVERY]) and not is_lit(frame) for frame in luma_NHW], np.bool_)


@register(
    name="black_ratio",
    version=1,
    needs="video",
    unit="ratio",
    keep=Bounds(),
    source="ffmpeg blackdetect (pixel_black_th 0.10, picture_black_ratio_th 0.98), without its least duration",
)
def black_ratio(video: VideoSignal) -> float:
    """Share of the frames that are black, in [0, 1]: 98% of the pixels at a luma of at most 37 (16 is black).

    A small lit subject or a title on black, below 2% of the picture, counts as black.

    Raises:
        TooShort: there is no frame.
    """
    if len(video.luma_NHW) == 0:
        raise TooShort("black_ratio must have at least 1 frame, got 0")
    return float(black_frames(video.luma_NHW).mean())
