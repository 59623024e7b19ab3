import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.channel_correlation import channel_correlation
from infra.errors import TooShort
from tests.filters.sounds import as_signal, noise, silence, sine, speech_like

VOICE = speech_like(1, seed=1)


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (VOICE, VOICE, 1),
        (VOICE, -VOICE, -1),
        (VOICE, -0.1 * VOICE, -1),
        (VOICE + 0.2, -VOICE + 0.2, -1),
        (VOICE, silence(1), 1),
        (silence(1), silence(1) + 0.3, 1),
        (sine(440, 1, phase=0), sine(440, 1, phase=np.pi / 2), 0),
        (sine(440, 1, phase=0), sine(440, 1, phase=np.pi / 3), 0.5),
    ],
)
def test_channel_correlation_two_channels_is_exact(left, right, expected):
    assert channel_correlation(as_signal(left, right)) == pytest.approx(expected, abs=1e-5)


def test_channel_correlation_one_channel_is_1():
    assert channel_correlation(as_signal(VOICE)) == 1.0


def test_channel_correlation_unrelated_channels_is_0():
    assert channel_correlation(as_signal(noise(5, seed=1), noise(5, seed=2))) == pytest.approx(0, abs=0.01)


def test_channel_correlation_more_channels_count_by_their_levels():
    inverted_front = as_signal(VOICE, -VOICE, silence(1), silence(1), silence(1), silence(1))
    assert channel_correlation(inverted_front) == pytest.approx(-1)
    # The pairs weigh 1, 1 and 1; one is equal, two are inverted.
    assert channel_correlation(as_signal(VOICE, VOICE, -VOICE)) == pytest.approx(-1 / 3)


@given(shared=st.floats(-1, 1))
def test_channel_correlation_is_numpys_coefficient(shared):
    left, other = noise(0.1, seed=1), noise(0.1, seed=2)
    right = shared * left + (1 - abs(shared)) * other
    expected = np.corrcoef(left, right)[0, 1]
    assert channel_correlation(as_signal(left, right)) == pytest.approx(expected, abs=1e-4)


def test_channel_correlation_one_sample_raises_too_short():
    with pytest.raises(TooShort, match="at least 2 samples, got 1"):
        channel_correlation(as_signal(VOICE[:1]))
