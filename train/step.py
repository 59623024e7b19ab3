"""One batch -> its loss, for the modalities that the recipe trains.

Shapes: B batch, and those of `model/records.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from model.alignment import contrastive_loss
from model.flow import interpolate, velocity_loss_B
from model.mel import HOP_S
from model.records import AudioInput, Conditioning, Velocities, VideoInput
from train.config import TrainConfig
from train.data import Batch

Predict = Callable[[VideoInput | None, AudioInput | None, Conditioning], Velocities]
"""A model, or the engine that wraps it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """The loss of a batch and what it is made of; a term that the recipe leaves out is 0."""

    total: Tensor
    video_B: Tensor
    audio_B: Tensor
    alignment: Tensor

    def nonfinite_keys(self, keys: Sequence[str]) -> list[str]:
        """Samples whose losses are not finite: all of them when a term that they share is not."""
        finite_B = self.video_B.isfinite() & self.audio_B.isfinite() & self.alignment.isfinite()
        return [key for key, finite in zip(keys, finite_B.tolist(), strict=True) if not finite]


def compute_losses(predict: Predict, batch: Batch, config: TrainConfig) -> Losses:
    """Flow matching on both modalities (or the one that is trained) plus the contrastive term."""
    conditioning = Conditioning(
        clip_BND=batch.clip_BND,
        clip_time_s_N=torch.arange(batch.clip_BND.shape[1], device=batch.clip_BND.device) + 0.5,
        clap_BD=batch.clap_BD,
        keeps_clip_B=batch.keeps_clip_B,
        keeps_clap_B=batch.keeps_clap_B,
    )
    zero_B = torch.zeros_like(batch.video_t_B)
    video = audio = None
    video_target = audio_target = zero_B
    if config.modalities != "audio":
        noised, video_target = interpolate(batch.video_noise_BTCYX, batch.latents_BTCYX, batch.video_t_B)
        video = VideoInput(latents_BTCYX=noised, t_B=batch.video_t_B, frame_rate_fps=config.data.fps)
    if config.modalities != "video":
        noised, audio_target = interpolate(batch.audio_noise_BFM, batch.mel_BFM, batch.audio_t_B)
        audio = AudioInput(mel_BFM=noised, t_B=batch.audio_t_B, hop_s=HOP_S)
    velocities = predict(video, audio, conditioning)
    video_B = zero_B if video is None else velocity_loss_B(_given(velocities.video_BTCYX), video_target)
    audio_B = zero_B if audio is None else velocity_loss_B(_given(velocities.audio_BFM), audio_target)
    alignment = zero_B.sum() if velocities.alignment is None else contrastive_loss(velocities.alignment)
    return Losses(
        total=config.loss.video_weight * video_B.mean()
        + config.loss.audio_weight * audio_B.mean()
        + config.loss.alignment_weight * alignment,
        video_B=video_B,
        audio_B=audio_B,
        alignment=alignment,
    )


def _given(velocity: Tensor | None) -> Tensor:
    assert velocity is not None, "the model returns a velocity for every modality it is given"
    return velocity


def batch_to(batch: Batch, device: torch.device) -> Batch:
    """The batch with every tensor on a device."""
    moved: dict[str, Any] = {
        item.name: value.to(device, non_blocking=True)
        for item in fields(batch)
        if isinstance(value := getattr(batch, item.name), Tensor)
    }
    return replace(batch, **moved)
