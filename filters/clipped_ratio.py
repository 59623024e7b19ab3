"""Finds sound that was overdriven: its peaks are cut off flat."""

import numpy as np
from numpy.typing import NDArray

from filters.registry import Bounds, register
from filters.signals import AudioSignal
from infra.errors import TooShort

# Fewer samples cannot be told from the tip of a high tone (6 kHz sampled at 48 kHz has pairs of equal peaks).
_MIN_RUN_SAMPLES = 3
# A parabola seen through a level falls, half its width outside, by 3 times what it rises inside, and by at most
# 5 times once it is sampled; a plateau falls by much more than it ripples. Measured on coded clipped speech:
# 4 keeps most plateaus that AAC rippled, and no sine reads above 0 with it.
_FLATNESS_MIN = 4.0
# Most of what lies above a clipping level is plateau; above any other level, chance finds a few flat tips.
# Assumption, midway between what unclipped (<= 0.1) and clipped (>= 0.3) coded speech and music gave.
_FLAT_SHARE_MIN = 0.25
# Levels at which a plateau is looked for, as shares of the polarity's own peak: dense at the peak, where
# uncoded clipping lies, then down in steps, because a coder overshoots an edge by up to 60%.
_LEVELS = np.concatenate([[0.9999, 0.998, 0.99], np.arange(0.97, 0.29, -0.04)])
# A level below the plateau takes in its flanks too: the highest level that finds this share of the most counts.
_ENOUGH_OF_MOST = 0.75
# One 16-bit step: less ripple than this is rounding.
_STEP = 2.0**-15


def _flat_samples(
    wave_T: NDArray[np.float32], level: float, above_I: NDArray[np.intp], height_I: NDArray[np.float32]
) -> int:
    """Samples in runs above `level` that are flat, or 0 if they are too small a share of all above it.

    Args:
        above_I: indices of the samples above `level`, ascending, at least one.
        height_I: these samples.
    """
    gaps = np.flatnonzero(above_I[1:] - above_I[:-1] != 1) + 1
    bounds = np.concatenate([[0], gaps, [len(above_I)]])
    first_R, length_R = bounds[:-1], bounds[1:] - bounds[:-1]
    long_R = length_R >= _MIN_RUN_SAMPLES
    if length_R[long_R].sum() < _FLAT_SHARE_MIN * len(above_I):
        return 0
    ripple_R = np.maximum.reduceat(height_I, first_R)[long_R] - level
    start_R, length_R = above_I[first_R[long_R]], length_R[long_R]
    outside_R = length_R // 2
    before_R = wave_T[np.maximum(start_R - outside_R, 0)]
    after_R = wave_T[np.minimum(start_R + length_R - 1 + outside_R, len(wave_T) - 1)]
    fall_R = level - np.maximum(before_R, after_R)
    num_flat = int(length_R[fall_R > _FLATNESS_MIN * np.maximum(ripple_R, _STEP)].sum())
    return num_flat if num_flat >= _FLAT_SHARE_MIN * len(above_I) else 0


def _clipped_samples(wave_T: NDArray[np.float32]) -> int:
    """Samples on the upper plateau, by the highest level that finds it."""
    peak = float(wave_T.max())
    if peak <= 0:
        return 0
    # A plateau that matters holds the top 1% of samples; well below it there is only signal.
    top = float(np.quantile(wave_T[:: max(len(wave_T) // 30_000, 1)], 0.99))
    lowest = min(max(_LEVELS[-1] * peak, 0.7 * top), 0.9 * peak)
    above_I = np.flatnonzero(wave_T > lowest)
    height_I = wave_T[above_I]
    counts = []
    for level in (_LEVELS * peak)[::-1]:
        if level >= lowest:
            higher_I = height_I > level
            above_I, height_I = above_I[higher_I], height_I[higher_I]
            enough = len(above_I) >= _MIN_RUN_SAMPLES
            counts.append(_flat_samples(wave_T, float(level), above_I, height_I) if enough else 0)
    return next((count for count in reversed(counts) if count >= _ENOUGH_OF_MOST * max(counts)), 0)


@register(
    name="clipped_ratio",
    version=1,
    needs="audio",
    unit="ratio",
    keep=Bounds(max=0.005, strict=True),
    source="after Laguna and Lerch 2016 (AES 141, level pile-up and waveform shape) and Eaton and Naylor 2013"
    " (EUSIPCO, clipping that was then coded); bound 0.5%: assumption for 'no severe clipping'",
)
def clipped_ratio(audio: AudioSignal) -> float:
    """Share of samples on flat tops and bottoms at the extremes of the wave, worst channel, in [0, 1].

    A run of samples above a level is flat when the wave falls away outside it by `_FLATNESS_MIN` times its
    ripple inside, which a peak of any smooth wave does not. Levels are relative to each polarity's own peak, so
    clipping that was turned down, one-sided, or coded afterwards is found too. Synthetic speech with 0.1, 1, 5,
    15% of its samples cut reads 0.001, 0.010, 0.048, 0.15 uncoded and 0.001, 0.009, 0.046, 0.13 after AAC at
    128 kbit/s; music-like sound reads 0.040 for 5%, 0.026 after AAC; 11 corpus clips read below 0.0002.
    (measured: tests/filters/test_clipped_ratio.py, 2026-11-23)

    Not seen: clipping of full-band noise (plateaus under `_MIN_RUN_SAMPLES`, which coding removes), soft
    limiting, and clipping mixed under something louder. A square wave is flat by nature and reads near 1.

    Raises:
        TooShort: fewer than `_MIN_RUN_SAMPLES` samples.
    """
    num_samples = audio.audio_CT.shape[1]
    if num_samples < _MIN_RUN_SAMPLES:
        raise TooShort(f"clipped_ratio must have at least {_MIN_RUN_SAMPLES} samples, got {num_samples}")
    return (
        max(_clipped_samples(wave_T) + _clipped_samples(-wave_T) for wave_T in audio.audio_CT) / num_samples
    )
