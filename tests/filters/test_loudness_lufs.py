import re
import subprocess

import numpy as np
import pytest
from scipy.signal import lfilter

from filters import loudness_lufs as module
from filters.loudness_lufs import loudness_lufs
from infra.errors import TooShort
from infra.media.child import find_ffmpeg
from tests.filters.sounds import as_signal, music_like, noise, silence, sine, speech_like


def tone(level_dbfs, duration_s, *, frequency_hz=1000, sample_rate_hz=48000):
    """A sine whose peak is at this level."""
    return 10 ** (level_dbfs / 20) * sine(frequency_hz, duration_s, sample_rate_hz)


def tones(*level_and_duration):
    return np.concatenate([tone(level_dbfs, duration_s) for level_dbfs, duration_s in level_and_duration])


def ebur128_lufs(signal):
    """What ffmpeg says."""
    num_channels, rate = len(signal.audio_CT), str(signal.sample_rate_hz)
    said = subprocess.run(
        [str(find_ffmpeg()), "-hide_banner", "-f", "f32le", "-ar", rate, "-ac", str(num_channels), "-i", "-",
         "-af", "ebur128=framelog=quiet", "-f", "null", "-"],
        input=signal.audio_CT.T.astype("<f4").tobytes(), capture_output=True, check=True,
    ).stderr.decode()  # fmt: skip
    return float(re.findall(r"I:\s+(-?[0-9.]+) LUFS", said)[-1])


def test_loudness_lufs_full_scale_sine_in_one_channel_is_the_standards_value():
    wave = tone(0, 2, frequency_hz=997)
    for signal in (as_signal(wave), as_signal(wave, silence(2)), as_signal(silence(2), wave)):
        assert loudness_lufs(signal) == pytest.approx(-3.01, abs=0.01)


# Source: EBU Tech 3341 (2016), table 1, cases 1 to 5, whose tolerance is 0.1 LU.
@pytest.mark.parametrize(
    ("level_and_duration", "expected_lufs"),
    [
        ([(-23, 20)], -23),
        ([(-33, 20)], -33),
        ([(-36, 10), (-23, 60), (-36, 10)], -23),
        ([(-72, 10), (-36, 10), (-23, 60), (-36, 10), (-72, 10)], -23),
        ([(-26, 20), (-20, 20.1), (-26, 20)], -23),
    ],
)
def test_loudness_lufs_ebu_stereo_tones_have_their_loudness(level_and_duration, expected_lufs):
    wave = tones(*level_and_duration)
    assert loudness_lufs(as_signal(wave, wave)) == pytest.approx(expected_lufs, abs=0.1)


def test_loudness_lufs_ebu_surround_tone_has_its_loudness():
    """Case 6 of the same table: 5.0, and 5.1 whose low-frequency channel must not count."""
    front, centre, side = tone(-28, 5), tone(-24, 5), tone(-30, 5)
    assert loudness_lufs(as_signal(front, front, centre, side, side)) == pytest.approx(-23, abs=0.1)
    with_low = as_signal(front, front, centre, tone(0, 5), side, side)
    assert loudness_lufs(with_low) == pytest.approx(-23, abs=0.1)


@pytest.mark.parametrize("sample_rate_hz", [8000, 16000, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize("frequency_hz", [40, 200, 997, 3500])
def test_loudness_lufs_same_tone_at_any_rate_reads_alike(frequency_hz, sample_rate_hz):
    in_table = lfilter(*module._HIGH_PASS, lfilter(*module._SHELF, tone(-23, 1, frequency_hz=frequency_hz)))
    expected_lufs = 10 * np.log10(2 * np.mean(in_table[24000:] ** 2)) - 0.691
    wave = tone(-23, 2, frequency_hz=frequency_hz, sample_rate_hz=sample_rate_hz)
    score = loudness_lufs(as_signal(wave, wave, sample_rate_hz=sample_rate_hz))
    assert score == pytest.approx(expected_lufs, abs=0.03)


def test_weighted_mean_square_is_the_standards_recursive_filter():
    wave = noise(1.3, seed=1) + 0.3
    weighted = lfilter(*module._HIGH_PASS, lfilter(*module._SHELF, wave))
    expected_N = (weighted[:62400].reshape(13, 4800) ** 2).mean(axis=1)
    measured_N = module._weighted_mean_square(as_signal(wave), 4800)
    assert measured_N == pytest.approx(expected_N, rel=1e-4)


@pytest.mark.parametrize(
    "signal",
    [
        as_signal(0.3 * speech_like(5, seed=1)),
        as_signal(0.05 * music_like(5, seed=1), 0.2 * speech_like(5, seed=2)),
        as_signal(noise(5, seed=1, slope=1, sample_rate_hz=44100), sample_rate_hz=44100),
        as_signal(np.concatenate([silence(2), noise(2, seed=2), 0.01 * noise(2, seed=3)])),
    ],
    ids=["speech", "stereo", "pink-44k", "gated"],
)
def test_loudness_lufs_ffmpeg_agrees(signal):
    assert loudness_lufs(signal) == pytest.approx(ebur128_lufs(signal), abs=0.1)


@pytest.mark.parametrize("gain_db", [-20, -6, 6])
def test_loudness_lufs_gain_adds(gain_db):
    wave = 0.3 * music_like(3, seed=1)
    louder = 10 ** (gain_db / 20) * wave
    assert loudness_lufs(as_signal(louder)) == pytest.approx(
        loudness_lufs(as_signal(wave)) + gain_db, abs=0.01
    )


@pytest.mark.parametrize("wave", [silence(1), tone(-80, 1)], ids=["zero", "below the gate"])
def test_loudness_lufs_silence_is_the_absolute_gate(wave):
    assert loudness_lufs(as_signal(wave, wave)) == -70.0


def test_loudness_lufs_less_than_a_block_raises_too_short():
    with pytest.raises(TooShort, match="19200 samples, got 19199"):
        loudness_lufs(as_signal(silence(1)[:19199]))
