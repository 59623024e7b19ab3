"""The backbone: one transformer whose softmax runs over video and audio tokens together.

Shapes: B batch, L tokens, S conditioning tokens, N CLIP embeddings, P numbers of a patch, D width, H heads,
K channels of a head, 3 = (time_s, y, x), 6 and 2 = modulation vectors.

Each modality has its own queries, keys, values, output, feed-forward and modulation; attention is joint.
A modality that is left out is simply not in the sequence. Sources: joint attention with weights of each
modality's own, Esser et al. 2024, arXiv 2403.03206, section 4; adaLN-single (one shared timestep block and a
table in each block), Chen et al. 2023, arXiv 2310.00426, section 2.3.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812  the name every torch reader expects
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.config import AVGenConfig
from model.layers import (
    NUM_TIMESTEP_CHANNELS,
    QKV,
    Attention,
    FeedForward,
    merge_heads,
    modulate,
    timestep_features_BC,
    zero_init,
)
from model.records import Conditioning
from model.rope import rotary_angles_LP, time_positions_L3

Modality = Literal["video", "audio"]
MODALITIES: tuple[Modality, ...] = ("video", "audio")
"""Order of the joint sequence."""

_INIT_STD = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenStream:
    """The noised tokens of one modality."""

    patches_BLP: Tensor
    positions_L3: Tensor
    t_B: Tensor


class ModalityBranch(nn.Module):
    """What one modality owns inside a joint block."""

    def __init__(self, config: AVGenConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width, eps=1e-6, elementwise_affine=False)
        self.qkv = QKV(config.width, config.num_heads, context_width=config.width)
        self.out = nn.Linear(config.width, config.width)
        self.ffn = FeedForward(config.width, config.ffn_width)
        self.modulation_6D = nn.Parameter(torch.randn(6, config.width) / config.width**0.5)


class JointBlock(nn.Module):
    """Joint self-attention, cross-attention to the conditioning, a feed-forward layer of each modality."""

    def __init__(self, config: AVGenConfig) -> None:
        super().__init__()
        self.branches = nn.ModuleDict({modality: ModalityBranch(config) for modality in MODALITIES})
        self.context_norm = nn.LayerNorm(config.width, eps=1e-6)
        self.context_attention = Attention(config.width, config.num_heads, context_width=config.width)

    def branch(self, modality: Modality) -> ModalityBranch:
        """The part of the block that a modality owns."""
        branch = self.branches[modality]
        assert isinstance(branch, ModalityBranch)
        return branch

    def forward(
        self,
        tokens: dict[Modality, Tensor],
        *,
        modulation: Mapping[Modality, Tensor],
        angles: Mapping[Modality, Tensor],
        context_BSD: Tensor,
        context_angles_SP: Tensor,
    ) -> dict[Modality, Tensor]:
        """The tokens of every modality that is present, one block further."""
        vectors = {
            modality: (modulation[modality] + self.branch(modality).modulation_6D).unbind(dim=1)
            for modality in tokens
        }
        attended = self._joint_attention(tokens, vectors, angles)
        tokens = {m: tokens[m] + vectors[m][2][:, None] * attended[m] for m in tokens}
        tokens = {
            m: x_BLD
            + self.context_attention(
                self.context_norm(x_BLD),
                context_BSD,
                angles_LP=angles[m],
                context_angles_SP=context_angles_SP,
            )
            for m, x_BLD in tokens.items()
        }
        return {m: self._feed_forward(m, x_BLD, vectors[m]) for m, x_BLD in tokens.items()}

    def _joint_attention(
        self,
        tokens: Mapping[Modality, Tensor],
        vectors: Mapping[Modality, tuple[Tensor, ...]],
        angles: Mapping[Modality, Tensor],
    ) -> dict[Modality, Tensor]:
        """One softmax over all tokens that are present; every branch reads the states before the update."""
        parts = []
        for modality, x_BLD in tokens.items():
            branch = self.branch(modality)
            normed_BLD = modulate(branch.norm(x_BLD), vectors[modality][0], vectors[modality][1])
            parts.append(
                branch.qkv(
                    normed_BLD,
                    normed_BLD,
                    angles_LP=angles[modality],
                    context_angles_SP=angles[modality],
                )
            )
        query, key, value = (torch.cat(part, dim=2) for part in zip(*parts, strict=True))
        joint_BLD = merge_heads(F.scaled_dot_product_attention(query, key, value))
        pieces = joint_BLD.split([x_BLD.shape[1] for x_BLD in tokens.values()], dim=1)
        return {m: self.branch(m).out(piece) for m, piece in zip(tokens, pieces, strict=True)}

    def _feed_forward(self, modality: Modality, x_BLD: Tensor, vectors: tuple[Tensor, ...]) -> Tensor:
        branch = self.branch(modality)
        normed_BLD = modulate(branch.norm(x_BLD), vectors[3], vectors[4])
        return x_BLD + vectors[5][:, None] * branch.ffn(normed_BLD)


class ModalityEmbedder(nn.Module):
    """Patches and flow time of one modality into tokens and modulation, and its final modulation."""

    def __init__(self, config: AVGenConfig, *, patch_channels: int) -> None:
        super().__init__()
        self.patch = nn.Linear(patch_channels, config.width)
        self.modality_D = nn.Parameter(torch.randn(config.width) * _INIT_STD)
        self.timestep = nn.Sequential(
            nn.Linear(NUM_TIMESTEP_CHANNELS, config.width),
            nn.SiLU(),
            nn.Linear(config.width, config.width),
        )
        self.block_modulation = nn.Linear(config.width, 6 * config.width)
        self.final_modulation = nn.Linear(config.width, 2 * config.width)
        self.final_norm = nn.LayerNorm(config.width, eps=1e-6, elementwise_affine=False)
        zero_init(self.block_modulation)
        zero_init(self.final_modulation)

    def tokens_BLD(self, patches_BLP: Tensor) -> Tensor:
        """Tokens of the noised patches."""
        return self.patch(patches_BLP.to(self.patch.weight.dtype)) + self.modality_D

    def timestep_BD(self, t_B: Tensor, pooled_BD: Tensor) -> Tensor:
        """What all modulation of this modality is computed from."""
        features_BC = timestep_features_BC(t_B).to(self.patch.weight.dtype)
        return F.silu(self.timestep(features_BC) + pooled_BD)

    def finish_BLD(self, x_BLD: Tensor, timestep_BD: Tensor) -> Tensor:
        """The last block's tokens, normalised and modulated, for the decoders."""
        shift_BD, scale_BD = self.final_modulation(timestep_BD).chunk(2, dim=-1)
        return modulate(self.final_norm(x_BLD), shift_BD, scale_BD)


class ConditioningEmbedder(nn.Module):
    """Cached CLIP and CLAP embeddings as cross-attention tokens and as one pooled vector."""

    def __init__(self, config: AVGenConfig) -> None:
        super().__init__()
        self.clip = nn.Linear(config.clip_channels, config.width)
        self.clap = nn.Linear(config.clap_channels, config.width)
        self.null_clip_D = nn.Parameter(torch.randn(config.width) * _INIT_STD)
        self.null_clap_D = nn.Parameter(torch.randn(config.width) * _INIT_STD)
        self.registers_SD = nn.Parameter(torch.randn(config.num_registers, config.width) * _INIT_STD)
        self.pooled = nn.Sequential(
            nn.Linear(config.clip_channels + config.clap_channels, config.width),
            nn.SiLU(),
            nn.Linear(config.width, config.width),
        )

    def forward(self, conditioning: Conditioning) -> tuple[Tensor, Tensor]:
        """Context tokens (CLIP, CLAP, registers), (B, S, D), and the pooled vector, (B, D)."""
        dtype = self.clip.weight.dtype
        clip_BND, clap_BD = conditioning.clip_BND.to(dtype), conditioning.clap_BD.to(dtype)
        keeps_clip_B1 = conditioning.keeps_clip_B[:, None]
        keeps_clap_B1 = conditioning.keeps_clap_B[:, None]
        clip_tokens_BND = torch.where(keeps_clip_B1[:, None], self.clip(clip_BND), self.null_clip_D)
        clap_tokens_BD = torch.where(keeps_clap_B1, self.clap(clap_BD), self.null_clap_D)
        registers_BSD = self.registers_SD.expand(clap_BD.shape[0], -1, -1)
        pooled_in = torch.cat([clip_BND.mean(dim=1) * keeps_clip_B1, clap_BD * keeps_clap_B1], dim=-1)
        context_BSD = torch.cat([clip_tokens_BND, clap_tokens_BD[:, None], registers_BSD], dim=1)
        return context_BSD, self.pooled(pooled_in)

    def positions_S3(self, conditioning: Conditioning) -> Tensor:
        """Seconds of the CLIP tokens; CLAP and the registers speak for the whole clip and sit at 0."""
        num_timeless = 1 + self.registers_SD.shape[0]
        time_s_S = F.pad(conditioning.clip_time_s_N.float(), (0, num_timeless))
        return time_positions_L3(time_s_S)


class UnifiedDiT(nn.Module):
    """The joint backbone over whichever modalities are given."""

    def __init__(self, config: AVGenConfig) -> None:
        super().__init__()
        self.config = config
        patch_channels = {"video": config.video_patch_channels, "audio": config.audio_patch_channels}
        self.embedders = nn.ModuleDict(
            {m: ModalityEmbedder(config, patch_channels=patch_channels[m]) for m in MODALITIES}
        )
        self.conditioning = ConditioningEmbedder(config)
        self.blocks = nn.ModuleList(JointBlock(config) for _ in range(config.depth))

    def embedder(self, modality: Modality) -> ModalityEmbedder:
        """The embedder of a modality."""
        embedder = self.embedders[modality]
        assert isinstance(embedder, ModalityEmbedder)
        return embedder

    def forward(
        self, streams: Mapping[Modality, TokenStream], conditioning: Conditioning
    ) -> dict[Modality, Tensor]:
        """Hidden states (B, L, D) of every modality given, ready for its decoder."""
        context_BSD, pooled_BD = self.conditioning(conditioning)
        head_channels = self.config.width // self.config.num_heads
        context_angles_SP = rotary_angles_LP(self.conditioning.positions_S3(conditioning), head_channels)
        angles = {m: rotary_angles_LP(streams[m].positions_L3, head_channels) for m in streams}
        tokens = {m: self.embedder(m).tokens_BLD(streams[m].patches_BLP) for m in streams}
        timestep = {m: self.embedder(m).timestep_BD(streams[m].t_B, pooled_BD) for m in streams}
        modulation = {
            m: self.embedder(m).block_modulation(timestep[m]).unflatten(-1, (6, -1)) for m in streams
        }
        inputs: dict[str, Any] = {
            "modulation": modulation,
            "angles": angles,
            "context_BSD": context_BSD,
            "context_angles_SP": context_angles_SP,
        }
        for block in self.blocks:
            tokens = self._run_block(block, tokens, inputs)
        return {m: self.embedder(m).finish_BLD(tokens[m], timestep[m]) for m in streams}

    def _run_block(
        self, block: nn.Module, tokens: dict[Modality, Tensor], inputs: dict[str, Any]
    ) -> dict[Modality, Tensor]:
        if self.config.checkpoint_activations and torch.is_grad_enabled():
            return checkpoint(block, tokens, use_reentrant=False, **inputs)
        return block(tokens, **inputs)
