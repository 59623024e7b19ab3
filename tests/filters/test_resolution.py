import pytest

from filters.registry import all_filters
from filters.resolution import short_side_px
from tests.filters.probes import probe

KEEP = {spec.name: spec.keep for spec in all_filters()}["short_side_px"]


@pytest.mark.parametrize(
    ("width_px", "height_px", "expected", "kept"),
    [
        (640, 480, 480, True),
        (480, 854, 480, True),
        (1920, 1080, 1080, True),
        (1280, 536, 536, True),
        (640, 360, 360, False),
        (3840, 2160, 2160, False),
        (1080, 1920, 1080, True),
        (0, 0, 0, False),
    ],
)
def test_short_side_px_counts_the_shorter_side_either_way_up(width_px, height_px, expected, kept):
    score = short_side_px(probe(width_px=width_px, height_px=height_px))
    assert (score, KEEP.admits(score)) == (expected, kept)
