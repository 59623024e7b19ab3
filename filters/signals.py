"""What the filters look at: decoded luma and audio, and what models say of them. Headers: `infra.media.Probe`.

Shapes: N frames or steps, K key frames, H rows, W columns, C channels, T samples.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from infra.errors import IntegrityError, Undecodable

# +60 dBFS: far beyond what any decoder overshoots, and far below what float32 squares and sums hold. Assumption.
_MAX_SAMPLE = 1e3


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
        Undecodable: a sample is NaN, infinite or absurdly large, which broken streams of float codecs decode to.
    """

    audio_CT: NDArray[np.float32]
    """Full scale is +-1.0; lossy decoders may go beyond. T may be 0. Contiguous channels are measured fastest."""
    sample_rate_hz: int

    def __post_init__(self) -> None:
        audio = self.audio_CT
        if audio.dtype != np.float32 or audio.ndim != 2 or audio.shape[0] == 0:
            raise IntegrityError(f"audio_CT must be float32 CT, got {audio.dtype} {audio.shape}")
        if self.sample_rate_hz <= 0:
            raise IntegrityError(f"sample_rate_hz must be positive, got {self.sample_rate_hz}")
        # NaN, which both extremes pass on, compares false.
        if not max(audio.max(initial=0), -audio.min(initial=0)) <= _MAX_SAMPLE:
            num_bad = audio.size - int(np.count_nonzero(np.abs(audio) <= _MAX_SAMPLE))
            raise Undecodable(
                f"audio samples must be finite and within +-{_MAX_SAMPLE:g}, got {num_bad} of {audio.size} beyond"
            )

    @property
    def mono_T(self) -> NDArray[np.float32]:
        """Mean of the channels, which is what a sample holds; computed at each call."""
        # A quarter of the time of `mean`, which does the same.
        mono_T: NDArray[np.float32] = np.add.reduce(self.audio_CT, axis=0) / np.float32(len(self.audio_CT))
        return mono_T


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SpeechSignal:
    """How likely each stretch of one clip holds speech, as a model says that the caller ran.

    Raises:
        IntegrityError: the array is not float32 N, or a value is not in [0, 1].
    """

    probability_N: NDArray[np.float32]
    """In [0, 1], one per 32 ms of sound, in order. N may be 0."""

    def __post_init__(self) -> None:
        probability = self.probability_N
        if probability.dtype != np.float32 or probability.ndim != 1:
            raise IntegrityError(
                f"probability_N must be float32 N, got {probability.dtype} {probability.shape}"
            )
        num_bad = probability.size - int(np.count_nonzero((probability >= 0) & (probability <= 1)))
        if num_bad:
            raise IntegrityError(
                f"probability_N must be in [0, 1], got {num_bad} of {probability.size} outside"
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KeyframeSignal:
    """Luma of the key frames of one clip: what can be had without decoding the frames between.

    Raises:
        IntegrityError: the array is not uint8 KHW.
    """

    luma_KHW: NDArray[np.uint8]
    """8-bit limited-range BT.709 luma, short side 512, display order, at no steady rate. K may be 0."""

    def __post_init__(self) -> None:
        luma = self.luma_KHW
        if luma.dtype != np.uint8 or luma.ndim != 3 or 0 in luma.shape[1:]:
            raise IntegrityError(f"luma_KHW must be uint8 KHW, got {luma.dtype} {luma.shape}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AvSignal:
    """Both signals of one clip, starting at the same instant.

    Raises:
        IntegrityError: a part is of another kind.
    """

    video: VideoSignal
    audio: AudioSignal

    def __post_init__(self) -> None:
        if not isinstance(self.video, VideoSignal) or not isinstance(self.audio, AudioSignal):
            raise IntegrityError(
                "an AvSignal must hold a VideoSignal and an AudioSignal, got"
                f" {type(self.video).__name__} and {type(self.audio).__name__}"
            )
