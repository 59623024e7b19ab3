"""Temporal alignment: features of both modalities at one instant are brought together and read each other.

Shapes: B batch, L tokens, S time slots (one a latent frame), A audio tokens, D width, E embedding channels,
T, Y, X the video token grid, 3 = (time_s, y, x), P rotary pairs.

A video token spans several frames, so its channels are unfolded into one slot a frame: the module works at
the frame rate, not at the rate of the tokens. The contrastive loss is a training aid and no measure of
alignment: the states it compares have already read each other in the backbone's joint attention.
"""

import torch
import torch.nn.functional as F  # noqa: N812  the name every torch reader expects
from torch import Tensor, nn

from model.config import AVGenConfig
from model.layers import Attention, zero_init
from model.records import AlignmentEmbeddings
from model.rope import rotary_angles_LP

# Source: Radford et al. 2021, arXiv 2103.00020, section 2.5: temperature starts at 0.07, scale ends at 100.
_INITIAL_LOG_SCALE = 2.6593
_MAX_LOG_SCALE = 4.6052


class TemporalConvolution(nn.Module):
    """A convolution over three neighbouring instants beside a skip path."""

    def __init__(self, width: int, inner_width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.inlet = nn.Linear(width, inner_width)
        self.conv = nn.Conv1d(inner_width, inner_width, kernel_size=3, padding=1)
        self.out = nn.Linear(inner_width, width)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Features that have seen their neighbours in time."""
        inner_BLD = F.gelu(self.inlet(self.norm(x_BLD)))
        inner_BLD = F.gelu(self.conv(inner_BLD.transpose(1, 2)).transpose(1, 2))
        return x_BLD + self.out(inner_BLD)


class AlignmentLayer(nn.Module):
    """Each modality reads the other's features of before the layer, then its own neighbours in time."""

    def __init__(self, config: AVGenConfig) -> None:
        super().__init__()
        width = config.width
        self.video_norm = nn.LayerNorm(width, eps=1e-6)
        self.audio_norm = nn.LayerNorm(width, eps=1e-6)
        self.video_reads_audio = Attention(width, config.num_heads, context_width=width)
        self.audio_reads_video = Attention(width, config.num_heads, context_width=width)
        self.video_convolution = TemporalConvolution(width, config.alignment_width)
        self.audio_convolution = TemporalConvolution(width, config.alignment_width)

    def forward(
        self, video_BSD: Tensor, audio_BAD: Tensor, *, video_angles_SP: Tensor, audio_angles_AP: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Features of both modalities, one layer further."""
        video_normed_BSD, audio_normed_BAD = self.video_norm(video_BSD), self.audio_norm(audio_BAD)
        video_BSD = video_BSD + self.video_reads_audio(
            video_normed_BSD,
            audio_normed_BAD,
            angles_LP=video_angles_SP,
            context_angles_SP=audio_angles_AP,
        )
        audio_BAD = audio_BAD + self.audio_reads_video(
            audio_normed_BAD,
            video_normed_BSD,
            angles_LP=audio_angles_AP,
            context_angles_SP=video_angles_SP,
        )
        return self.video_convolution(video_BSD), self.audio_convolution(audio_BAD)


class ContrastiveHead(nn.Module):
    """Unit-length embeddings of features."""

    def __init__(self, width: int, embedding_channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.out = nn.Linear(width, embedding_channels)

    def forward(self, x_BSD: Tensor) -> Tensor:
        """Embeddings of length 1, float32."""
        return F.normalize(self.out(self.norm(x_BSD)).float(), dim=-1)


class TemporalAlignment(nn.Module):
    """Adds to both modalities' states what the other does at the same instant."""

    def __init__(self, config: AVGenConfig) -> None:
        super().__init__()
        width, slot_width = config.width, config.width // config.tubelet_frames
        self.config = config
        self.lift = nn.Linear(slot_width, width)
        self.layers = nn.ModuleList(AlignmentLayer(config) for _ in range(config.alignment_depth))
        self.lower = nn.Linear(width, slot_width)
        self.audio_gate_D = nn.Parameter(torch.zeros(width))
        self.video_head = ContrastiveHead(width, config.alignment_embedding_channels)
        self.audio_head = ContrastiveHead(width, config.alignment_embedding_channels)
        # One axis, not none: DeepSpeed cannot broadcast a scalar parameter (seen: 0.19.8 with torch 2.15).
        self.log_scale_1 = nn.Parameter(torch.tensor([_INITIAL_LOG_SCALE]))
        zero_init(self.lower)

    def forward(
        self,
        video_BLD: Tensor,
        audio_BAD: Tensor,
        *,
        grid_TYX: tuple[int, int, int],
        slot_positions_S3: Tensor,
        audio_positions_A3: Tensor,
    ) -> tuple[Tensor, Tensor, AlignmentEmbeddings]:
        """States of both modalities with the other's added, and the embeddings of every slot."""
        head_channels = self.config.width // self.config.num_heads
        angles_SP = rotary_angles_LP(slot_positions_S3, head_channels)
        angles_AP = rotary_angles_LP(audio_positions_A3, head_channels)
        slots_BSD = self.lift(unfold_slots(video_BLD, grid_TYX, self.config.tubelet_frames))
        embeddings = self._embed(slots_BSD, audio_BAD, slot_positions_S3[:, 0], audio_positions_A3[:, 0])
        aligned_BAD = audio_BAD
        for layer in self.layers:
            slots_BSD, aligned_BAD = layer(
                slots_BSD, aligned_BAD, video_angles_SP=angles_SP, audio_angles_AP=angles_AP
            )
        video_BLD = video_BLD + fold_slots(self.lower(slots_BSD), grid_TYX)
        return video_BLD, audio_BAD + self.audio_gate_D * aligned_BAD, embeddings

    def _embed(
        self, slots_BSD: Tensor, audio_BAD: Tensor, slot_time_s_S: Tensor, audio_time_s_A: Tensor
    ) -> AlignmentEmbeddings:
        nearest_S = (slot_time_s_S[:, None] - audio_time_s_A[None]).abs().argmin(dim=1)
        return AlignmentEmbeddings(
            video_BSE=self.video_head(slots_BSD),
            audio_BSE=self.audio_head(audio_BAD[:, nearest_S]),
            logit_scale=self.log_scale_1.float().clamp(max=_MAX_LOG_SCALE).exp(),
        )


def unfold_slots(video_BLD: Tensor, grid_TYX: tuple[int, int, int], num_slots: int) -> Tensor:
    """Mean over the frame, each token's channels cut into `num_slots` instants: (B, S, D / num_slots)."""
    pooled_BTD = video_BLD.unflatten(1, (grid_TYX[0], grid_TYX[1] * grid_TYX[2])).mean(dim=2)
    return pooled_BTD.unflatten(-1, (num_slots, -1)).flatten(1, 2)


def fold_slots(slots_BSD: Tensor, grid_TYX: tuple[int, int, int]) -> Tensor:
    """Slots joined into token channels again and spread over the frame: (B, L, D)."""
    tokens_BTD = slots_BSD.unflatten(1, (grid_TYX[0], -1)).flatten(2)
    return tokens_BTD.repeat_interleave(grid_TYX[1] * grid_TYX[2], dim=1)


def contrastive_loss(embeddings: AlignmentEmbeddings) -> Tensor:
    """Symmetric cross-entropy of finding each slot's own partner among all slots of the batch, >= 0.

    Source: van den Oord et al. 2018, arXiv 1807.03748, eq. 4, in both directions.
    """
    video_NE, audio_NE = embeddings.video_BSE.flatten(0, 1), embeddings.audio_BSE.flatten(0, 1)
    logits_NN = embeddings.logit_scale * video_NE @ audio_NE.T
    own_N = torch.arange(len(logits_NN), device=logits_NN.device)
    return (F.cross_entropy(logits_NN, own_N) + F.cross_entropy(logits_NN.T, own_N)) / 2
