"""Finds blurred, out-of-focus and upscaled pictures before all frames are decoded, from the key frames alone."""

from filters.black_ratio import black_frames
from filters.laplacian_variance import laplacian_variances
from filters.registry import Bounds, register
from filters.signals import KeyframeSignal
from infra.errors import TooShort


@register(
    name="keyframe_laplacian_variance",
    version=1,
    needs="keyframes",
    unit="luma^2",
    keep=Bounds(min=50),
    source="as laplacian_variance; bound: half of its bound, so that this only rejects what it would too",
)
def keyframe_laplacian_variance(keyframes: KeyframeSignal) -> float:
    """Largest variance of the 3x3 Laplacian of any key frame, inside the black bars that all share; >= 0.

    The same measure of a frame as `laplacian_variance`. The largest, not the median: one sharp key frame is
    enough to look at all frames, and 10 s have 1 to 4. In 34 clips of 17 corpus files it reads 0.90 to 2.03 times
    the full measure where that keeps the clip (21 clips, the lowest reading is 119), 0.08 to 1.56 times where it
    does not (13 clips, of which 2 read 50 or more and go on); the median would read 0.54 times once, for 3 key
    frames. 3 more clips hold no key frame. (measured: PyAV, skip_frame NONKEY against all frames at 8 a second,
    2026-11-23; tests/filters/test_keyframe_laplacian_variance.py)

    A clip whose only key frame is out of focus, or in the middle of a fade, is rejected although the rest may be
    sharp: 7 of 94 frames of street_360p.mp4 read below 50 alone, and none of the 7 other files that are kept.

    Raises:
        TooShort: there is no key frame, or only black ones, as where a film fades in: nothing to see yet.
    """
    if black_frames(keyframes.luma_KHW).all():
        num_frames = len(keyframes.luma_KHW)
        raise TooShort(
            "keyframe_laplacian_variance must have at least 1 key frame that is not black,"
            f" got {num_frames} that are black"
        )
    return float(laplacian_variances(keyframes.luma_KHW).max())
