"""Log mel spectrograms exactly as the SpeechT5 HiFi-GAN vocoder reads them.

Shapes: T samples, F frames, M mel bins, Q frequency bins.

The bank is computed here, not by librosa, whose import costs a rank 3 s at start; tests hold it against
librosa and against the vocoder's own feature extractor.
Source of every constant: transformers 5.23, SpeechT5FeatureExtractor defaults (the extractor of
microsoft/speecht5_hifigan): Slaney mel scale and norm, magnitude spectrum, log10 with a floor.
"""

import functools
import math
from fractions import Fraction

import torch
from torch import Tensor

SAMPLE_RATE_HZ = 16_000
HOP_SAMPLES = 256
HOP_S = Fraction(HOP_SAMPLES, SAMPLE_RATE_HZ)
FFT_SAMPLES = 1024
NUM_MEL_BINS = 80
MIN_FREQUENCY_HZ = 80.0
MAX_FREQUENCY_HZ = 7600.0
MEL_FLOOR = 1e-10

# Mean and standard deviation of log10 mel, one number each: measured on the nine corpus clips with sound,
# rounded, 2026-11-23. They only set the scale that the model sees.
_LOG_MEL_MEAN = -2.0
_LOG_MEL_STD = 1.2

# Source: Slaney 1998, Auditory Toolbox, technical report 1998-010: linear to 1 kHz, logarithmic above.
_HZ_A_LINEAR_MEL = 200.0 / 3
_BREAK_HZ = 1000.0
_BREAK_MEL = _BREAK_HZ / _HZ_A_LINEAR_MEL
_LOG_STEP = math.log(6.4) / 27


def _hz_to_mel(frequency_hz: float) -> float:
    if frequency_hz < _BREAK_HZ:
        return frequency_hz / _HZ_A_LINEAR_MEL
    return _BREAK_MEL + math.log(frequency_hz / _BREAK_HZ) / _LOG_STEP


def _mel_to_hz(mel: Tensor) -> Tensor:
    above = _BREAK_HZ * torch.exp(_LOG_STEP * (mel - _BREAK_MEL))
    return torch.where(mel < _BREAK_MEL, mel * _HZ_A_LINEAR_MEL, above)


@functools.cache
def mel_filters_MQ() -> Tensor:
    """Triangular filters of equal area over the frequency bins of the FFT, float32."""
    low, high = _hz_to_mel(MIN_FREQUENCY_HZ), _hz_to_mel(MAX_FREQUENCY_HZ)
    corner_hz = _mel_to_hz(torch.linspace(low, high, NUM_MEL_BINS + 2, dtype=torch.float64))
    bin_hz_Q = torch.linspace(0, SAMPLE_RATE_HZ / 2, FFT_SAMPLES // 2 + 1, dtype=torch.float64)
    left, centre, right = corner_hz[:-2, None], corner_hz[1:-1, None], corner_hz[2:, None]
    rising_MQ = (bin_hz_Q - left) / (centre - left)
    falling_MQ = (right - bin_hz_Q) / (right - centre)
    triangles_MQ = torch.minimum(rising_MQ, falling_MQ).clamp(min=0)
    return (triangles_MQ * 2 / (right - left)).float()


def log_mel_FM(audio_T: Tensor) -> Tensor:
    """Log10 mel frames of mono audio in [-1, 1] at `SAMPLE_RATE_HZ`; frame j is centred at j * `HOP_S`.

    There are 1 + T // `HOP_SAMPLES` frames.
    """
    spectrum_QF = torch.stft(
        audio_T.float(),
        n_fft=FFT_SAMPLES,
        hop_length=HOP_SAMPLES,
        window=torch.hann_window(FFT_SAMPLES),
        center=True,
        pad_mode="reflect",
        return_complex=True,
    ).abs()
    return (mel_filters_MQ() @ spectrum_QF).clamp(min=MEL_FLOOR).log10().T


def normalise_log_mel(log_mel: Tensor) -> Tensor:
    """Log mel on the scale that the model sees."""
    return (log_mel - _LOG_MEL_MEAN) / _LOG_MEL_STD


def denormalise_log_mel(normalised: Tensor) -> Tensor:
    """Inverse of `normalise_log_mel`; what the vocoder reads."""
    return normalised * _LOG_MEL_STD + _LOG_MEL_MEAN
