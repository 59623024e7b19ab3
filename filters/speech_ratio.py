"""Measures how much of a clip is speech: talk and commentary against music, nature and machines."""

import numpy as np

from filters.registry import Bounds, register
from filters.signals import SpeechSignal
from infra.errors import TooShort

# Source: silero-vad, utils_vad.py get_speech_timestamps, default threshold.
_SPEECH_PROBABILITY_MIN = 0.5


@register(
    name="speech_ratio",
    version=1,
    needs="speech",
    unit="ratio",
    keep=Bounds(),
    source="silero-vad (https://github.com/snakers4/silero-vad), default threshold 0.5, without its smoothing;"
    " no bound",
)
def speech_ratio(speech: SpeechSignal) -> float:
    """Share of the steps of 32 ms whose probability of speech is at least `_SPEECH_PROBABILITY_MIN`, in [0, 1].

    Short pauses between words count as no speech: silero-vad's own segments bridge 100 ms and drop what is
    shorter than 250 ms, this does neither. What singing, babble and laughter score is up to the model.

    Raises:
        TooShort: there is no step.
    """
    if len(speech.probability_N) == 0:
        raise TooShort("speech_ratio must have at least 1 step of 32 ms, got 0")
    return float(np.mean(speech.probability_N >= _SPEECH_PROBABILITY_MIN))
