"""What the filters look at: decoded luma and audio. Headers come as `infra.media.Probe`.

Shapes: N frames, H rows, W columns, C channels, T samples.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from infra.errors import IntegrityError, Undecodable


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VideoSignal:
    """Luma of one clip at the rate and size at which all video filters are defined.

    Raises:
        IntegrityError: the array is not uint8 NHW, or the rate is not a positive Fraction.
    """

    luma_NHW: NDArray[np.uint8]
    """8-bit limited-range (16 black, 235 white) BT.709 luma, short side 512, display order. N may be 0."""
    frame_rate_fps: Fraction
    """Rate of these frames (the recipe's target rate), not of the source."""

    def __post_init__(self) -> None:
        luma = self.luma_NHW
        if luma.dtype != np.uint8 or luma.ndim != 3 or 0 in luma.shape[1:]:
            raise IntegrityError(f"luma_NHW must be uint8 NHW, got {luma.dtype} {luma.shape}")
        if not isinstance(self.frame_rate_fps, Fraction) or self.frame_rate_fps <= 0:
            raise IntegrityError(f"frame_rate_fps must be a positive Fraction, got {self.frame_rate_fps!r}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AudioSignal:
    """Audio of one clip at the source's own rate and channels.

    Raises:
        IntegrityError: the array is not float32 CT with a channel, or the rate is not positive.
        Undecodable: a sample is NaN or infinite, which broken streams of float codecs decode to.
    """

    audio_CT: NDArray[np.float32]
    """Full scale is +-1.0; lossy decoders may go beyond. T may be 0."""
    sample_rate_hz: int

    def __post_init__(self) -> None:
        audio = self.audio_CT
        if audio.dtype != np.float32 or audio.ndim != 2 or audio.shape[0] == 0:
            raise IntegrityError(f"audio_CT must be float32 CT, got {audio.dtype} {audio.shape}")
        if self.sample_rate_hz <= 0:
            raise IntegrityError(f"sample_rate_hz must be positive, got {self.sample_rate_hz}")
        num_bad = audio.size - int(np.count_nonzero(np.isfinite(audio)))
        if num_bad:
            raise Undecodable(f"audio samples must be finite, got {num_bad} of {audio.size} that are not")
