"""The recipe of a training run: every setting, checked before any work starts."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from infra.config import Config, load_config
from infra.errors import ConfigError
from infra.units import frames_to_samples, s_to_frames_floor
from model.config import AVGenConfig
from model.latents import PATCH_PX
from model.mel import HOP_SAMPLES, SAMPLE_RATE_HZ

RECIPES_DIR = Path(__file__).parent / "recipes"


class DataConfig(Config):
    """What one sample of training is cut from a clip."""

    window_s: int = Field(ge=1)
    """Whole seconds of a clip that one training sample spans; shorter clips are left out and counted."""
    frame_rate_fps: int = Field(ge=1)
    """Frame rate of the dataset's clips; a dataset at another rate is refused."""
    frame_px: int = Field(ge=PATCH_PX, multiple_of=PATCH_PX)
    """Height and width to which frames are scaled before they are encoded."""
    conditioning_dropout_ratio: float = Field(ge=0, le=1)
    """Share of samples that train without CLIP, and independently without CLAP."""
    num_batches_ahead: int = Field(ge=1)
    """Batches that are decoded while the current one trains."""
    max_skipped_ratio: float = Field(default=0.01, ge=0, le=1)
    """Share of the dataset that all ranks together may skip in an epoch because its shards are damaged."""

    @property
    def fps(self) -> Fraction:
        """The frame rate as the exact number that the model's clock takes."""
        return Fraction(self.frame_rate_fps)

    @property
    def num_frames(self) -> int:
        """Video frames of a window."""
        return s_to_frames_floor(self.window_s, self.fps)

    @property
    def num_samples(self) -> int:
        """Audio samples of a window."""
        return frames_to_samples(self.num_frames, sample_rate_hz=SAMPLE_RATE_HZ, frame_rate_fps=self.fps)

    def num_mel_frames(self, patch_frames: int) -> int:
        """Mel frames of a window, a whole number of patches."""
        return (1 + self.num_samples // HOP_SAMPLES) // patch_frames * patch_frames


class LossConfig(Config):
    """How much each term of the loss counts."""

    video_weight: float = Field(gt=0)
    """Weight of the video velocity error."""
    audio_weight: float = Field(gt=0)
    """Weight of the audio velocity error."""
    alignment_weight: float = Field(ge=0)
    """Weight of the contrastive loss between slots of video and audio."""


class OptimiserConfig(Config):
    """AdamW and its schedule: a linear warm-up, then a constant rate."""

    learning_rate: float = Field(gt=0)
    """Rate after the warm-up."""
    warmup_steps: int = Field(ge=0)
    """Steps over which the rate grows from 0."""
    beta_1: float = Field(gt=0, lt=1)
    """Decay of the first moment."""
    beta_2: float = Field(gt=0, lt=1)
    """Decay of the second moment."""
    weight_decay: float = Field(ge=0)
    """Decoupled weight decay."""
    max_gradient_norm: float = Field(gt=0)
    """Gradients longer than this are scaled down to it."""


class CheckpointConfig(Config):
    """When checkpoints are written and how many stay."""

    every_steps: int = Field(ge=1)
    """Steps between checkpoints; the last step always writes one."""
    num_kept: int = Field(ge=1)
    """Newest checkpoints that stay on disk."""


class TrainConfig(Config):
    """One training run."""

    seed: int = Field(ge=0)
    """Seed of the initial weights, the order of samples, their windows, noise, flow times and dropout."""
    num_steps: int = Field(ge=1)
    """Optimiser steps of the whole run, those before a resume included."""
    rank_batch_samples: int = Field(ge=1)
    """Samples of one step on one rank; the global batch is this times the number of ranks."""
    modalities: Literal["joint", "video", "audio"]
    """What the model is given: both modalities, or one with the other half of the sequence left out."""
    data: DataConfig
    """What a training sample is."""
    loss: LossConfig
    """Weights of the loss."""
    optimiser: OptimiserConfig
    """AdamW and its schedule."""
    checkpoint: CheckpointConfig
    """When the run is saved."""
    model: AVGenConfig
    """Sizes of the model."""

    @model_validator(mode="after")
    def _check_window(self) -> Self:
        latent_px = self.data.frame_px // PATCH_PX
        grid = (self.data.num_frames, latent_px, latent_px)
        tubelet = (self.model.tubelet_frames, self.model.tubelet_height, self.model.tubelet_width)
        if any(size % part for size, part in zip(grid, tubelet, strict=True)):
            raise ValueError(
                f"data.window_s x data.frame_rate_fps and data.frame_px must give latents that divide into "
                f"model tubelets {tubelet} (t, y, x), got {grid}"
            )
        return self


def load_train_config(name_or_path: str, *, overrides: Sequence[str]) -> TrainConfig:
    """The recipe with its overrides applied.

    Raises:
        ConfigError: no such recipe, an unknown setting, or one out of its range.
    """
    return load_config(TrainConfig, name_or_path=name_or_path, builtin_dir=RECIPES_DIR, overrides=overrides)


def check_dataset_fits(config: TrainConfig, *, dataset_dir: Path, num_samples: int, num_ranks: int) -> None:
    """Raises `ConfigError` unless every rank finds at least one batch in an epoch."""
    if num_samples // num_ranks < config.rank_batch_samples:
        needed = config.rank_batch_samples * num_ranks
        raise ConfigError(
            f"a dataset must hold at least one batch, {needed} samples for {num_ranks} ranks of "
            f"{config.rank_batch_samples}, got {num_samples} in {dataset_dir}; lower rank_batch_samples or "
            "pack more"
        )
