import math

import librosa
import numpy as np
import pytest
from scipy.fft import next_fast_len

from filters import snr_db as module
from filters.registry import all_filters
from filters.snr_db import snr_db
from infra.errors import TooShort
from tests.filters.sounds import (
    applause,
    as_signal,
    babble,
    event_like,
    mixed,
    music_like,
    noise,
    silence,
    sine,
    speech_like,
)

KEEP = {spec.name: spec.keep for spec in all_filters()}["snr_db"]


def readings_db(make, duration_s, sample_rate_hz, truths_db, seed):
    wave = make(duration_s, seed=seed, sample_rate_hz=sample_rate_hz)
    hiss = noise(duration_s, seed=seed + 100, sample_rate_hz=sample_rate_hz)
    return [
        snr_db(as_signal(mixed(wave, hiss, truth_db), sample_rate_hz=sample_rate_hz))
        for truth_db in truths_db
    ]


def tone(duration_s, *, seed, sample_rate_hz):
    return sine(440, duration_s, sample_rate_hz)


@pytest.mark.parametrize("make", [speech_like, event_like])
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("duration_s", "sample_rate_hz"), [(10, 48000), (4, 16000), (2, 44100)])
def test_snr_db_sound_with_gaps_in_white_noise_is_within_3_db(make, duration_s, sample_rate_hz, seed):
    truths_db = (0, 5, 10, 15, 20, 25, 30)
    readings = readings_db(make, duration_s, sample_rate_hz, truths_db, seed)
    assert np.abs(np.subtract(readings, truths_db)).max() < 3, readings


@pytest.mark.parametrize("make", [speech_like, music_like, event_like, tone])
@pytest.mark.parametrize(("sample_rate_hz", "seed"), [(48000, 4), (16000, 5), (16000, 6)])
def test_snr_db_rises_with_the_true_ratio(make, sample_rate_hz, seed):
    readings = readings_db(make, 5, sample_rate_hz, (-5, 0, 5, 10, 15, 20, 30, 40), seed)
    assert all(np.diff(readings) > 0), readings


@pytest.mark.parametrize("frequency_hz", [440, 1000, 5000])
def test_snr_db_steady_tone_in_white_noise_is_within_1_db(frequency_hz):
    for truth_db in (0, 10, 20, 30):
        wave = mixed(sine(frequency_hz, 5), noise(5, seed=7), truth_db)
        assert snr_db(as_signal(wave)) == pytest.approx(truth_db, abs=1)


def test_snr_db_clean_tone_is_kept():
    assert KEEP.admits(snr_db(as_signal(sine(440, 4))))


@pytest.mark.parametrize("slope", [0, 1, 2, 3])
@pytest.mark.parametrize("duration_s", [0.5, 2, 10])
def test_snr_db_noise_of_any_colour_is_rejected(slope, duration_s):
    assert snr_db(as_signal(noise(duration_s, seed=1, slope=slope))) < 3


@pytest.mark.parametrize("wave", [silence(2), silence(2) + 0.3], ids=["zero", "constant"])
def test_snr_db_digital_silence_is_the_minimum(wave):
    assert snr_db(as_signal(wave)) == -20.0
    assert not KEEP.admits(-20.0)


def test_snr_db_padding_with_silence_changes_nothing():
    wave = mixed(speech_like(5, seed=1), noise(5, seed=2), 10)
    padded = np.concatenate([silence(2), wave, silence(3)])
    assert snr_db(as_signal(padded)) == pytest.approx(snr_db(as_signal(wave)), abs=0.3)


def test_snr_db_noise_that_is_half_silence_is_rejected():
    assert snr_db(as_signal(np.concatenate([noise(3, seed=1), silence(3)]))) < 0


@pytest.mark.parametrize("gain", [4.0, 0.1])
def test_snr_db_does_not_depend_on_gain(gain):
    wave = mixed(speech_like(3, seed=1), noise(3, seed=2), 15)
    assert snr_db(as_signal(gain * wave)) == pytest.approx(snr_db(as_signal(wave)), abs=0.01)


def test_snr_db_opposite_channels_cancel_as_they_do_in_the_sample():
    wave = speech_like(2, seed=1)
    assert snr_db(as_signal(wave, -wave)) == -20.0


@pytest.mark.parametrize(
    ("truth_db", "lowest_db", "highest_db"),
    [(-5, -8, -4), (0, -3, 1), (10, 4, 11), (20, 8, 20), (30, 9, 29), (40, 9, 38)],
)
def test_snr_db_dense_music_reads_as_low_as_stated(truth_db, lowest_db, highest_db):
    for notes_per_s in (2, 4, 8):
        music = music_like(4, seed=3, notes_per_s=notes_per_s, sample_rate_hz=16000)
        wave = mixed(music, noise(4, seed=4, sample_rate_hz=16000), truth_db)
        assert lowest_db < snr_db(as_signal(wave, sample_rate_hz=16000)) < highest_db


@pytest.mark.parametrize(
    ("wave", "stated_db"),
    [(babble(num_voices, 4, seed=1, sample_rate_hz=16000), stated_db)
     for num_voices, stated_db in ((1, 35), (4, 20), (8, 12), (16, 6), (32, 0))]
    + [(applause(claps_per_s, 4, seed=1, sample_rate_hz=16000), stated_db)
       for claps_per_s, stated_db in ((100, 33), (300, 11), (1000, -2))],
    ids=["1 voice", "4 voices", "8 voices", "16 voices", "32 voices", "100 claps", "300 claps", "1000 claps"],
)  # fmt: skip
def test_snr_db_dense_sound_reads_as_the_noise_it_is_stated_to_be(wave, stated_db):
    assert snr_db(as_signal(wave, sample_rate_hz=16000)) == pytest.approx(stated_db, abs=3)


@pytest.mark.parametrize("make", [speech_like, event_like])
def test_snr_db_pink_noise_reads_up_to_5_db_better(make):
    for truth_db in (0, 10, 20, 30):
        wave = make(4, seed=1, sample_rate_hz=16000)
        hiss = noise(4, seed=51, slope=1, sample_rate_hz=16000)
        excess_db = snr_db(as_signal(mixed(wave, hiss, truth_db), sample_rate_hz=16000)) - truth_db
        assert -1 < excess_db < 5.5


@pytest.mark.parametrize("sample_rate_hz", [8000, 22050, 48000])
def test_power_spectra_librosa_agrees_to_the_bit(sample_rate_hz):
    wave = noise(1, seed=1, sample_rate_hz=sample_rate_hz).astype(np.float32)
    for frame_s in (module._GAP_FRAME_S, module._TONE_FRAME_S):
        half = next_fast_len(math.ceil(frame_s * sample_rate_hz / 2), real=True)
        spectra_FN = librosa.stft(wave, n_fft=2 * half, hop_length=half, center=False)
        spectra_FN = spectra_FN[math.ceil(60 * 2 * half / sample_rate_hz) :]
        expected_FN = spectra_FN.real**2 + spectra_FN.imag**2
        np.testing.assert_array_equal(module._power_spectra(wave, sample_rate_hz, frame_s), expected_FN)


@pytest.mark.parametrize("num_frames", [2, 49, 250, 251, 999, 20_000])
@pytest.mark.parametrize("quantile", [0.02, 0.05])
def test_low_quantile_is_the_order_statistic(num_frames, quantile):
    values_XN = np.random.default_rng(0).standard_normal((3, num_frames)).astype(np.float32)
    expected_X = np.sort(values_XN, axis=1)[:, max(int(quantile * num_frames), 1)]
    np.testing.assert_array_equal(module._low_quantile(values_XN, quantile), expected_X)


@pytest.mark.parametrize("duration_s", [0.5, 1, 2, 4, 10])
def test_noise_power_white_noise_is_unbiased(duration_s):
    wave = noise(duration_s, seed=11).astype(np.float32)
    for frame_s, estimate in (
        (module._GAP_FRAME_S, module._noise_power_in_gaps),
        (module._TONE_FRAME_S, module._noise_power_between_tones),
    ):
        power_FN = module._power_spectra(wave, 48000, frame_s)
        assert estimate(power_FN) == pytest.approx(power_FN.sum() / power_FN.shape[1], rel=0.12)


def test_snr_db_less_than_half_a_second_raises_too_short():
    with pytest.raises(TooShort, match=r"0\.5 s"):
        snr_db(as_signal(sine(440, 0.49)))


@pytest.mark.parametrize("sample_rate_hz", [10, 100])
def test_snr_db_rate_without_a_band_is_the_minimum(sample_rate_hz):
    wave = noise(10, seed=1, sample_rate_hz=sample_rate_hz)
    assert snr_db(as_signal(wave, sample_rate_hz=sample_rate_hz)) == -20.0
