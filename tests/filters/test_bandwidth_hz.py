import subprocess

import numpy as np
import pytest

from filters.bandwidth_hz import bandwidth_hz
from filters.signals import AudioSignal
from infra.errors import TooShort
from infra.media.child import find_ffmpeg
from tests.filters.sounds import as_signal, music_like, noise, silence, sine, speech_like, through_aac

SOUNDS = pytest.mark.parametrize("make", [speech_like, music_like, noise])
# The main lobe of the window is 4 bins of 25 Hz to each side.
LOBE_HZ = 100


def filtered(wave, sample_rate_hz, audio_filter) -> AudioSignal:
    """The wave through a filter of ffmpeg, at 48 kHz."""
    command = [str(find_ffmpeg()), "-v", "error", "-f", "f32le", "-ar", str(sample_rate_hz), "-ac", "1"]
    decoded = subprocess.run(
        [*command, "-i", "-", "-af", audio_filter, "-ar", "48000", "-f", "f32le", "-"],
        input=wave.astype("<f4").tobytes(),
        capture_output=True,
        check=True,
    ).stdout
    return AudioSignal(audio_CT=np.frombuffer(decoded, "<f4")[None], sample_rate_hz=48000)


@pytest.mark.parametrize("frequency_hz", [100, 1000, 7000, 15000])
def test_bandwidth_hz_tone_is_its_frequency(frequency_hz):
    assert bandwidth_hz(as_signal(sine(frequency_hz, 2))) == pytest.approx(frequency_hz, abs=LOBE_HZ)


@pytest.mark.parametrize(("level_db", "expected_hz"), [(-47, 12000), (-53, 1000)])
def test_bandwidth_hz_edge_is_50_db_below_the_peak(level_db, expected_hz):
    wave = sine(1000, 2) + 10 ** (level_db / 20) * sine(12000, 2)
    assert bandwidth_hz(as_signal(0.5 * wave)) == pytest.approx(expected_hz, abs=LOBE_HZ)


@SOUNDS
@pytest.mark.parametrize("sample_rate_hz", [16000, 44100, 48000])
def test_bandwidth_hz_full_band_is_half_the_rate(make, sample_rate_hz):
    wave = make(3, seed=1, sample_rate_hz=sample_rate_hz)
    assert bandwidth_hz(as_signal(wave, sample_rate_hz=sample_rate_hz)) == pytest.approx(
        sample_rate_hz / 2, rel=0.01
    )


@SOUNDS
@pytest.mark.parametrize(("resampler", "expected_hz"), [("swr", 4400), ("soxr", 3900)])
def test_bandwidth_hz_upsampled_8_khz_is_found(make, resampler, expected_hz):
    signal = filtered(make(3, seed=1, sample_rate_hz=8000), 8000, f"aresample=48000:resampler={resampler}")
    assert bandwidth_hz(signal) == pytest.approx(expected_hz, abs=200)


@pytest.mark.parametrize("make", [speech_like, music_like])
@pytest.mark.parametrize("kbps", [64, 128])
def test_bandwidth_hz_upsampled_8_khz_through_aac_is_found(make, kbps):
    signal = filtered(make(3, seed=1, sample_rate_hz=8000), 8000, "aresample=48000")
    assert bandwidth_hz(through_aac(signal, kbps)) == pytest.approx(4400, abs=200)


@SOUNDS
def test_bandwidth_hz_low_pass_at_16_khz_is_found(make):
    signal = filtered(make(3, seed=1), 48000, "firequalizer=gain='if(lt(f,16000),0,-120)'")
    assert bandwidth_hz(signal) == pytest.approx(16000, abs=200)


def test_bandwidth_hz_gain_and_offset_change_nothing():
    wave = filtered(speech_like(2, seed=1, sample_rate_hz=8000), 8000, "anull").audio_CT[0]
    expected_hz = bandwidth_hz(as_signal(wave))
    assert [bandwidth_hz(as_signal(0.01 * wave)), bandwidth_hz(as_signal(wave + 0.3))] == [expected_hz] * 2


@pytest.mark.parametrize("offset", [0.0, 0.3, 1.0])
def test_bandwidth_hz_digital_silence_is_0(offset):
    assert bandwidth_hz(as_signal(silence(1) + offset)) == 0.0


def test_bandwidth_hz_opposite_channels_cancel_as_they_do_in_the_sample():
    wave = noise(1, seed=1)
    assert bandwidth_hz(as_signal(wave, -wave)) == 0.0


def test_bandwidth_hz_less_than_a_frame_raises_too_short():
    with pytest.raises(TooShort, match="1920 samples, got 1919"):
        bandwidth_hz(as_signal(silence(1)[:1919]))
