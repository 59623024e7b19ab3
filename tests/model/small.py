"""A small model and inputs for it; shapes as in `model/records.py`."""

from dataclasses import replace
from fractions import Fraction

import torch

from model.config import AVGenConfig
from model.mel import HOP_S
from model.records import AudioInput, Conditioning, VideoInput

SMALL = AVGenConfig(
    width=32,
    depth=2,
    num_heads=2,
    ffn_width=64,
    audio_decoder_width=32,
    audio_decoder_depth=1,
    audio_decoder_num_heads=2,
    audio_decoder_ffn_width=48,
    video_decoder_width=32,
    video_decoder_depth=1,
    alignment_depth=1,
    alignment_width=16,
    alignment_embedding_channels=8,
    num_registers=2,
    clip_channels=12,
    clap_channels=10,
)
FPS = Fraction(8)


def video_input(seed: int = 0, *, num_frames: int = 8, size: int = 4) -> VideoInput:
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(2, num_frames, 4, size, size, generator=generator)
    return VideoInput(latents_BTCYX=latents, t_B=torch.tensor([0.2, 0.7]), frame_rate_fps=FPS)


def audio_input(seed: int = 0, *, num_frames: int = 62) -> AudioInput:
    generator = torch.Generator().manual_seed(seed)
    mel = torch.randn(2, num_frames, 80, generator=generator)
    return AudioInput(mel_BFM=mel, t_B=torch.tensor([0.4, 0.9]), hop_s=HOP_S)


def conditioning(seed: int = 0) -> Conditioning:
    generator = torch.Generator().manual_seed(seed)
    return Conditioning(
        clip_BND=torch.randn(2, 1, 12, generator=generator),
        clip_time_s_N=torch.tensor([0.5]),
        clap_BD=torch.randn(2, 10, generator=generator),
        keeps_clip_B=torch.tensor([True, True]),
        keeps_clap_B=torch.tensor([True, True]),
    )


def without_conditioning(given: Conditioning) -> Conditioning:
    none = torch.zeros(2, dtype=torch.bool)
    return replace(given, keeps_clip_B=none, keeps_clap_B=none)
