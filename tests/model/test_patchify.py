from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import ConfigError
from model.patchify import (
    patchify_audio,
    patchify_video,
    token_grid_TYX,
    unpatchify_audio,
    unpatchify_video,
)
from tests.model.small import SMALL


@given(
    tubelet=st.tuples(*[st.integers(1, 4)] * 3).filter(lambda t: 32 % t[0] == 0),
    grid=st.tuples(*[st.integers(1, 3)] * 3),
    batch=st.integers(1, 2),
)
def test_unpatchify_video_inverts_patchify(tubelet, grid, batch):
    config = replace(SMALL, tubelet_frames=tubelet[0], tubelet_height=tubelet[1], tubelet_width=tubelet[2])
    shape = (batch, grid[0] * tubelet[0], 4, grid[1] * tubelet[1], grid[2] * tubelet[2])
    latents = torch.arange(torch.Size(shape).numel()).reshape(shape)
    assert token_grid_TYX(shape, config) == grid
    assert torch.equal(unpatchify_video(patchify_video(latents, config), grid, config), latents)


def test_patchify_video_first_token_is_the_first_tubelet():
    latents = torch.arange(8 * 4 * 4 * 4).reshape(1, 8, 4, 4, 4)
    first = patchify_video(latents, SMALL)[0, 0]
    assert sorted(first.tolist()) == sorted(latents[0, :4, :, :2, :2].flatten().tolist())


def test_patchify_video_part_of_a_tubelet_raises_config_error():
    with pytest.raises(ConfigError, match="must divide into tubelets"):
        patchify_video(torch.zeros(1, 7, 4, 4, 4), SMALL)


def test_unpatchify_audio_inverts_patchify():
    mel = torch.arange(2 * 6 * 80).reshape(2, 6, 80)
    assert patchify_audio(mel, SMALL).shape == (2, 3, 160)
    assert torch.equal(unpatchify_audio(patchify_audio(mel, SMALL), SMALL), mel)


def test_patchify_audio_odd_frames_raise_config_error():
    with pytest.raises(ConfigError, match="got 5 frames"):
        patchify_audio(torch.zeros(1, 5, 80), SMALL)
