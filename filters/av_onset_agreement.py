"""Measures whether things are heard when they are seen to happen: off-screen sound, dubbing, sound out of step.

Shapes: N frames, M = N - 1 steps from a frame to the next, Q windows, L samples of a window, F frequency bins,
B bands, E events.
"""

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from filters.registry import Bounds, register
from filters.signals import AudioSignal, AvSignal, VideoSignal
from infra.errors import TooShort

F64 = NDArray[np.float64]

# Spectra are taken this often a step, over twice that time: 31 ms and 63 ms at 8 frames a second. Source:
# librosa.onset.onset_strength has 23 ms and 93 ms by default.
_SPECTRA_PER_STEP = 4
# Bands of equal width in pitch, 3 an octave. Below is rumble (as in snr_db), above is hiss. Assumption.
_MIN_FREQUENCY_HZ, _MAX_FREQUENCY_HZ, _BANDS_PER_OCTAVE = 60.0, 16_000.0, 3
# Power below the loudest is silence, and so is any power below the second (-90 dBFS). Source of the first:
# librosa.power_to_db, default top_db 80.
_RANGE_DB, _EMPTY_MEAN_SQUARE = 80.0, 1e-9
# An event stands out by this much from the mean of the steps around it, up to so many a side: a sound that raises
# a fifth of the bands by 15 dB, a change of luma 1.4 times as large. Of 16 pairs the one that best told real clips
# from themselves with the sound turned round (see below): weak evidence.
_ONSET_DB, _MOTION_RATIO, _AROUND_STEPS = 3.0, 1.4, 4
# A smaller change, in luma steps, is noise. Source: ffmpeg freezedetect, what it takes for a still picture.
_STILL_LUMA = 0.001 * 256
# An event that is heard may be a step off from where it is seen. Source: AV-Align, a frame to each side.
_WINDOW_STEPS = 1
# Fewer hold no step with one on both sides.
_MIN_STEPS = 3
# Motion is taken of one row of so many, because what moves covers many rows. Assumption.
_ROW_EVERY = 4


def _motion_strength(video: VideoSignal) -> F64:
    """Logarithm of the mean absolute luma change of each step, M."""
    import cv2

    rows_NHW = video.luma_NHW[:, ::_ROW_EVERY]
    change_M = [cv2.norm(first, second, cv2.NORM_L1) for first, second in pairwise(rows_NHW)]
    return np.log(np.array(change_M) / rows_NHW[0].size + _STILL_LUMA)


def _bands(frequency_F: F64) -> NDArray[np.intp]:
    """First bin of each band, and the bin where the last ends; bands without a bin are left out."""
    num_bands = int(np.log2(_MAX_FREQUENCY_HZ / _MIN_FREQUENCY_HZ) * _BANDS_PER_OCTAVE)
    edges_hz = _MIN_FREQUENCY_HZ * 2 ** (np.arange(num_bands + 1) / _BANDS_PER_OCTAVE)
    bins: NDArray[np.intp] = np.unique(np.searchsorted(frequency_F, edges_hz))
    return bins


def _onset_strength(audio: AudioSignal, num_steps: int, step_samples: Fraction) -> F64:
    """Largest rise of the spectrum in each step, in dB, falls as 0, mean over bands; 0 at the start; M."""
    from scipy.fft import rfft

    hop_samples = step_samples / _SPECTRA_PER_STEP
    window_samples = max(math.floor(2 * hop_samples), 1)
    frequency_F = np.arange(window_samples // 2 + 1) * audio.sample_rate_hz / window_samples
    bins = _bands(frequency_F)
    if len(bins) < 2:
        return np.zeros(num_steps)
    # The second half of window q is quarter q + 1, so the first quarter of all is never new sound.
    starts_Q = np.arange(num_steps * _SPECTRA_PER_STEP - 1) * hop_samples.numerator // hop_samples.denominator
    windows_QL = np.lib.stride_tricks.sliding_window_view(audio.mono_T, window_samples)[starts_Q]
    spectra_QF = rfft(windows_QL * np.hanning(window_samples).astype(np.float32))[:, : bins[-1]]
    power_QB = np.add.reduceat(spectra_QF.real**2 + spectra_QF.imag**2, bins[:-1], axis=1)
    # Parseval, one-sided; a Hann window keeps 3/8 of the power.
    empty = _EMPTY_MEAN_SQUARE * window_samples**2 * 3 / 16
    level_QB = 10 * np.log10(
        np.maximum(power_QB, max(float(power_QB.max()) * 10 ** (-_RANGE_DB / 10), empty))
    )
    rise_Q = np.maximum(np.diff(level_QB, axis=0), 0).mean(axis=1, dtype=np.float64)
    return np.concatenate([[0, 0], rise_Q]).reshape(num_steps, _SPECTRA_PER_STEP).max(axis=1)


def _events(strength_M: F64, least: float) -> NDArray[np.intp]:
    """Steps above the one before, not below the one after, and above the mean around them by `least`, E."""
    padded = np.concatenate([[-np.inf], strength_M, [-np.inf]])
    peak_M = (strength_M > padded[:-2]) & (strength_M >= padded[2:])
    around = np.ones(2 * _AROUND_STEPS + 1)
    total_M, count_M = (
        np.convolve(values_M, around)[_AROUND_STEPS:-_AROUND_STEPS]
        for values_M in (strength_M, np.ones_like(strength_M))
    )
    return np.flatnonzero(peak_M & (strength_M >= total_M / count_M + least))


def _num_matched(heard_E: NDArray[np.intp], seen_E: NDArray[np.intp]) -> int:
    """Most pairs of an event heard and one seen within the window, none used twice."""
    heard, seen, num_pairs = list(heard_E), list(seen_E), 0
    while heard and seen:
        late = heard[-1] - seen[-1]
        num_pairs += abs(late) <= _WINDOW_STEPS
        if late >= -_WINDOW_STEPS:
            heard.pop()
        if late <= _WINDOW_STEPS:
            seen.pop()
    return num_pairs


@register(
    name="av_onset_agreement",
    version=1,
    needs="av",
    unit="ratio",
    keep=Bounds(),
    source="AV-Align (Yariv et al. 2023, arXiv 2309.16429; av_align.py of guyyariv/TempoTokens, commit 34d9502):"
    " IoU of audio onsets and motion peaks; no bound",
)
def av_onset_agreement(av: AvSignal) -> float:
    """Events both heard and seen over all events heard or seen, in [0, 1]; 0 where nothing is heard or seen.

    Heard: an onset, a rise of the spectrum (spectral flux). Seen: a peak of the change of luma from a frame to the
    next, which a cut or a flash is too. They agree within `_WINDOW_STEPS` steps between frames, 1/8 s by default.
    Steady sound, soft onsets and steady motion are no events, so 0 says that no agreement was found, not that
    sound and picture are out of step; a score is worth more the more events a clip has.

    Flashes and clicks at the same instants read 1. Real clips share few of their events: 7 clips of the corpus
    with both kinds read 0.17 on average, and 0.10 with the sound turned round by 0.5 s and more; 4 of the 7 read
    more in step than so. Too few to show that it tells the two apart. (measured on the corpus, 2026-11-23)

    What differs from AV-Align: luma change at the signal's rate instead of Farneback optical flow at the
    source's; onsets on the clock of the picture, at most one a step; peaks must stand out from the steps around
    them by a fixed amount (there librosa's peak picking, relative to the clip's loudest, and every local maximum
    of the flow); a window of a frame is 125 ms, not 33 to 42, and its end counts; pairs are one to one, so the
    ratio cannot pass 1.

    Raises:
        TooShort: fewer than `_MIN_STEPS` steps that both cover.
    """
    video, audio = av.video, av.audio
    step_samples = audio.sample_rate_hz / video.frame_rate_fps
    num_steps = min(len(video.luma_NHW) - 1, math.floor(audio.audio_CT.shape[1] / step_samples))
    if num_steps < _MIN_STEPS:
        raise TooShort(f"av_onset_agreement must have at least {_MIN_STEPS} steps, got {max(num_steps, 0)}")
    heard_E = _events(_onset_strength(audio, num_steps, step_samples), _ONSET_DB)
    seen_E = _events(_motion_strength(video)[:num_steps], math.log(_MOTION_RATIO))
    num_agreed = _num_matched(heard_E, seen_E)
    return num_agreed / max(len(heard_E) + len(seen_E) - num_agreed, 1)
