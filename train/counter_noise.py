"""Random numbers of one sample, from a counter: the same on every rank, after every restart.

Shapes: T frames, C channels, Y rows, X columns, F mel frames, M mel bins.
"""

from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

from model.flow import sample_flow_time


def counter_seed(run_seed: int, sample_key: str, epoch: int, purpose: str) -> int:
    """A 63-bit seed that depends on these four and nothing else."""
    text = f"{run_seed}/{epoch}/{purpose}/{sample_key}"
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) >> 1


def counter_choice(run_seed: int, sample_key: str, epoch: int, *, purpose: str, num_choices: int) -> int:
    """A number in [0, num_choices)."""
    return counter_seed(run_seed, sample_key, epoch, purpose) % num_choices


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleNoise:
    """Everything random about training one sample in one epoch."""

    video_TCYX: Tensor
    audio_FM: Tensor
    video_t: Tensor
    """Flow time of the video, a scalar in (0, 1)."""
    audio_t: Tensor
    """Flow time of the audio, a scalar in (0, 1)."""
    keeps_clip: bool
    keeps_clap: bool


def draw_sample_noise(
    run_seed: int,
    sample_key: str,
    epoch: int,
    *,
    video_shape: tuple[int, ...],
    audio_shape: tuple[int, ...],
    dropout_ratio: float,
) -> SampleNoise:
    """The noise, flow times and conditioning dropout of one sample in one epoch."""

    def generator(purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(counter_seed(run_seed, sample_key, epoch, purpose))

    kept_2 = torch.rand(2, generator=generator("dropout")) >= dropout_ratio
    times_2 = sample_flow_time(torch.randn(2, generator=generator("flow_time")))
    return SampleNoise(
        video_TCYX=torch.randn(video_shape, generator=generator("video")),
        audio_FM=torch.randn(audio_shape, generator=generator("audio")),
        video_t=times_2[0],
        audio_t=times_2[1],
        keeps_clip=bool(kept_2[0]),
        keeps_clap=bool(kept_2[1]),
    )
