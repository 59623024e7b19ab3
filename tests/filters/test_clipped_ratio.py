import numpy as np
import pytest

from filters.clipped_ratio import clipped_ratio
from filters.registry import all_filters
from infra.errors import TooShort
from tests.filters.sounds import (
    as_signal,
    clipped,
    music_like,
    noise,
    silence,
    sine,
    speech_like,
    through_aac,
)

KEEP = {spec.name: spec.keep for spec in all_filters()}["clipped_ratio"]


def test_clipped_ratio_plateaus_are_counted_exactly():
    wave = np.array([0, 0.5, 1, 1, 1, 1, 0.5, 0, -0.5, -0.9, -0.5, 0])
    assert clipped_ratio(as_signal(wave)) == pytest.approx(4 / 12)


def test_clipped_ratio_worst_channel_counts():
    wave = np.array([0, 0.5, 1, 1, 1, 1, 0.5, 0])
    assert clipped_ratio(as_signal(0.1 * np.sin(np.arange(8)), wave)) == pytest.approx(4 / 8)


def test_clipped_ratio_one_polarity_is_enough():
    wave = speech_like(3, seed=2)
    limit = np.quantile(wave, 0.97)
    assert clipped_ratio(as_signal(np.minimum(wave, limit))) == pytest.approx(0.03, rel=0.2)


@pytest.mark.parametrize("gain", [1.0, 0.5, 0.02])
def test_clipped_ratio_turned_down_afterwards_is_still_clipped(gain):
    wave = clipped(speech_like(3, seed=2), 0.05)
    assert clipped_ratio(as_signal(gain * wave)) == pytest.approx(0.05, rel=0.2)


def test_clipped_ratio_overdriven_sine_is_what_was_cut():
    wave = 2 * sine(220, 1)
    assert clipped_ratio(as_signal(np.clip(wave, -1, 1))) == pytest.approx(
        np.mean(np.abs(wave) > 1), abs=0.01
    )


@pytest.mark.parametrize(
    "wave",
    [silence(1), np.eye(1, 48000, 24000)[0], speech_like(3, seed=1), music_like(3, seed=1), noise(1, seed=0)],
    ids=["silence", "click", "speech", "music", "white"],
)
def test_clipped_ratio_unclipped_sound_is_zero(wave):
    assert clipped_ratio(as_signal(wave)) == 0.0


def test_clipped_ratio_full_scale_sines_are_zero():
    rng = np.random.default_rng(0)
    frequencies_hz = [20, 50, 440, 997, 1000, 4000, 6000, 8000, 12000, *rng.uniform(20, 20000, 30)]
    waves = [sine(frequency_hz, 0.5) for frequency_hz in frequencies_hz]
    sixteen_bit = [np.round(wave * 32767) / 32768 for wave in waves]
    assert clipped_ratio(as_signal(*waves, *sixteen_bit)) == 0.0


@pytest.mark.parametrize("make", [speech_like, music_like])
@pytest.mark.parametrize("sample_rate_hz", [16000, 48000])
def test_clipped_ratio_follows_the_share_that_was_cut(make, sample_rate_hz):
    wave = make(4, seed=3, sample_rate_hz=sample_rate_hz)
    for share in (0.05, 0.15, 0.4):
        score = clipped_ratio(as_signal(clipped(wave, share), sample_rate_hz=sample_rate_hz))
        assert score == pytest.approx(share, rel=0.3)


@pytest.mark.parametrize("make", [speech_like, music_like])
@pytest.mark.parametrize("sample_rate_hz", [16000, 48000])
@pytest.mark.parametrize(("share", "kept"), [(0.001, True), (0.05, False), (0.15, False), (0.4, False)])
def test_clipped_ratio_verdict_survives_aac(make, sample_rate_hz, share, kept):
    wave = make(4, seed=3, sample_rate_hz=sample_rate_hz)
    signal = as_signal(clipped(wave, share), sample_rate_hz=sample_rate_hz)
    scores = [clipped_ratio(signal), clipped_ratio(through_aac(signal))]
    assert [KEEP.admits(score) for score in scores] == [kept, kept], scores


def test_clipped_ratio_unclipped_speech_through_aac_is_near_zero():
    assert clipped_ratio(through_aac(as_signal(speech_like(4, seed=5)))) < 0.0005


def test_clipped_ratio_too_few_samples_raises_too_short():
    with pytest.raises(TooShort, match="at least 3 samples, got 2"):
        clipped_ratio(as_signal(np.ones(2)))
