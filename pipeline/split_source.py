"""Stage: a window of a source -> the frames at its beginning that are one clip."""

import numpy as np
from numpy.typing import NDArray

from filters.cuts_per_s import cut_frames

MARGIN_FRAMES = 4
"""Frames behind a window that `shot_frames` looks at: a cut is told from a flash by what comes after it."""


def shot_frames(luma_NHW: NDArray[np.uint8], max_frames: int) -> int:
    """How many frames at the beginning belong to one shot, at most `max_frames`.

    Args:
        luma_NHW: the window and `MARGIN_FRAMES` more, or less where the source ends.
    """
    cuts = cut_frames(luma_NHW)
    return int(min([max_frames, len(luma_NHW), *cuts[:1]]))
