"""Finds freezes and slide shows: pictures that do not move."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from filters.registry import Bounds, register
from filters.signals import VideoSignal
from infra.errors import TooShort

# Frames that differ by less are the same picture. Source: ffmpeg freezedetect documentation, default noise 0.001,
# which vf_freezedetect.c compares with the mean absolute difference over 256.
_STILL_LUMA_MAX = 0.001 * 256
# So many rows are compared at once. Costs or saves time only.
_ROWS_AT_ONCE = 128


@register(
    name="still_ratio",
    version=1,
    needs="video",
    unit="ratio",
    keep=Bounds(),
    source="ffmpeg freezedetect (noise 0.001), step by step on luma, without its least duration",
)
def still_ratio(video: VideoSignal) -> float:
    """Share of the steps from a frame to the next in which the picture stands still, in [0, 1].

    Still is a mean absolute luma change of at most `_STILL_LUMA_MAX`. A talking head in a large still frame
    moves by more; grain and coding noise on a still may do so too. A source of fewer frames a second than the
    signal repeats some of them: 5 a second read 0.375 at 8.

    Raises:
        TooShort: fewer than 2 frames.
    """
    num_steps = len(video.luma_NHW) - 1
    if num_steps < 1:
        raise TooShort(f"still_ratio must have at least 2 frames, got {num_steps + 1}")
    return sum(_stands_still(first, second) for first, second in pairwise(video.luma_NHW)) / num_steps


def _stands_still(first_HW: NDArray[np.uint8], second_HW: NDArray[np.uint8]) -> bool:
    """Whether the mean change is within the bound; most steps move, which some of the rows prove."""
    import cv2

    change, most = 0.0, _STILL_LUMA_MAX * first_HW.size
    for top in range(0, len(first_HW), _ROWS_AT_ONCE):
        rows = slice(top, top + _ROWS_AT_ONCE)
        change += cv2.norm(first_HW[rows], second_HW[rows], cv2.NORM_L1)
        if change > most:
            return False
    return True
