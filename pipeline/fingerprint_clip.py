"""Stage: frames and sound of a kept clip -> the fingerprints by which copies of it are found.

They are made of the whole picture as the source has it, without constant black bars, not of the square that
is written: the square depends on the recipe's crop and shows a third to a half less, so that two cuts of one
video (wide and upright, say) have squares that share nothing, but pictures that do.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dedup.picture import picture_codes
from dedup.sound import sound_codes
from filters.letterbox_ratio import picture_box

PICTURE_KIND, PICTURE_VERSION = "pdq", 1
SOUND_KIND, SOUND_VERSION = "haitsma_kalker", 1
"""A version goes up whenever the same clip would have other codes; only codes of one version are compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """Codes of 256 bits of a clip, one after another: a row of `fingerprints`."""

    kind: str
    version: int
    num_codes: int
    """0 where there is nothing to tell clips by: plain pictures, silence."""
    codes: bytes


def fingerprint_clip(
    luma_NHW: NDArray[np.uint8], mono_T: NDArray[np.float32], *, rate_fps: float
) -> tuple[Fingerprint, ...]:
    """One fingerprint of the picture and one of the sound.

    Args:
        luma_NHW: the whole frames, limited range, before any crop.
        mono_T: the sound at `dedup.sound.SOUND_RATE_HZ`.
        rate_fps: rate of the frames.
    """
    rows, columns = picture_box(luma_NHW)
    picture = picture_codes(luma_NHW[:, rows, columns], rate_fps=rate_fps)
    return (
        _fingerprint(PICTURE_KIND, PICTURE_VERSION, picture),
        _fingerprint(SOUND_KIND, SOUND_VERSION, sound_codes(mono_T)),
    )


def _fingerprint(kind: str, version: int, codes: NDArray[np.uint8]) -> Fingerprint:
    num_codes = codes.size // codes.shape[-1]
    return Fingerprint(kind=kind, version=version, num_codes=num_codes, codes=codes.tobytes())
