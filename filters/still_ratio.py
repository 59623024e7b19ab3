"""Finds freezes and slide shows: pictures that do not move."""

from itertools import pairwise

from filters.registry import Bounds, register
from filters.signals import VideoSignal
from infra.errors import TooShort

# Frames that differ by less are the same picture. Source: ffmpeg freezedetect documentation, default noise 0.001,
# which vf_freezedetect.c compares with the mean absolute difference over 256.
_STILL_LUMA_MAX = 0.001 * 256


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
    import cv2

    num_steps = len(video.luma_NHW) - 1
    if num_steps < 1:
        raise TooShort(f"still_ratio must have at least 2 frames, got {num_steps + 1}")
    most = _STILL_LUMA_MAX * video.luma_NHW[0].size
    num_still = sum(
        cv2.norm(first, second, cv2.NORM_L1) <= most for first, second in pairwise(video.luma_NHW)
    )
    return num_still / num_steps
