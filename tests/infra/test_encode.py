"""The encoding child: the same bytes for the same clip, and an end for what it cannot hold."""

from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest

from infra.errors import MediaTimeout, MediaTooLarge, Undecodable
from infra.media import encode
from infra.media.child import find_ffmpeg
from infra.media.encode import EncodePlan, encode_clip
from infra.units import BYTES_PER_MIB

ENCODE = EncodePlan(
    frame_rate_fps=Fraction(8),
    side_px=64,
    sample_rate_hz=16_000,
    x264_preset="ultrafast",
    x264_crf=20,
    keyframe_interval_frames=8,
    time_limit_s=30,
)


def test_encode_same_input_same_bytes_and_equal_lengths(tmp_path):
    rng = np.random.default_rng(0)
    i420_NB = np.repeat(rng.integers(16, 235, (24, 1), np.uint8), 64 * 64 * 3 // 2, axis=1)
    mono_S = (rng.standard_normal(48_000) * 1000).astype(np.int16)
    first, second = (
        encode_clip(i420_NB, mono_S, ENCODE, binary=find_ffmpeg(), work_dir=tmp_path) for _ in range(2)
    )
    assert (first.mp4, first.flac) == (second.mp4, second.flac)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a.mp4").write_bytes(first.mp4)
    (tmp_path / "a.flac").write_bytes(first.flac)
    with av.open(str(tmp_path / "a.mp4")) as container:
        frames = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
        assert (len(frames), container.streams.video[0].average_rate) == (24, 8)
        assert not container.streams.audio
    with av.open(str(tmp_path / "a.flac")) as container:
        decoded_S = np.concatenate([frame.to_ndarray().ravel() for frame in container.decode(audio=0)])
    np.testing.assert_array_equal(decoded_S, mono_S)


def test_encode_columns_of_a_wider_array_same_bytes_as_their_copy(tmp_path):
    rng = np.random.default_rng(0)
    wide_NB = rng.integers(16, 235, (8, 64 * 64 * 3 // 2 + 6), np.uint8)
    mono_S = np.zeros(16_000, np.int16)
    view, copy = (
        encode_clip(i420_NB, mono_S, ENCODE, binary=find_ffmpeg(), work_dir=tmp_path)
        for i420_NB in (wide_NB[:, 6:], wide_NB[:, 6:].copy())
    )
    assert view == copy


def test_encode_frames_beyond_the_memory_limit_raise_media_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(encode, "_MEMORY_LIMIT_BYTES", 256 * BYTES_PER_MIB)
    plan = replace(ENCODE, side_px=2048, x264_preset="veryfast")
    i420_NB = np.zeros((8, 2048 * 2048 * 3 // 2), np.uint8)
    with pytest.raises(MediaTooLarge, match="memory limit"):
        encode_clip(i420_NB, np.zeros(16_000, np.int16), plan, binary=find_ffmpeg(), work_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("exec sleep 30", MediaTimeout),
        ("cat >/dev/null; exec sleep 30", MediaTimeout),
        ("exit 3", Undecodable),
    ],
    ids=["reads nothing", "never ends", "ends without reading"],
)
def test_encode_binary_that_does_not_do_its_work_raises(tmp_path, script, error):
    binary = tmp_path / "ffmpeg"
    binary.write_text(f"#!/bin/sh\n{script}\n")
    binary.chmod(0o755)
    i420_NB = np.zeros((64, 256 * 256 * 3 // 2), np.uint8)
    plan = replace(ENCODE, time_limit_s=0.5)
    with pytest.raises(error, match="encod"):
        encode_clip(i420_NB, np.zeros(16_000, np.int16), plan, binary=binary, work_dir=tmp_path)
    assert list(tmp_path.iterdir()) == [binary]
