"""What goes into the model and what comes out.

Shapes: B batch, T latent frames, C latent channels, Y rows, X columns, F mel frames, M mel bins, N embeddings
of a clip, D embedding channels, E channels of an alignment embedding, S time slots.
"""

from dataclasses import dataclass
from fractions import Fraction

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoInput:
    """Noised video latents."""

    latents_BTCYX: Tensor
    t_B: Tensor
    """Flow time in [0, 1]: 0 noise, 1 data."""
    frame_rate_fps: Fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioInput:
    """Noised log mel frames."""

    mel_BFM: Tensor
    t_B: Tensor
    """Flow time in [0, 1]: 0 noise, 1 data; its own, not the video's."""
    hop_s: Fraction
    """Seconds from one mel frame to the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditioning:
    """Cached embeddings of the clip, and which of them the model may see."""

    clip_BND: Tensor
    clip_time_s_N: Tensor
    """Second of each CLIP embedding, counted from the first video frame."""
    clap_BD: Tensor
    keeps_clip_B: Tensor
    """Bool; where it is false the learned null embedding takes the place of CLIP."""
    keeps_clap_B: Tensor
    """Bool; where it is false the learned null embedding takes the place of CLAP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignmentEmbeddings:
    """Unit-length embeddings of the same instants of both modalities, and the temperature to compare them."""

    video_BSE: Tensor
    audio_BSE: Tensor
    logit_scale: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Velocities:
    """Predicted flow velocities, float32; a modality that was left out is None, and so is its alignment."""

    video_BTCYX: Tensor | None
    audio_BFM: Tensor | None
    alignment: AlignmentEmbeddings | None
