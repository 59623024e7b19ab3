"""Pictures with a known answer: shots of 910x512 luma at 8 frames a second."""

from fractions import Fraction

import cv2
import numpy as np
from numpy.typing import NDArray

from filters.signals import VideoSignal

Luma = NDArray[np.uint8]


def as_signal(luma_NHW: Luma | list[Luma], frame_rate_fps: int = 8) -> VideoSignal:
    return VideoSignal(luma_NHW=np.asarray(luma_NHW, dtype=np.uint8), frame_rate_fps=Fraction(frame_rate_fps))


def scene(seed: int, *, width: int = 910, height: int = 512, cells: int = 7) -> Luma:
    """Smooth blobs, as different from another seed's as two shots are."""
    coarse = np.random.default_rng(seed).uniform(30, 220, (cells, cells * 2)).astype(np.float32)
    picture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(picture, 16, 235).astype(np.uint8)


def flat(luma: int) -> Luma:
    return np.full((512, 910), luma, np.uint8)
