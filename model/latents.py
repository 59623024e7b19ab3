"""The `linear_patch_codec`: a fixed linear map between frames and latents of the SD-VAE's shape.

Shapes: N frames, 3 RGB, C latent channels, Y, X latent rows and columns, P numbers of an 8x8 RGB patch.

It stands where a trained VAE goes when there are no weights to load, and is called by its name wherever it is
used: it is not a VAE, it drops everything but four coefficients of a patch, and what it decodes is blurred.
512x512x3 frames become 64x64x4 latents, or any multiple of 8 pixels in the same way.
"""

import math

import torch
from torch import Tensor

from infra.errors import ConfigError

CODEC_NAME = "linear_patch_codec"
PATCH_PX = 8
NUM_LATENT_CHANNELS = 4

# Source: Ohta, Kanade and Sakai 1980, "Color information for region segmentation": axes I1 (intensity) and I2
# (red against blue) hold most of the variance of natural colours; here with length 1.
_INTENSITY_AXIS_3 = (1 / math.sqrt(3), 1 / math.sqrt(3), 1 / math.sqrt(3))
_RED_BLUE_AXIS_3 = (1 / math.sqrt(2), 0.0, -1 / math.sqrt(2))

# Mean and standard deviation of a coefficient of pixels in [-1, 1]: measured on frames at 8 fps and 64x64 of
# 14 corpus clips of camera, screen and animation, rounded, 2026-11-23. They only set a latent's scale.
_MEAN_C = (-2.4, 0.0, 0.0, 0.9)
_STD_C = (8.4, 1.4, 1.2, 2.2)


def basis_CP() -> Tensor:
    """Four orthonormal rows over an 8x8 RGB patch (channel, row, column order).

    Intensity: mean, left-right and top-bottom cosine of a DCT-II. Colour: mean of red against blue.
    """
    pixel = torch.arange(PATCH_PX, dtype=torch.float64)
    flat = torch.full((PATCH_PX,), 1 / math.sqrt(PATCH_PX), dtype=torch.float64)
    slope = torch.cos(math.pi * (2 * pixel + 1) / (2 * PATCH_PX)) * math.sqrt(2 / PATCH_PX)
    intensity = torch.tensor(_INTENSITY_AXIS_3, dtype=torch.float64)
    red_blue = torch.tensor(_RED_BLUE_AXIS_3, dtype=torch.float64)
    rows = (
        (intensity, flat, flat),
        (intensity, flat, slope),
        (intensity, slope, flat),
        (red_blue, flat, flat),
    )
    return torch.stack([torch.einsum("c,y,x->cyx", *row).flatten() for row in rows]).float()


def encode_frames(frames_NHW3: Tensor) -> Tensor:
    """Latents (N, 4, Y, X), float32, about unit variance on natural video.

    Args:
        frames_NHW3: uint8 RGB; height and width are multiples of `PATCH_PX`.

    Raises:
        ConfigError: height or width is no multiple of `PATCH_PX`.
    """
    num_frames, height_px, width_px, _ = frames_NHW3.shape
    if height_px % PATCH_PX or width_px % PATCH_PX:
        raise ConfigError(
            f"{CODEC_NAME} needs frames of a multiple of {PATCH_PX} px, got {height_px}x{width_px}"
        )
    pixels = frames_NHW3.float() / 127.5 - 1
    patches = pixels.reshape(
        num_frames, height_px // PATCH_PX, PATCH_PX, width_px // PATCH_PX, PATCH_PX, 3
    ).permute(0, 1, 3, 5, 2, 4)
    coefficients_NYXC = patches.flatten(3) @ basis_CP().T
    return (
        ((coefficients_NYXC - torch.tensor(_MEAN_C)) / torch.tensor(_STD_C)).permute(0, 3, 1, 2).contiguous()
    )


def decode_latents(latents_NCYX: Tensor) -> Tensor:
    """Frames (N, H, W, 3), uint8: the least-squares inverse of `encode_frames`, clipped to pixels."""
    num_frames, _, num_y, num_x = latents_NCYX.shape
    coefficients_NYXC = latents_NCYX.permute(0, 2, 3, 1) * torch.tensor(_STD_C) + torch.tensor(_MEAN_C)
    patches = (coefficients_NYXC @ basis_CP()).unflatten(-1, (3, PATCH_PX, PATCH_PX))
    pixels = patches.permute(0, 1, 4, 2, 5, 3).reshape(num_frames, num_y * PATCH_PX, num_x * PATCH_PX, 3)
    return ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
