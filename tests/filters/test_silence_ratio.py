import numpy as np
import pytest

from filters.silence_ratio import silence_ratio
from infra.errors import TooShort
from tests.filters.sounds import as_signal, noise, silence, sine


def test_silence_ratio_digital_silence_is_one():
    assert silence_ratio(as_signal(silence(2), silence(2))) == 1.0


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
