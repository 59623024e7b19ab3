"""In which order signals are asked for, and when no more are."""

import numpy as np
import pytest

from filters.registry import Bounds, Filter, Needs, Signal
from filters.signals import AudioSignal, KeyframeSignal
from infra.errors import TooShort
from pipeline.measure_clip import measure_clip

SOUND = AudioSignal(audio_CT=np.zeros((1, 8), np.float32), sample_rate_hz=8)
KEYS = KeyframeSignal(luma_KHW=np.zeros((1, 2, 2), np.uint8))


def scoring(name: str, needs: Needs, score: float) -> Filter:
    return Filter(
        name=name,
        version=1,
        needs=needs,
        unit="ratio",
        keep=Bounds(min=1),
        source="here",
        measure=lambda _: score,
    )


def too_short(needs: Needs) -> Filter:
    def measure(_: object) -> float:
        raise TooShort("nothing to be seen")

    return Filter(
        name="empty", version=1, needs=needs, unit="ratio", keep=Bounds(), source="here", measure=measure
    )


def measured(
    filters: list[Filter], *, measure_rejected: bool = False, keys: Signal | None = KEYS
) -> tuple[list[str], tuple[tuple[str, float], ...], tuple[str, ...]]:
    asked: list[str] = []

    def load(needs: Needs) -> Signal:
        asked.append(needs)
        signal = {"audio": SOUND, "keyframes": keys}[needs]
        if signal is None:
            raise TooShort("nothing to be seen")
        return signal

    bounds = {spec.name: spec.keep for spec in filters}
    return asked, *measure_clip(load, filters=filters, bounds=bounds, measure_rejected=measure_rejected)


GOOD_A, GOOD_B = scoring("a", "audio", 2), scoring("b", "keyframes", 3)
BAD_A, WORSE_A = scoring("c", "audio", 0), scoring("d", "audio", 0.5)


def test_measure_clip_asks_once_for_each_signal_in_order():
    assert measured([GOOD_A, BAD_A]) == (["audio"], (("a", 2), ("c", 0)), ("c",))
    assert measured([GOOD_A, GOOD_B]) == (["audio", "keyframes"], (("a", 2), ("b", 3)), ())


def test_measure_clip_rejected_by_one_signal_tells_all_of_its_reasons_and_asks_for_no_more():
    assert measured([BAD_A, WORSE_A, GOOD_B]) == (["audio"], (("c", 0), ("d", 0.5)), ("c", "d"))


def test_measure_clip_measure_rejected_asks_for_all():
    found = measured([BAD_A, GOOD_B], measure_rejected=True)
    assert found == (["audio", "keyframes"], (("c", 0), ("b", 3)), ("c",))


@pytest.mark.parametrize("filters", [[GOOD_A, too_short("keyframes")], [GOOD_A, GOOD_B]])
def test_measure_clip_key_frames_that_say_nothing_reject_nothing(filters):
    keys = None if GOOD_B in filters else KEYS
    assert measured(filters, keys=keys) == (["audio", "keyframes"], (("a", 2),), ())


def test_measure_clip_sound_that_is_too_short_propagates():
    with pytest.raises(TooShort):
        measured([too_short("audio")])


def test_measure_clip_header_filters_are_not_measured_again():
    assert measured([scoring("h", "probe", 0), GOOD_A]) == (["audio"], (("a", 2),), ())
