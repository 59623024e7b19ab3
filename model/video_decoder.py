"""The video decoder: 3D convolutions from backbone states to the velocity of SD-VAE-shaped latents.

Shapes: B batch, L video tokens, E backbone width, D decoder width, T, Y, X the token grid, P numbers of a
tubelet. It works on the token grid, not on the latent grid, where it would cost 16 times as much.
"""

import torch.nn.functional as F  # noqa: N812  the name every torch reader expects
from torch import Tensor, nn

from model.config import AVGenConfig
from model.layers import zero_init


class ResidualBlock3D(nn.Module):
    """Two normalised 3x3x3 convolutions beside a skip path."""

    def __init__(self, width: int, num_norm_groups: int) -> None:
        super().__init__()
        self.norm_1 = nn.GroupNorm(num_norm_groups, width)
        self.conv_1 = nn.Conv3d(width, width, kernel_size=3, padding=1)
        self.norm_2 = nn.GroupNorm(num_norm_groups, width)
        self.conv_2 = nn.Conv3d(width, width, kernel_size=3, padding=1)

    def forward(self, x_BDTYX: Tensor) -> Tensor:
        """The grid, one block further."""
        inner_BDTYX = self.conv_1(F.silu(self.norm_1(x_BDTYX)))
        return x_BDTYX + self.conv_2(F.silu(self.norm_2(inner_BDTYX)))


class VideoDecoder(nn.Module):
    """Velocity tubelets from the backbone's video states."""

    def __init__(self, config: AVGenConfig) -> None:
        super().__init__()
        width, num_groups = config.video_decoder_width, config.num_norm_groups
        self.inlet = nn.Conv3d(config.width, width, kernel_size=1)
        self.blocks = nn.Sequential(
            *(ResidualBlock3D(width, num_groups) for _ in range(config.video_decoder_depth))
        )
        self.out_norm = nn.GroupNorm(num_groups, width)
        self.out = nn.Conv3d(width, config.video_patch_channels, kernel_size=1)
        zero_init(self.out)

    def forward(self, hidden_BLE: Tensor, *, grid_TYX: tuple[int, int, int]) -> Tensor:
        """Velocity of every tubelet, (B, L, P)."""
        grid_BETYX = hidden_BLE.transpose(1, 2).unflatten(-1, grid_TYX)
        x_BDTYX = self.blocks(self.inlet(grid_BETYX))
        out_BPTYX = self.out(F.silu(self.out_norm(x_BDTYX)))
        return out_BPTYX.flatten(2).transpose(1, 2)
