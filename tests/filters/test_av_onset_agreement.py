from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from filters import av_onset_agreement as module
from filters.av_onset_agreement import av_onset_agreement
from filters.signals import AudioSignal, AvSignal, VideoSignal
from infra.errors import TooShort
from tests.filters.pictures import scene
from tests.filters.sounds import noise, sine

NUM_STEPS = 79
RATE_HZ = 16_000
STEP_SAMPLES = RATE_HZ // 8
SHOT = scene(1, width=91, height=64)
# Far enough apart that no two are within the window of each other.
EVENTS = [6, 13, 22, 28, 37, 46, 53, 61, 70]


def flashes(steps):
    """A still picture, lit in the one frame that each of these steps leads to."""
    luma_NHW = np.stack([SHOT] * (NUM_STEPS + 1))
    for step in steps:
        luma_NHW[step + 1] = np.minimum(SHOT.astype(int) + 60, 235)
    return luma_NHW


def jumps(steps):
    """A picture that stands still but for a jump to one side in each of these steps."""
    shifts = np.cumsum([0, *(12 * (step in steps) for step in range(NUM_STEPS))])
    return np.stack([np.roll(SHOT, shift, axis=1) for shift in shifts])


def clicks(steps, *, rate_hz=RATE_HZ, at=0.5):
    """Bursts of 20 ms over faint noise, at this share of each of the steps."""
    wave = 0.01 * noise(10, seed=1, sample_rate_hz=rate_hz)
    burst = 3 * noise(0.02, seed=2, sample_rate_hz=rate_hz)
    for step in steps:
        start = round((step + at) * rate_hz / 8)
        wave[start : start + len(burst)] += burst[: len(wave) - start]
    return wave


def score(luma_NHW, *waves, rate_hz=RATE_HZ):
    return av_onset_agreement(
        AvSignal(
            video=VideoSignal(luma_NHW=luma_NHW, frame_rate_fps=Fraction(8)),
            audio=AudioSignal(audio_CT=np.stack(waves).astype(np.float32), sample_rate_hz=rate_hz),
        )
    )


@pytest.mark.parametrize("show", [flashes, jumps])
@pytest.mark.parametrize("at", [0.01, 0.3, 0.6, 0.99])
def test_av_onset_agreement_same_instants_is_1(show, at):
    assert score(show(EVENTS), clicks(EVENTS, at=at)) == 1


@pytest.mark.parametrize("rate_hz", [8000, 11025, 22050, 44100, 48000])
def test_av_onset_agreement_any_rate_and_channels_is_1(rate_hz):
    wave = clicks(EVENTS, rate_hz=rate_hz)
    assert score(flashes(EVENTS), wave, 0.5 * wave, rate_hz=rate_hz) == 1


@pytest.mark.parametrize("show", [flashes, jumps])
def test_av_onset_agreement_opposite_instants_is_0(show):
    assert score(show(EVENTS), clicks([step + 3 for step in EVENTS])) == 0


@pytest.mark.parametrize("wave", [np.zeros(160_000), clicks([]), sine(440, 10, RATE_HZ)])
def test_av_onset_agreement_picture_only_is_0(wave):
    assert score(flashes(EVENTS), wave) == 0


def test_av_onset_agreement_sound_only_is_0():
    assert score(flashes([]), clicks(EVENTS)) == 0


def test_av_onset_agreement_no_event_is_0():
    assert score(flashes([]), np.zeros(160_000)) == 0


@pytest.mark.parametrize(
    ("delay_steps", "expected"), [(-3, 0), (-2, 0), (-1, 1), (0, 1), (1, 1), (2, 0), (3, 0)]
)
def test_av_onset_agreement_sound_beyond_a_step_of_the_picture_does_not_agree(delay_steps, expected):
    assert score(jumps(EVENTS), clicks([step + delay_steps for step in EVENTS])) == expected


@pytest.mark.parametrize("num_shared", range(len(EVENTS) + 1))
def test_av_onset_agreement_is_shared_events_over_all(num_shared):
    heard = EVENTS[:num_shared] + [step + 3 for step in EVENTS[num_shared:]]
    # As many are heard as seen; what is not shared counts once on each side.
    expected = num_shared / (2 * len(EVENTS) - num_shared)
    assert score(jumps(EVENTS), clicks(heard)) == pytest.approx(expected)


@pytest.mark.parametrize("num_seen", [1, 4, 8])
def test_av_onset_agreement_events_that_are_only_heard_count_against_it(num_seen):
    assert score(flashes(EVENTS[:num_seen]), clicks(EVENTS)) == num_seen / len(EVENTS)
    assert score(flashes(EVENTS), clicks(EVENTS[:num_seen])) == num_seen / len(EVENTS)


def test_av_onset_agreement_shuffled_sound_is_low():
    scores = []
    for seed in range(20):
        heard = 3 + 6 * np.random.default_rng(seed).choice(12, len(EVENTS), replace=False)
        scores.append(score(jumps(EVENTS), clicks(heard)))
    assert np.mean(scores) < 0.4
    assert max(scores) < 0.8


def test_av_onset_agreement_gain_and_offset_change_nothing():
    heard = [*EVENTS[:5], 17, 33]
    expected = score(flashes(EVENTS), clicks(heard))
    assert score(flashes(EVENTS), 0.1 * clicks(heard)) == expected
    assert score(flashes(EVENTS), clicks(heard) + 0.2) == expected
    assert 0 < expected < 1


def test_av_onset_agreement_rate_without_a_band_hears_nothing():
    for rate_hz in (1, 10, 100):
        assert score(flashes(EVENTS), np.ones(10 * rate_hz), rate_hz=rate_hz) == 0


@pytest.mark.parametrize(("num_frames", "num_samples"), [(0, 160_000), (3, 160_000), (80, 3 * 2000 - 1)])
def test_av_onset_agreement_less_than_three_steps_raises_too_short(num_frames, num_samples):
    with pytest.raises(TooShort, match="at least 3 steps"):
        score(flashes([])[:num_frames], np.zeros(num_samples))


def test_av_onset_agreement_three_steps_is_measured():
    assert score(flashes([1])[:4], clicks([1])[:6000]) == 1


@given(st.sets(st.integers(0, 30)), st.sets(st.integers(0, 30)))
def test_num_matched_is_the_largest_matching(heard, seen):
    heard_E, seen_E = np.array(sorted(heard), int), np.array(sorted(seen), int)
    near_EE = csr_array(np.abs(heard_E[:, None] - seen_E) <= 1)
    most = np.count_nonzero(maximum_bipartite_matching(near_EE) >= 0) if heard and seen else 0
    assert module._num_matched(heard_E, seen_E) == most


def test_events_of_a_plateau_is_its_first_step():
    assert list(module._events(np.array([0.0, 0, 9, 9, 0, 0, 0, 5, 0]), 2.0)) == [2, 7]
