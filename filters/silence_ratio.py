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
    version=2,
    needs="audio",
    unit="ratio",
    keep=Bounds(max=0.5, strict=True),
    source="ffmpeg silencedetect documentation, default -60 dB; bound 50%: project standard",
)
def silence_ratio(audio: AudioSignal) -> float:
    """Share of `_FRAME_S` frames whose RMS is at most `_SILENCE_RMS` in every channel, in [0, 1].

    The RMS is taken about the frame's own mean: a constant makes no sound, so an offset, as cheap sound cards
    add, neither hides silence nor counts as sound. 0 dBFS is an RMS of 1.0 (a full-scale sine is -3 dBFS). The
    loudest channel of a frame counts, so a voice in one of two channels is not silence. Frames do not overlap
    and a last partial one is left out. Hiss above the threshold is sound here; `snr_db` is the judge of hiss.

    Raises:
        TooShort: less than one frame.
    """
    frame_samples = max(round(_FRAME_S * audio.sample_rate_hz), 1)
    num_channels, num_samples = audio.audio_CT.shape
    if num_samples < frame_samples:
        raise TooShort(f"silence_ratio must have at least {frame_samples} samples, got {num_samples}")
    num_frames = num_samples // frame_samples
    frames_CNT = audio.audio_CT[:, : num_frames * frame_samples].reshape(num_channels, num_frames, -1)
    return float(np.mean(frames_CNT.std(axis=2).max(axis=0) <= _SILENCE_RMS))
