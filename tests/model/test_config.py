from dataclasses import replace

import pytest

from infra.errors import ConfigError
from tests.model.small import SMALL


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 0}, "model.depth must be a whole number >= 1"),
        ({"num_heads": 3}, "model.width must be a multiple of model.num_heads"),
        ({"width": 36, "num_heads": 2}, "channels of an attention head must be a multiple of 8"),
        (
            {"video_decoder_width": 40},
            "model.video_decoder_width must be a multiple of model.num_norm_groups",
        ),
    ],
)
def test_avgen_config_bad_sizes_raise_config_error(change, message):
    with pytest.raises(ConfigError, match=message):
        replace(SMALL, **change)


def test_avgen_config_patch_channels_are_products():
    assert SMALL.video_patch_channels == 4 * 2 * 2 * 4
    assert SMALL.audio_patch_channels == 2 * 80
