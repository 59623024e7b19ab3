"""The window of a sample's media: bytes -> frames and audio, in memory.

Shapes: N frames, H, W pixels, 3 RGB, T audio samples.

PyAV is used here and not through `infra/media`: a sample of a shard is our own transcode, proven by its
checksum, so it needs no child process, and one batch is many short decodes.
"""

import io

import av
import numpy as np
import soundfile
import torch
from torch import Tensor

from infra.errors import Undecodable
from model.mel import SAMPLE_RATE_HZ


def decode_frames(mp4: bytes, *, first_frame: int, num_frames: int, frame_px: int, sample_key: str) -> Tensor:
    """Frames [first_frame, first_frame + num_frames) scaled to a square, uint8 RGB (N, H, W, 3).

    Raises:
        Undecodable: the stream breaks, or holds fewer frames.
    """
    frames: list[np.ndarray] = []
    try:
        with av.open(io.BytesIO(mp4), mode="r") as container:
            container.streams.video[0].thread_type = "NONE"
            for index, frame in enumerate(container.decode(video=0)):
                if index >= first_frame:
                    scaled = frame.reformat(frame_px, frame_px, format="rgb24", interpolation="AREA")
                    frames.append(scaled.to_ndarray())
                if len(frames) == num_frames:
                    break
    except (av.FFmpegError, IndexError) as err:
        raise Undecodable(f"video of sample {sample_key} must decode, got {err}") from err
    if len(frames) < num_frames:
        raise Undecodable(
            f"video of sample {sample_key} must have {first_frame + num_frames} frames, "
            f"got {first_frame + len(frames)}"
        )
    return torch.from_numpy(np.stack(frames))


def decode_audio(flac: bytes, *, first_sample: int, num_samples: int, sample_key: str) -> Tensor:
    """Mono samples [first_sample, first_sample + num_samples) in [-1, 1], float32 (T,).

    Raises:
        Undecodable: not FLAC, not mono, at another rate, or shorter.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(flac)) as file:
            if (file.samplerate, file.channels) != (SAMPLE_RATE_HZ, 1):
                raise Undecodable(
                    f"audio of sample {sample_key} must be mono at {SAMPLE_RATE_HZ} Hz, "
                    f"got {file.channels} channels at {file.samplerate} Hz"
                )
            file.seek(first_sample)
            audio_T = file.read(num_samples, dtype="float32")
    except soundfile.LibsndfileError as err:
        raise Undecodable(f"audio of sample {sample_key} must decode, got {err}") from err
    if len(audio_T) < num_samples:
        raise Undecodable(
            f"audio of sample {sample_key} must have {first_sample + num_samples} samples, "
            f"got {first_sample + len(audio_T)}"
        )
    return torch.from_numpy(audio_T)
