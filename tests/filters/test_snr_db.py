import numpy as np
import pytest

from filters import snr_db as module
from filters.registry import all_filters
from filters.snr_db import snr_db
from infra.errors import TooShort
from tests.filters.sounds import as_signal, mixed, music_like, noise, silence, sine, speech_like

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


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("duration_s", "sample_rate_hz"), [(10, 48000), (4, 16000), (2, 44100)])
def test_snr_db_speech_in_white_noise_is_within_3_db(duration_s, sample_rate_hz, seed):
    truths_db = (0, 5, 10, 15, 20, 25, 30)
    readings = readings_db(speech_like, duration_s, sample_rate_hz, truths_db, seed)
    assert np.abs(np.subtract(readings, truths_db)).max() < 3, readings


@pytest.mark.parametrize("make", [speech_like, music_like, tone])
def test_snr_db_rises_with_the_true_ratio(make):
    readings = readings_db(make, 5, 48000, range(-5, 41, 5), 4)
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


def test_snr_db_dense_music_reads_low_but_clean_music_is_kept():
    for notes_per_s, truth_db in ((2, 20), (4, 20), (8, 20), (8, 40)):
        music = music_like(4, seed=3, notes_per_s=notes_per_s, sample_rate_hz=16000)
        wave = mixed(music, noise(4, seed=4, sample_rate_hz=16000), truth_db)
        assert 10 < snr_db(as_signal(wave, sample_rate_hz=16000)) < truth_db


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
