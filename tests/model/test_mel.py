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


def test_mel_filters_are_triangles_of_equal_area():
    """Slaney's norm: an area of 1 over frequency, up to the grid of the FFT."""
    bank_MQ = mel.mel_filters_MQ()
    assert bank_MQ.shape == (mel.NUM_MEL_BINS, mel.FFT_SAMPLES // 2 + 1)
    area_M = bank_MQ.sum(dim=1) * mel.SAMPLE_RATE_HZ / mel.FFT_SAMPLES
    torch.testing.assert_close(area_M, torch.ones(mel.NUM_MEL_BINS), atol=0.25, rtol=0)
    torch.testing.assert_close(area_M[-20:], torch.ones(20), atol=0.01, rtol=0)


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
