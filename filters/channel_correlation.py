"""Finds channels that cancel when they are mixed to mono: an inverted cable, surround trickery.

Shapes: C channels, T samples.
"""

import numpy as np

from filters.registry import Bounds, register
from filters.signals import AudioSignal
from infra.errors import TooShort


@register(
    name="channel_correlation",
    version=1,
    needs="audio",
    unit="correlation",
    keep=Bounds(),
    source="the phase correlation meter of broadcast practice: Pearson's coefficient of left and right; no bound",
)
def channel_correlation(audio: AudioSignal) -> float:
    """Correlation of the channels, in [-1, 1]: 1 equal, 0 unrelated (wide stereo), -1 inverted.

    Inverted channels leave silence in the mono sample. Several pairs of channels count by their levels: the
    sum of all covariances over the sum of what they could be. Offsets do not count. 1 where fewer than two
    channels sound, because nothing can cancel: mono, or a voice in one channel only. A delay between channels
    (comb filter) reads as less correlation, down to -1 for a tone.

    Raises:
        TooShort: fewer than 2 samples.
    """
    num_samples = audio.audio_CT.shape[1]
    if num_samples < 2:
        raise TooShort(f"channel_correlation must have at least 2 samples, got {num_samples}")
    # float64, so that an offset many times as loud as the sound does not drown it.
    centred_CT = audio.audio_CT - audio.audio_CT.mean(axis=1, keepdims=True, dtype=np.float64)
    covariance_CC = centred_CT @ centred_CT.T
    level_C = np.sqrt(np.diag(covariance_CC))
    most = level_C.sum() ** 2 - (level_C**2).sum()
    if most <= 0:
        return 1.0
    correlation = (covariance_CC.sum() - np.trace(covariance_CC)) / most
    return float(np.clip(correlation, -1, 1))
