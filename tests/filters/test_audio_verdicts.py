"""Which of the audio standards a known sound breaks, by the default bounds."""

import numpy as np
import pytest

from filters.registry import all_filters, measure
from tests.filters.sounds import (
    as_signal,
    clipped,
    event_like,
    mixed,
    music_like,
    noise,
    silence,
    sine,
    speech_like,
)

AUDIO_FILTERS = [entry for entry in all_filters() if entry.needs == "audio"]
EMPTY = {"silence_ratio", "snr_db"}
CLICK = np.eye(1, 144000, 70000)[0]
VOICE = speech_like(3, seed=2)


def reasons(*waves):
    signal = as_signal(*waves)
    return {entry.name for entry in AUDIO_FILTERS if not entry.keep.admits(measure(entry, signal))}


@pytest.mark.parametrize(
    ("wave", "broken"),
    [
        (silence(3), EMPTY),
        (silence(3) + 0.3, EMPTY),
        (silence(3) - 1.0, EMPTY),
        (CLICK, EMPTY),
        (0.3 + 0.5 * CLICK, EMPTY),
        (np.sign(sine(440, 3)), {"clipped_ratio"}),
        (np.sign(sine(50, 3)), {"clipped_ratio"}),
        (clipped(VOICE, 0.001), set()),
        (clipped(VOICE, 0.05), {"clipped_ratio"}),
        (noise(3, seed=1), {"snr_db"}),
        (mixed(VOICE, noise(3, seed=1), 5), {"snr_db"}),
        (mixed(VOICE, noise(3, seed=1), 15), set()),
        (VOICE, set()),
        (music_like(3, seed=1), set()),
        (mixed(event_like(3, seed=1), noise(3, seed=1), 30), set()),
    ],
    ids=[
        "digital silence", "constant", "constant at full scale", "click", "click on a constant",
        "full-scale square", "low square", "0.1% clipped", "5% clipped", "noise", "5 dB", "15 dB", "speech",
        "music", "events",
    ],
)  # fmt: skip
def test_measure_known_sound_breaks_exactly_its_standards(wave, broken):
    assert reasons(wave, wave) == broken


@pytest.mark.parametrize("frequency_hz", [12000, 11025, 16000])
def test_measure_peaks_between_samples_are_not_clipping(frequency_hz):
    """The wave's true peak is up to 3 dB above its largest sample, which is at full scale."""
    wave = sine(frequency_hz, 3, phase=np.pi / 4)
    assert reasons(wave / np.abs(wave).max()) == set()


def test_measure_float_samples_beyond_full_scale_are_not_clipping():
    assert reasons(1.6 * VOICE) == set()
    assert reasons(np.clip(1.6 * VOICE, -0.4, 0.4)) == {"clipped_ratio"}


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
@pytest.mark.parametrize("entry", AUDIO_FILTERS, ids=lambda entry: entry.name)
@pytest.mark.parametrize("gain", [1e-40, 1e-20, 100, 900])
def test_measure_samples_of_a_broken_float_stream_score_a_finite_number(entry, gain):
    whole, spike = as_signal(gain * VOICE, gain * VOICE), as_signal(VOICE + gain * CLICK, VOICE)
    assert np.isfinite([measure(entry, whole), measure(entry, spike)]).all()
