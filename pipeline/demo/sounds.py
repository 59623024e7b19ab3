"""Sounds whose signal, noise and pauses are known: mono float32 in [-1, 1], every one from a seed.

Shapes: T samples, K partials.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]

NOISE_FLOOR_DBFS = -66.0
"""Level of the faint noise under every sound but silence."""

_PEAK_DBFS = -6.0
_CLIP_GAIN_DB = 30.0


class _Struck(NamedTuple):
    """What rings when it is struck."""

    ratios: tuple[float, ...]
    """Frequencies of the partials, as multiples of the pitch."""
    decay_s: float
    """Time in which it falls by e."""


_BELL = _Struck((1.0, 2.76, 5.4), 0.12)  # Ratios of a struck bar: Fletcher and Rossing 1998, section 2.15.
_STRING = _Struck((1.0, 2.0, 3.0, 4.0, 5.0), 0.09)


def speech_like(duration_s: float, sample_rate_hz: int, seed: int) -> F32:
    """Syllables of a gliding harmonic voice in phrases; about a third of the time is pause."""
    rng = np.random.default_rng(seed)
    time_T = np.arange(round(duration_s * sample_rate_hz)) / sample_rate_hz
    pitch_T = 120.0 + 30.0 * (seed % 3) + 12.0 * np.sin(2 * np.pi * 0.7 * time_T)
    phase_T = 2 * np.pi * np.cumsum(pitch_T) / sample_rate_hz
    voice_T = _partials(
        phase_T, num_partials=16, pitch_hz=float(pitch_T.max()), sample_rate_hz=sample_rate_hz
    )
    envelope_T = np.zeros_like(time_T)
    start_s = 0.1
    while start_s < duration_s:
        for _ in range(int(rng.integers(4, 7))):
            length_s = float(rng.uniform(0.14, 0.26))
            where = _span(start_s, length_s, sample_rate_hz)
            rise_T = np.sin(np.pi * (time_T[where] - start_s) / length_s)
            envelope_T[where] = rng.uniform(0.6, 1.0) * np.maximum(rise_T, 0.0)
            start_s += length_s + 0.03
        start_s += float(rng.uniform(0.35, 0.5))
    return _over_noise(voice_T * envelope_T, rng)


def pings(duration_s: float, sample_rate_hz: int, seed: int) -> F32:
    """Struck bells that ring out over faint noise, one every half second."""
    rng = np.random.default_rng(seed)
    sound_T = np.zeros(round(duration_s * sample_rate_hz))
    for start_s in np.arange(0.15, duration_s, 0.5):
        pitch_hz = float(rng.uniform(500, 1500))
        _add_struck(sound_T, start_s, sample_rate_hz, pitch_hz, _BELL)
    return _over_noise(sound_T, rng)


def plucks(duration_s: float, sample_rate_hz: int, seed: int) -> F32:
    """A plucked string: bars of six notes from a pentatonic scale and a rest."""
    rng = np.random.default_rng(seed)
    sound_T = np.zeros(round(duration_s * sample_rate_hz))
    for index, start_s in enumerate(np.arange(0.1, duration_s, 0.25)):
        if index % 8 < 6:
            semitones = int(rng.choice([0, 2, 4, 7, 9, 12, 14]))
            pitch_hz = 220.0 * 2 ** (semitones / 12)
            _add_struck(sound_T, start_s, sample_rate_hz, pitch_hz, _STRING)
    return _over_noise(sound_T, rng)


def silence(duration_s: float, sample_rate_hz: int, seed: int) -> F32:
    """Nothing at all: digital zero."""
    del seed
    return np.zeros(round(duration_s * sample_rate_hz), np.float32)


def noisy_speech(duration_s: float, sample_rate_hz: int, seed: int) -> F32:
    """`speech_like` with white noise of twice its mean power."""
    speech_T = 0.5 * speech_like(duration_s, sample_rate_hz, seed)
    power = float(np.mean(np.square(speech_T, dtype=np.float64)))
    noise_T = np.random.default_rng(seed + 1).normal(0.0, np.sqrt(2 * power), len(speech_T))
    return np.clip(speech_T + noise_T, -1.0, 1.0).astype(np.float32)


def clipped_speech(duration_s: float, sample_rate_hz: int, seed: int) -> F32:
    """`speech_like`, far too loud and cut off at full scale."""
    loud_T = speech_like(duration_s, sample_rate_hz, seed) * 10 ** (_CLIP_GAIN_DB / 20)
    return np.clip(loud_T, -1.0, 1.0)


def _partials(
    phase_T: NDArray[np.float64], *, num_partials: int, pitch_hz: float, sample_rate_hz: int
) -> NDArray[np.float64]:
    """Harmonics that fall by 1/k, those above 0.45 of the sample rate left out."""
    orders = [k for k in range(1, num_partials + 1) if k * pitch_hz < 0.45 * sample_rate_hz]
    sound_T = np.zeros_like(phase_T)
    for order in orders:
        sound_T += np.sin(order * phase_T) / order
    return sound_T


def _add_struck(
    sound_T: NDArray[np.float64], start_s: float, sample_rate_hz: int, pitch_hz: float, struck: _Struck
) -> None:
    """Add partials that begin at once and die away, higher ones softer."""
    # After 14 decay times it is 120 dB down and nothing is left to add.
    where = _span(start_s, 14 * struck.decay_s, sample_rate_hz)
    since_T = np.arange(len(sound_T[where])) / sample_rate_hz
    partials_T = sum(
        np.sin(2 * np.pi * ratio * pitch_hz * since_T) / order
        for order, ratio in enumerate(struck.ratios, start=1)
    )
    sound_T[where] += partials_T * np.exp(-since_T / struck.decay_s)


def _span(start_s: float, length_s: float, sample_rate_hz: int) -> slice:
    return slice(round(start_s * sample_rate_hz), round((start_s + length_s) * sample_rate_hz))


def _over_noise(sound_T: NDArray[np.float64], rng: np.random.Generator) -> F32:
    """The sound at its peak level, on the noise floor."""
    scaled_T = sound_T * (10 ** (_PEAK_DBFS / 20) / np.abs(sound_T).max())
    return (scaled_T + rng.normal(0.0, 10 ** (NOISE_FLOOR_DBFS / 20), len(sound_T))).astype(np.float32)
