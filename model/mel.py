"""Log mel spectrograms exactly as the SpeechT5 HiFi-GAN vocoder reads them.

Shapes: T samples, F frames, M mel bins, Q frequency bins.

Tests hold them against the vocoder's own feature extractor.
Source of every constant: transformers 5.23, SpeechT5FeatureExtractor defaults (the extractor of
microsoft/speecht5_hifigan): Slaney mel scale and norm, magnitude spectrum, log10 with a floor.
"""

import functools
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


@functools.cache
def mel_filters_MQ() -> Tensor:
    """Triangular filters of equal area over the frequency bins of the FFT, float32."""
    import librosa  # 3 s; only ranks that make spectrograms pay them.

    bank_MQ = librosa.filters.mel(
        sr=SAMPLE_RATE_HZ,
        n_fft=FFT_SAMPLES,
        n_mels=NUM_MEL_BINS,
        fmin=MIN_FREQUENCY_HZ,
        fmax=MAX_FREQUENCY_HZ,
    )
    return torch.from_numpy(bank_MQ)


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
