import pytest
import torch

from infra.errors import ConfigError
from model.latents import basis_CP, decode_latents, encode_frames


def test_basis_rows_are_orthonormal():
    torch.testing.assert_close(basis_CP() @ basis_CP().T, torch.eye(4))


def test_encode_frames_full_size_has_the_shape_of_sd_vae_latents():
    assert encode_frames(torch.zeros(1, 512, 512, 3, dtype=torch.uint8)).shape == (1, 4, 64, 64)


def test_encode_frames_gray_leaves_all_but_intensity_at_their_mean():
    gray = encode_frames(torch.full((1, 8, 8, 3), 200, dtype=torch.uint8))
    black = encode_frames(torch.zeros(1, 8, 8, 3, dtype=torch.uint8))
    torch.testing.assert_close(gray[:, 1:], black[:, 1:], atol=1e-5, rtol=0)
    assert gray[0, 0].item() > black[0, 0].item()


@pytest.mark.parametrize("value", [0, 37, 128, 255])
def test_decode_latents_flat_gray_frame_is_exact(value):
    frames = torch.full((2, 16, 24, 3), value, dtype=torch.uint8)
    assert torch.equal(decode_latents(encode_frames(frames)), frames)


def test_encode_frames_inverts_decode_within_rounding():
    # Latents of a mild picture, so that no pixel is clipped: what is left is the rounding to 8 bits.
    latents = 0.2 * torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    again = encode_frames(decode_latents(latents))
    assert (again - latents).abs().max() < 0.03


def test_decode_latents_of_a_ramp_is_within_eight_levels():
    # A left-to-right ramp: its residual is what the mean and one cosine of each 8 px leave (computed: 6.4).
    ramp = (
        torch.arange(64, dtype=torch.float32)[None, None, :, None].expand(1, 64, 64, 3).mul(4).to(torch.uint8)
    )
    error = (decode_latents(encode_frames(ramp)).float() - ramp.float()).abs()
    assert error.max() <= 8


def test_decode_latents_is_the_least_squares_inverse():
    frames = torch.randint(60, 190, (2, 16, 16, 3), generator=torch.Generator().manual_seed(0)).to(
        torch.uint8
    )
    once = decode_latents(encode_frames(frames))
    twice = decode_latents(encode_frames(once))
    assert (once.float() - twice.float()).abs().max() <= 1


def test_encode_frames_odd_size_raises_config_error():
    with pytest.raises(ConfigError, match="multiple of 8 px, got 12x16"):
        encode_frames(torch.zeros(1, 12, 16, 3, dtype=torch.uint8))
