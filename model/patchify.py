"""Latents and mel frames to tokens and back, exactly.

Shapes: B batch, T latent frames, C latent channels, Y rows, X columns, L tokens, P numbers of a patch,
F mel frames, M mel bins.
"""

from torch import Tensor

from infra.errors import ConfigError
from model.config import AVGenConfig


def token_grid_TYX(shape_BTCYX: tuple[int, ...], config: AVGenConfig) -> tuple[int, int, int]:
    """Number of tokens along time, height and width.

    Raises:
        ConfigError: the latents do not divide into whole tubelets.
    """
    _, num_frames, _, height, width = shape_BTCYX
    sizes = (num_frames, height, width)
    tubelet = (config.tubelet_frames, config.tubelet_height, config.tubelet_width)
    if any(size % part for size, part in zip(sizes, tubelet, strict=True)):
        raise ConfigError(f"video latents must divide into tubelets of {tubelet} (t, y, x), got {sizes}")
    return (num_frames // tubelet[0], height // tubelet[1], width // tubelet[2])


def patchify_video(latents_BTCYX: Tensor, config: AVGenConfig) -> Tensor:
    """Tubelets as tokens, (B, L, P), time outermost, then rows, then columns."""
    t, y, x = token_grid_TYX(tuple(latents_BTCYX.shape), config)
    batch, _, channels, _, _ = latents_BTCYX.shape
    split = latents_BTCYX.reshape(
        batch, t, config.tubelet_frames, channels, y, config.tubelet_height, x, config.tubelet_width
    )
    return split.permute(0, 1, 4, 6, 2, 5, 7, 3).reshape(batch, t * y * x, -1)


def unpatchify_video(patches_BLP: Tensor, grid_TYX: tuple[int, int, int], config: AVGenConfig) -> Tensor:
    """Inverse of `patchify_video`."""
    t, y, x = grid_TYX
    split = patches_BLP.reshape(
        -1,
        t,
        y,
        x,
        config.tubelet_frames,
        config.tubelet_height,
        config.tubelet_width,
        config.num_latent_channels,
    )
    return split.permute(0, 1, 4, 7, 2, 5, 3, 6).reshape(
        -1,
        t * config.tubelet_frames,
        config.num_latent_channels,
        y * config.tubelet_height,
        x * config.tubelet_width,
    )


def patchify_audio(mel_BFM: Tensor, config: AVGenConfig) -> Tensor:
    """Consecutive mel frames as tokens, (B, L, P).

    Raises:
        ConfigError: the mel frames do not divide into whole patches.
    """
    batch, num_frames, num_bins = mel_BFM.shape
    if num_frames % config.mel_patch_frames:
        raise ConfigError(
            f"mel frames must divide into patches of {config.mel_patch_frames}, got {num_frames} frames"
        )
    return mel_BFM.reshape(batch, num_frames // config.mel_patch_frames, config.mel_patch_frames * num_bins)


def unpatchify_audio(patches_BLP: Tensor, config: AVGenConfig) -> Tensor:
    """Inverse of `patchify_audio`."""
    batch, num_tokens, _ = patches_BLP.shape
    return patches_BLP.reshape(batch, num_tokens * config.mel_patch_frames, config.num_mel_bins)
