import numpy as np
import pytest
import torch

from model import mel


def tone(frequency_hz: float, *, num_samples: int) -> torch.Tensor:
    time_s = torch.arange(num_samples, dtype=torch.float64) / mel.SAMPLE_RATE_HZ
    noise = torch.randn(num_samples, generator=torch.Generator().manual_seed(0)).double()
    return (0.3 * torch.sin(2 * torch.pi * frequency_hz * time_s) + 0.01 * noise).float()


def test_log_mel_vocoder_extractor_agrees():
    # The vocoder's own extractor, in float64; tolerance in log10 units.
    from transformers import SpeechT5FeatureExtractor

    audio_T = tone(440, num_samples=20_000)
    extractor = SpeechT5FeatureExtractor()
    expected = extractor(audio_target=audio_T.numpy(), sampling_rate=mel.SAMPLE_RATE_HZ, return_tensors="np")
    ours = mel.log_mel_FM(audio_T).numpy()
    assert ours.shape == expected["input_values"][0].shape
    np.testing.assert_allclose(ours, expected["input_values"][0], atol=1e-4)


def test_mel_filters_librosa_agrees():
    import librosa

    expected = librosa.filters.mel(
        sr=mel.SAMPLE_RATE_HZ,
        n_fft=mel.FFT_SAMPLES,
        n_mels=mel.NUM_MEL_BINS,
        fmin=mel.MIN_FREQUENCY_HZ,
        fmax=mel.MAX_FREQUENCY_HZ,
    )
    np.testing.assert_allclose(mel.mel_filters_MQ().numpy(), expected, atol=1e-7)


@pytest.mark.parametrize(("num_samples", "num_frames"), [(16_000, 63), (32_000, 126), (160_000, 626)])
def test_log_mel_number_of_frames(num_samples, num_frames):
    assert mel.log_mel_FM(torch.zeros(num_samples)).shape == (num_frames, mel.NUM_MEL_BINS)


def test_log_mel_silence_is_the_floor():
    assert mel.log_mel_FM(torch.zeros(4096)).unique().tolist() == [-10.0]


def test_log_mel_higher_tone_peaks_in_a_higher_bin():
    peaks = [int(mel.log_mel_FM(tone(hz, num_samples=8000)).mean(dim=0).argmax()) for hz in (200, 1000, 4000)]
    assert peaks == sorted(set(peaks))


def test_denormalise_log_mel_inverts_normalise():
    log_mel = torch.linspace(-10, 1, 12)
    torch.testing.assert_close(mel.denormalise_log_mel(mel.normalise_log_mel(log_mel)), log_mel)
