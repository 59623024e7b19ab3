from fractions import Fraction

import pytest

from filters.frame_rate import frame_rate_fps
from filters.registry import all_filters
from tests.filters.probes import probe

KEEP = {spec.name: spec.keep for spec in all_filters()}["frame_rate_fps"]


@pytest.mark.parametrize(
    ("rate", "kept"),
    [
        (Fraction(24), True),
        (Fraction(24000, 1001), True),
        (Fraction(2397, 100), True),
        (Fraction(30000, 1001), True),
        (Fraction(60), True),
        (Fraction(47, 2), False),
        (Fraction(20), False),
        (Fraction(15), False),
        (Fraction(0), False),
    ],
)
def test_frame_rate_fps_ntsc_film_counts_as_24(rate, kept):
    score = frame_rate_fps(probe(frame_rate_fps=rate))
    assert (score, KEEP.admits(score)) == (float(rate), kept)
