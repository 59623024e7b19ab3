"""Finds sound whose band is narrower than its rate says: upsampled telephone speech, hard lossy coding.

Shapes: T samples, N frames, L samples of a frame, F frequency bins.
"""

import numpy as np

from filters.registry import Bounds, register
from filters.signals import AudioSignal
from infra.errors import TooShort

# 25 Hz a bin; longer frames spread the edges of a band no less. Assumption.
_FRAME_S = 0.04
# Source: NVIDIA/NeMo-speech-data-processor, commit 2f63993, estimate_bandwidth.py: the band ends where the mean
# spectrum stays this far below its peak. There at 512 points of 44.1 kHz; the frame here is longer.
_EDGE_DB = -50.0
# A peak below is rumble, hum or an offset, and says nothing about the band (as in snr_db). Assumption.
_MIN_FREQUENCY_HZ = 60.0
# A spectrum with no bin above this holds nothing: digital silence, and what rounding leaves of an offset.
_EMPTY_MEAN_SQUARE = 1e-12
# Source: Harris 1978 (Proc. IEEE 66(1)), 4-term Blackman-Harris, table 1: side lobes at -92 dB, so that a low
# tone does not leak into the bins that are compared with it.
_WINDOW = (0.35875, -0.48829, 0.14128, -0.01168)


@register(
    name="bandwidth_hz",
    version=2,
    needs="audio",
    unit="Hz",
    keep=Bounds(),
    source="NeMo-speech-data-processor EstimateBandwidth (mean power spectrum, -50 dB), a criterion for speech as"
    " in Bakhturina et al. 2021 (Hi-Fi TTS, arXiv 2104.01497); no bound",
)
def bandwidth_hz(audio: AudioSignal) -> float:
    """Highest frequency at which the mean power spectrum is within `_EDGE_DB` of its peak, in [0, rate / 2].

    Of the mean of the channels, which is what a sample holds; 0 for digital silence. Speech and music upsampled
    from 8 kHz read 3.8 to 4.6 kHz (a resampler's transition band is inside), also after AAC; a low-pass at 16 kHz
    reads 16.0 to 16.2 kHz. 9 corpus files read between 4.0 kHz (sampled at 8 kHz) and 15.8 kHz (AAC).
    (measured: tests/filters/test_bandwidth_hz.py, 2026-11-23)

    Not seen: a band that was filled afterwards, by noise at full rate, by a resampler that lets images through
    (linear interpolation), or by AAC that spends its bits on steady noise (4.4 to 17 kHz for 4). A spectrum that
    falls by 50 dB by itself (a lone bass, a muffled voice) reads as its own band, not as the channel's.

    Raises:
        TooShort: less than one frame.
    """
    from scipy.fft import next_fast_len, rfft

    frame_samples = next_fast_len(max(round(_FRAME_S * audio.sample_rate_hz), 1), real=True)
    mono_T = audio.mono_T
    num_frames = len(mono_T) // frame_samples
    if num_frames == 0:
        raise TooShort(f"bandwidth_hz must have at least {frame_samples} samples, got {len(mono_T)}")
    mono_T -= mono_T.mean(dtype=np.float64)
    angle_L = 2 * np.pi * np.arange(frame_samples) / frame_samples
    window_L = sum(term * np.cos(order * angle_L) for order, term in enumerate(_WINDOW))
    frames_NL = mono_T[: num_frames * frame_samples].reshape(num_frames, frame_samples)
    spectra_NF = rfft(frames_NL * window_L.astype(np.float32))
    power_F = np.einsum("nf,nf->f", spectra_NF.real, spectra_NF.real)
    power_F += np.einsum("nf,nf->f", spectra_NF.imag, spectra_NF.imag)
    frequency_F = np.arange(len(power_F)) * audio.sample_rate_hz / frame_samples
    peak = power_F[frequency_F >= _MIN_FREQUENCY_HZ].max(initial=0)
    if peak <= _EMPTY_MEAN_SQUARE * num_frames * frame_samples**2:
        return 0.0
    return float(frequency_F[power_F >= peak * 10 ** (_EDGE_DB / 10)].max())
