import pytest
import torch

from infra.errors import Undecodable
from shards.schema import Sample
from train.decode import decode_audio, decode_frames


def frames(sample: Sample, *, first_frame: int, num_frames: int) -> torch.Tensor:
    return decode_frames(
        sample.mp4, first_frame=first_frame, num_frames=num_frames, frame_px=32, sample_key=sample.key
    )


def test_decode_frames_window_is_a_slice_of_the_whole(samples):
    whole = frames(samples[0], first_frame=0, num_frames=24)
    assert (whole.shape, whole.dtype) == ((24, 32, 32, 3), torch.uint8)
    assert torch.equal(frames(samples[0], first_frame=8, num_frames=16), whole[8:])


def test_decode_frames_too_few_raises_undecodable(samples):
    with pytest.raises(Undecodable, match="must have 25 frames, got 24"):
        frames(samples[0], first_frame=9, num_frames=16)


def test_decode_frames_broken_bytes_raise_undecodable(samples):
    with pytest.raises(Undecodable, match="must decode"):
        decode_frames(samples[0].mp4[:300], first_frame=0, num_frames=1, frame_px=32, sample_key="k")


def test_decode_audio_window_is_a_slice_of_the_whole(samples):
    whole = decode_audio(samples[0].flac, first_sample=0, num_samples=48_000, sample_key="k")
    part = decode_audio(samples[0].flac, first_sample=16_000, num_samples=16_000, sample_key="k")
    assert torch.equal(part, whole[16_000:32_000])
    assert 0.01 < whole.abs().max() <= 1


def test_decode_audio_too_few_samples_raise_undecodable(samples):
    with pytest.raises(Undecodable, match="must have 49000 samples, got 48000"):
        decode_audio(samples[0].flac, first_sample=48_000, num_samples=1000, sample_key="k")


def test_decode_audio_broken_bytes_raise_undecodable(samples):
    with pytest.raises(Undecodable, match="audio of sample k must decode"):
        decode_audio(samples[0].flac[:20], first_sample=0, num_samples=1, sample_key="k")
