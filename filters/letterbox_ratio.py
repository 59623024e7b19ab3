"""Finds pictures inside black borders: letterboxed, pillarboxed and window-boxed clips.

Shapes: N frames, H rows, W columns.
"""

import numpy as np
from numpy.typing import NDArray

from filters.registry import Bounds, register
from filters.signals import VideoSignal
from infra.errors import TooShort

# A pixel is lit above this luma. Source: ffmpeg cropdetect documentation, default limit 24 / 255.
_BLACK_LUMA_MAX = 24
# A line of pixels is black when less than this share of it is ever lit. Source: ffmpeg blackdetect documentation,
# default picture_black_ratio_th 0.98.
_LIT_RATIO_MIN = 0.02
# A border ends at a straight edge: this share of one of the picture's first lines is lit (coding and scaling blur
# the very first). Assumption; what it leaves out is a lit subject before a black ground.
_EDGE_RATIO_MIN, _EDGE_LINES = 0.5, 4
# Most clips have no bars, which a few frames prove: every one of so many. Costs or saves time only.
_FEW_EVERY = 8


def picture_box(luma_NHW: NDArray[np.uint8]) -> tuple[slice, slice]:
    """Rows and columns of the picture without the black bars beside it; never empty.

    A line is part of a bar when it is black in all N >= 1 frames, and so is every line from it to the edge of the
    frame, and when the bar ends at a straight edge. A clip that is black throughout has no bars.
    """
    import cv2

    if _fills_frame(luma_NHW[::_FEW_EVERY]):
        return slice(0, luma_NHW.shape[1]), slice(0, luma_NHW.shape[2])
    brightest_HW = luma_NHW[0].copy()
    for luma_HW in luma_NHW[1:]:
        cv2.max(brightest_HW, luma_HW, dst=brightest_HW)
    lit_HW = brightest_HW > _BLACK_LUMA_MAX
    rows = _lit_span(lit_HW.mean(axis=1))
    columns = _lit_span(lit_HW[rows].mean(axis=0))
    return _straight(rows, lit_HW[:, columns].mean(axis=1)), _straight(columns, lit_HW[rows].mean(axis=0))


def _fills_frame(luma_NHW: NDArray[np.uint8]) -> bool:
    """Whether some frame lights each of the frame's outermost lines: then no frames more can show a bar."""
    outermost = (luma_NHW[:, 0], luma_NHW[:, -1], luma_NHW[:, :, 0], luma_NHW[:, :, -1])
    return all((line_NX.max(axis=0) > _BLACK_LUMA_MAX).mean() >= _LIT_RATIO_MIN for line_NX in outermost)


def _lit_span(lit_ratio: NDArray[np.float64]) -> slice:
    """From the first to the last line that is not black; all lines when every one is."""
    lit = np.flatnonzero(lit_ratio >= _LIT_RATIO_MIN)
    return slice(int(lit[0]), int(lit[-1]) + 1) if len(lit) else slice(0, len(lit_ratio))


def _straight(span: slice, lit_ratio: NDArray[np.float64]) -> slice:
    """The span, up to the edge of the frame on a side where it does not begin at once."""
    inside = lit_ratio[span]
    starts = inside[:_EDGE_LINES].max() >= _EDGE_RATIO_MIN
    ends = inside[-_EDGE_LINES:].max() >= _EDGE_RATIO_MIN
    return slice(span.start if starts else 0, span.stop if ends else len(lit_ratio))


@register(
    name="letterbox_ratio",
    version=1,
    needs="video",
    unit="ratio",
    keep=Bounds(),
    source="after ffmpeg cropdetect (limit 24) on the brightest that each pixel gets; straight edges: assumption",
)
def letterbox_ratio(video: VideoSignal) -> float:
    """Share of the frame outside the picture, in constant black bars, in [0, 1).

    Bars of other colours, with subtitles in them or with a blurred copy of the picture are not seen, nor bars
    beside a picture that is black at that edge. A clip that is black throughout scores 0.

    Raises:
        TooShort: there is no frame.
    """
    if len(video.luma_NHW) == 0:
        raise TooShort("letterbox_ratio must have at least 1 frame, got 0")
    rows, columns = picture_box(video.luma_NHW)
    frame_HW = video.luma_NHW[0]
    return 1 - frame_HW[rows, columns].size / frame_HW.size
