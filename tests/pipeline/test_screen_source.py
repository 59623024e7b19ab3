from fractions import Fraction

import pytest

from filters.registry import all_filters
from pipeline.recipe import load_recipe
from pipeline.screen_source import screen_source
from tests.filters.probes import probe

GOOD = {
    "duration_s": 10.0,
    "width_px": 1280,
    "height_px": 720,
    "frame_rate_fps": Fraction(30),
    "has_audio": True,
    "sample_rate_hz": 48_000,
}


def screen(**changes):
    bounds = load_recipe("default", []).bounds
    return screen_source(probe(**(GOOD | changes)), filters=all_filters(), bounds=bounds, min_duration_s=3.0)


def test_screen_source_good_header_passes_with_its_scores():
    scores, reasons = screen()
    assert reasons == ()
    assert dict(scores) == {"frame_rate_fps": 30.0, "sample_rate_hz": 48_000.0, "short_side_px": 720.0}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"height_px": 360}, ("short_side_px",)),
        ({"has_audio": False, "sample_rate_hz": 0}, ("no_audio",)),
        ({"duration_s": 2.0}, ("too_short",)),
        ({"duration_s": 0.0}, ()),
        (
            {"height_px": 180, "sample_rate_hz": 8000, "frame_rate_fps": Fraction(15)},
            ("frame_rate_fps", "sample_rate_hz", "short_side_px"),
        ),
    ],
)
def test_screen_source_gives_every_reason_that_applies(changes, expected):
    assert screen(**changes)[1] == expected
