"""Layers that several parts of the model share.

Shapes: B batch, L tokens, S context tokens, D channels, H heads, K channels of a head, P rotary pairs.
"""

import math

import torch
import torch.nn.functional as F  # noqa: N812  the name every torch reader expects
from torch import Tensor, nn

from model.rope import apply_rotary


def split_heads(x_BLD: Tensor, num_heads: int) -> Tensor:
    """(B, L, D) as (B, H, L, K)."""
    return x_BLD.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def merge_heads(x_BHLK: Tensor) -> Tensor:
    """(B, H, L, K) as (B, L, D)."""
    return x_BHLK.transpose(1, 2).flatten(-2)


def modulate(x_BLD: Tensor, shift_BD: Tensor, scale_BD: Tensor) -> Tensor:
    """Normalised tokens, scaled and shifted by their sample's conditioning."""
    return x_BLD * (1 + scale_BD[:, None]) + shift_BD[:, None]


class QKV(nn.Module):
    """Queries, keys and values of one token stream, with RMS-normalised queries and keys.

    Source: qk normalisation, Dehghani et al. 2023, arXiv 2302.05442, section 2.
    """

    def __init__(self, width: int, num_heads: int, *, context_width: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(context_width, width)
        self.value = nn.Linear(context_width, width)
        self.query_norm = nn.RMSNorm(width // num_heads, eps=1e-6)
        self.key_norm = nn.RMSNorm(width // num_heads, eps=1e-6)

    def forward(
        self, x_BLD: Tensor, context_BSD: Tensor, *, angles_LP: Tensor, context_angles_SP: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of `x` and keys and values of `context`, heads apart, positions applied."""
        query_BHLK = self.query_norm(split_heads(self.query(x_BLD), self.num_heads))
        key_BHSK = self.key_norm(split_heads(self.key(context_BSD), self.num_heads))
        value_BHSK = split_heads(self.value(context_BSD), self.num_heads)
        return apply_rotary(query_BHLK, angles_LP), apply_rotary(key_BHSK, context_angles_SP), value_BHSK


class Attention(nn.Module):
    """Attention of one token stream to a context (itself, another modality, or the conditioning)."""

    def __init__(self, width: int, num_heads: int, *, context_width: int) -> None:
        super().__init__()
        self.qkv = QKV(width, num_heads, context_width=context_width)
        self.out = nn.Linear(width, width)

    def forward(
        self, x_BLD: Tensor, context_BSD: Tensor, *, angles_LP: Tensor, context_angles_SP: Tensor
    ) -> Tensor:
        """What the tokens read from the context."""
        query, key, value = self.qkv(
            x_BLD, context_BSD, angles_LP=angles_LP, context_angles_SP=context_angles_SP
        )
        return self.out(merge_heads(F.scaled_dot_product_attention(query, key, value)))


class FeedForward(nn.Sequential):
    """Two linear layers around a GELU."""

    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__(
            nn.Linear(width, hidden_width), nn.GELU(approximate="tanh"), nn.Linear(hidden_width, width)
        )


# Source: Peebles and Xie 2022, facebookresearch/DiT at ed81ce2, models.py, TimestepEmbedder.
NUM_TIMESTEP_CHANNELS = 256
_TIMESTEP_SCALE = 1000.0
_MAX_PERIOD = 10_000.0


def timestep_features_BC(t_B: Tensor) -> Tensor:
    """Cosines and sines of flow time in [0, 1], `NUM_TIMESTEP_CHANNELS` of them, float32."""
    half = NUM_TIMESTEP_CHANNELS // 2
    index_P = torch.arange(half, device=t_B.device, dtype=torch.float32)
    frequency_P = torch.exp(-math.log(_MAX_PERIOD) * index_P / half)
    angle_BP = _TIMESTEP_SCALE * t_B.float()[:, None] * frequency_P
    return torch.cat([angle_BP.cos(), angle_BP.sin()], dim=-1)


def zero_init(layer: nn.Linear | nn.Conv3d) -> None:
    """Make a layer start by adding nothing."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
