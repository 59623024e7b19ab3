"""The encoders: the same bytes for the same clip, and nothing lost on the way."""

from fractions import Fraction

import av
import numpy as np
import pytest

from infra.media.encode import EncodePlan, encode_flac, encode_mp4

PLAN = EncodePlan(
    frame_rate_fps=Fraction(8), side_px=64, x264_preset="ultrafast", x264_crf=20, keyframe_interval_frames=8
)


def test_encode_mp4_same_frames_same_bytes_and_no_scratch(tmp_path):
    rng = np.random.default_rng(0)
    i420_NB = np.repeat(rng.integers(16, 235, (24, 1), np.uint8), 64 * 64 * 3 // 2, axis=1)
    first, second = (encode_mp4(i420_NB, PLAN, path=tmp_path / "clip.mp4") for _ in range(2))
    assert first == second
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a.mp4").write_bytes(first)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        keys = [index for index, frame in enumerate(frames) if frame.key_frame]
        assert (len(frames), stream.average_rate, stream.codec_context.pix_fmt) == (24, 8, "yuv420p")
        assert [int(stream.codec_context.colorspace), int(stream.codec_context.color_range)] == [1, 1]
        assert not container.streams.audio
    assert max(np.diff([*keys, 24])) <= 8
    luma_N = [np.frombuffer(frame.planes[0], np.uint8).reshape(64, -1)[:, :64].mean() for frame in frames]
    np.testing.assert_allclose(luma_N, i420_NB[:, 0], atol=3)


def test_encode_mp4_index_comes_before_the_media(tmp_path):
    mp4 = encode_mp4(np.full((8, 64 * 64 * 3 // 2), 128, np.uint8), PLAN, path=tmp_path / "clip.mp4")
    assert 0 < mp4.index(b"moov") < mp4.index(b"mdat")


def test_encode_flac_gives_the_samples_back_and_the_same_bytes(tmp_path):
    mono_S = (np.random.default_rng(0).standard_normal(48_001) * 1000).astype(np.int16)
    first, second = (encode_flac(mono_S, sample_rate_hz=16_000) for _ in range(2))
    assert first == second
    (tmp_path / "a.flac").write_bytes(first)
    with av.open(str(tmp_path / "a.flac")) as container:
        assert (container.streams.audio[0].rate, container.streams.audio[0].channels) == (16_000, 1)
        assert container.duration == pytest.approx(48_001 * 1_000_000 / 16_000, abs=1)
        decoded_S = np.concatenate([frame.to_ndarray().ravel() for frame in container.decode(audio=0)])
    np.testing.assert_array_equal(decoded_S, mono_S)
