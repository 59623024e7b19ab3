import numpy as np
import pytest

from filters.silence_ratio import silence_ratio
from infra.errors import TooShort
from tests.filters.sounds import as_signal, noise, silence, sine


def test_silence_ratio_digital_silence_is_one():
    assert silence_ratio(as_signal(silence(2), silence(2))) == 1.0


@pytest.mark.parametrize("offset", [0.3, -0.5, 1.0])
def test_silence_ratio_constant_is_one(offset):
    assert silence_ratio(as_signal(silence(2) + offset)) == 1.0


@pytest.mark.parametrize(("rms_dbfs", "expected"), [(-58, 0.0), (-70, 1.0)])
def test_silence_ratio_offset_changes_nothing(rms_dbfs, expected):
    hiss = 10 * noise(1, seed=0) * 10 ** (rms_dbfs / 20)
    assert silence_ratio(as_signal(hiss + 0.4)) == silence_ratio(as_signal(hiss)) == expected


@pytest.mark.parametrize("at_sample", [0, 2399, 48000])
def test_silence_ratio_click_is_one_frame_of_sound(at_sample):
    assert silence_ratio(as_signal(np.eye(1, 96000, at_sample)[0])) == 1 - 1 / 40


def test_silence_ratio_tone_is_zero():
    assert silence_ratio(as_signal(sine(440, 2))) == 0.0


@pytest.mark.parametrize("silent_tenths", [1, 3, 5, 9])
def test_silence_ratio_counts_silent_frames(silent_tenths):
    wave = np.concatenate([silence(0.1 * silent_tenths), sine(440, 0.1 * (10 - silent_tenths))])
    assert silence_ratio(as_signal(wave)) == pytest.approx(silent_tenths / 10)


def test_silence_ratio_voice_in_one_channel_is_not_silence():
    assert silence_ratio(as_signal(sine(440, 1), silence(1))) == 0.0


def test_silence_ratio_opposite_channels_are_not_silence():
    assert silence_ratio(as_signal(sine(440, 1), -sine(440, 1))) == 0.0


@pytest.mark.parametrize(("rms_dbfs", "expected"), [(-59, 0.0), (-61, 1.0)])
def test_silence_ratio_threshold_is_60_db_below_full_scale(rms_dbfs, expected):
    hiss = noise(1, seed=0)
    level = hiss / np.sqrt(np.mean(hiss**2)) * 10 ** (rms_dbfs / 20)
    assert silence_ratio(as_signal(level)) == expected


def test_silence_ratio_less_than_a_frame_raises_too_short():
    with pytest.raises(TooShort, match="2400 samples, got 2399"):
        silence_ratio(as_signal(silence(1)[:2399]))
    assert silence_ratio(as_signal(silence(1)[:2400])) == 1.0
