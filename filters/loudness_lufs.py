"""Finds clips that are far too quiet or too loud to be heard beside the others.

Shapes: C channels, T samples, F frequency bins, S segments, N steps or blocks.
"""

import numpy as np
from numpy.typing import NDArray

from filters.registry import Bounds, register
from filters.signals import AudioSignal
from infra.errors import TooShort

# All numbers here: ITU-R BS.1770-4 (2015), annex 1. Blocks of 400 ms overlap by 75%: they start every 100 ms.
_STEP_S, _STEPS_PER_BLOCK = 0.1, 4
_ABSOLUTE_GATE_LUFS, _RELATIVE_GATE_LU = -70.0, -10.0
_OFFSET_LU = -0.691
# Tables 1 and 2: the two stages of the K weighting, numerator and denominator, at this rate.
_TABLE_RATE_HZ = 48000
_SHELF = ((1.53512485958697, -2.69169618940638, 1.19839281085285), (1, -1.69065929318241, 0.73248077421585))
_HIGH_PASS = ((1.0, -2.0, 1.0), (1, -1.99004745483398, 0.99007225036621))
# Tables 3 and 4: 1.41 for channels at the sides, 0 for the low-frequency one. By the number of channels, in the
# default layouts of ffmpeg (5.0, 5.1, 7.1); any other number counts all channels alike.
_CHANNEL_WEIGHTS = {5: (1, 1, 1, 1.41, 1.41), 6: (1, 1, 1, 0, 1.41, 1.41), 8: (1, 1, 1, 0, 1, 1, 1.41, 1.41)}
# The filter is applied by overlapping segments of FFT; what it remembers has died away by 1e-9 within one step.
_SEGMENT_STEPS, _MEMORY_STEPS = 4, 1
# As many as scipy transforms side by side, and few enough to stay in the cache. Costs or saves time only.
_SEGMENTS_AT_ONCE = 4


def _k_weighting(frequency_F: NDArray[np.float64]) -> NDArray[np.complex128]:
    """Response of the standard's filter at these frequencies in Hz, held constant above half its rate."""
    phase_F = 2 * np.pi * np.minimum(frequency_F / _TABLE_RATE_HZ, 0.5)
    delay_F = np.exp(-1j * phase_F)
    response_F = np.ones_like(delay_F)
    for numerator, denominator in (_SHELF, _HIGH_PASS):
        response_F *= np.polyval(numerator[::-1], delay_F) / np.polyval(denominator[::-1], delay_F)
    return response_F


def _weighted_mean_square(audio: AudioSignal, step_samples: int) -> NDArray[np.float64]:
    """Mean square of each whole step after K weighting, summed over the weighted channels, N."""
    from scipy.fft import irfft, rfft

    num_channels, num_samples = audio.audio_CT.shape
    num_steps = num_samples // step_samples
    segment_samples, memory_samples = _SEGMENT_STEPS * step_samples, _MEMORY_STEPS * step_samples
    hop_samples = segment_samples - memory_samples
    num_segments = -(-num_steps * step_samples // hop_samples)
    padded_CT = np.zeros((num_channels, memory_samples + num_segments * hop_samples), np.float32)
    whole_CT = audio.audio_CT[:, : num_steps * step_samples]
    padded_CT[:, memory_samples : memory_samples + whole_CT.shape[1]] = whole_CT
    segments_CST = np.lib.stride_tricks.sliding_window_view(padded_CT, segment_samples, axis=1)[
        :, ::hop_samples
    ]
    frequency_F = np.arange(segment_samples // 2 + 1) * audio.sample_rate_hz / segment_samples
    response_F = _k_weighting(frequency_F).astype(np.complex64)
    energy_CN = np.empty((num_channels, num_segments * (_SEGMENT_STEPS - _MEMORY_STEPS)))
    for first in range(0, num_segments, _SEGMENTS_AT_ONCE):
        spectra_CSF = rfft(segments_CST[:, first : first + _SEGMENTS_AT_ONCE])
        spectra_CSF *= response_F
        weighted_CST = irfft(spectra_CSF, segment_samples, overwrite_x=True)[:, :, memory_samples:]
        steps_CNT = weighted_CST.reshape(num_channels, -1, step_samples)
        first_step = first * (_SEGMENT_STEPS - _MEMORY_STEPS)
        energies_CN = np.einsum("cnt,cnt->cn", steps_CNT, steps_CNT)
        energy_CN[:, first_step : first_step + energies_CN.shape[1]] = energies_CN
    weights_C = np.array(_CHANNEL_WEIGHTS.get(num_channels, (1,) * num_channels))
    energy_N: NDArray[np.float64] = weights_C @ energy_CN[:, :num_steps] / step_samples
    return energy_N


def _gated_mean(energy_N: NDArray[np.float64]) -> float:
    """Mean energy of the blocks that pass both gates; 0 if none does."""
    absolute = 10 ** ((_ABSOLUTE_GATE_LUFS - _OFFSET_LU) / 10)
    loud_N = energy_N[energy_N > absolute]
    if not len(loud_N):
        return 0.0
    relative = loud_N.mean() * 10 ** (_RELATIVE_GATE_LU / 10)
    return float(loud_N[loud_N > relative].mean())


@register(
    name="loudness_lufs",
    version=2,
    needs="audio",
    unit="LUFS",
    keep=Bounds(),
    source="ITU-R BS.1770-4 (2015), annex 1, gated integrated loudness; no bound",
)
def loudness_lufs(audio: AudioSignal) -> float:
    """Integrated loudness of the clip, at least `_ABSOLUTE_GATE_LUFS`, which is also the score of silence.

    A full-scale 997 Hz sine in one of two channels reads -3.01. A mono file counts as one channel, so it reads 3
    LU less than the same sound in two. Rates other than `_TABLE_RATE_HZ` get the same response at the same
    frequency. What is left after the last whole step of 100 ms is not measured. Within 0.1 LU of ffmpeg's
    ebur128 at 44.1 and 48 kHz (tests/filters/test_loudness_lufs.py).

    Raises:
        TooShort: less than one block.
    """
    step_samples = max(round(_STEP_S * audio.sample_rate_hz), 1)
    num_samples, least = audio.audio_CT.shape[1], _STEPS_PER_BLOCK * step_samples
    if num_samples < least:
        raise TooShort(f"loudness_lufs must have at least {least} samples, got {num_samples}")
    energy_N = _weighted_mean_square(audio, step_samples)
    blocks_N = np.convolve(energy_N, np.full(_STEPS_PER_BLOCK, 1 / _STEPS_PER_BLOCK), mode="valid")
    mean = _gated_mean(blocks_N)
    return max(10 * float(np.log10(mean)) + _OFFSET_LU, _ABSOLUTE_GATE_LUFS) if mean else _ABSOLUTE_GATE_LUFS
