"""Finds clips that are muted or mostly empty of sound."""

import numpy as np

from filters.registry import Bounds, register
from filters.signals import AudioSignal
from infra.errors import TooShort

# Source: ffmpeg silencedetect, default noise tolerance -60 dB (0.001 of full scale).
_SILENCE_RMS = 10 ** (-60 / 20)
# Assumption: long enough for one period of 20 Hz, short enough to see the pauses of speech.
_FRAME_S = 0.05


@register(
    name="silence_ratio",
    version=1,
    needs="audio",
    unit="ratio",
    keep=Bounds(max=0.5, strict=True),
    source="ffmpeg silencedetect documentation, default -60 dB; bound 50%: project standard",
)
def silence_ratio(audio: AudioSignal) -> float:
    """Share of `_FRAME_S` frames whose RMS is at most `_SILENCE_RMS` in every channel, in [0, 1].

    0 dBFS is an RMS of 1.0 (a full-scale sine is -3 dBFS). The loudest channel of a frame counts, so a voice in
    one of two channels is not silence. Frames do not overlap and a last partial one is left out. Hiss above
    the threshold is sound here; `snr_db` is the judge of hiss.

    Raises:
        TooShort: less than one frame.
    """
    import librosa

    frame_samples = max(round(_FRAME_S * audio.sample_rate_hz), 1)
    num_samples = audio.audio_CT.shape[1]
    if num_samples < frame_samples:
        raise TooShort(f"silence_ratio must have at least {frame_samples} samples, got {num_samples}")
    rms_C1N = librosa.feature.rms(
        y=audio.audio_CT, frame_length=frame_samples, hop_length=frame_samples, center=False
    )
    return float(np.mean(rms_C1N.max(axis=(0, 1)) <= _SILENCE_RMS))
