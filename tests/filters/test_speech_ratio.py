import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.signals import SpeechSignal
from filters.speech_ratio import speech_ratio
from infra.errors import TooShort


def score(probabilities):
    return speech_ratio(SpeechSignal(probability_N=np.array(probabilities, np.float32)))


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [([0], 0), ([1], 1), ([0.5], 1), ([0.4999], 0), ([0.1, 0.9, 0.6, 0.2], 0.5), ([0, 0, 0, 0.7], 0.25)],
)
def test_speech_ratio_counts_steps_from_one_half_on(probabilities, expected):
    assert score(probabilities) == expected


@given(st.lists(st.floats(0, 1, width=32), min_size=1), st.randoms())
def test_speech_ratio_order_does_not_matter(probabilities, random):
    shuffled = random.sample(probabilities, len(probabilities))
    assert 0 <= score(probabilities) == score(shuffled) <= 1


def test_speech_ratio_no_step_raises_too_short():
    with pytest.raises(TooShort, match="got 0"):
        score([])
