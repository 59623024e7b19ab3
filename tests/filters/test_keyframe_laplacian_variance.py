import av
import numpy as np
import pytest

from filters.keyframe_laplacian_variance import keyframe_laplacian_variance
from filters.laplacian_variance import laplacian_variance
from filters.registry import all_filters
from filters.signals import KeyframeSignal
from infra.errors import TooShort
from tests.filters.pictures import as_signal, flat, scene
from tests.media import CORPUS, needs_corpus

KEEP = {spec.name: spec.keep for spec in all_filters()}
SHARP = np.random.default_rng(0).integers(16, 236, (512, 910), np.uint8)


def score(luma_KHW):
    return keyframe_laplacian_variance(KeyframeSignal(luma_KHW=np.array(luma_KHW, np.uint8)))


def test_keyframe_laplacian_variance_single_bright_pixel_is_exact():
    luma = np.full((5, 5), 40, np.uint8)
    luma[2, 2] = 50
    # One -40 and four +10 in 25 pixels, mean 0.
    assert score([luma]) == pytest.approx((40**2 + 4 * 10**2) / 25)


def test_keyframe_laplacian_variance_flat_frame_is_zero():
    assert score([flat(120)]) == 0


def test_keyframe_laplacian_variance_one_frame_is_the_full_measure():
    assert score([SHARP]) == laplacian_variance(as_signal([SHARP]))


def test_keyframe_laplacian_variance_sharpest_frame_counts():
    assert score([flat(16), scene(1), SHARP, flat(120)]) == score([SHARP])


def test_keyframe_laplacian_variance_black_bars_are_left_out():
    barred = SHARP.copy()
    barred[:64] = barred[-64:] = 16
    assert score([flat(16), barred]) == score([SHARP[72:-72]])


@pytest.mark.parametrize("num_black", [0, 1, 3])
def test_keyframe_laplacian_variance_black_frames_only_raise_too_short(num_black):
    with pytest.raises(TooShort, match=f"got {num_black}"):
        score(np.full((num_black, 64, 64), 16))


def test_keyframe_laplacian_variance_bound_is_half_of_the_full_one():
    assert KEEP["keyframe_laplacian_variance"].min == KEEP["laplacian_variance"].min / 2


def decode_keyframes(path, end_s=10):
    """Key frames of the first clip, without decoding those between."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.skip_frame = "NONKEY"
        scale = 512 / min(stream.width, stream.height)
        width, height = (round(side * scale / 2) * 2 for side in (stream.width, stream.height))
        frames = [
            frame.reformat(width, height, "yuv420p", interpolation="BICUBIC")
            for frame in container.decode(stream)
            if frame.time < end_s
        ]
        planes = [frame.planes[0] for frame in frames]
        rows = [np.frombuffer(plane, np.uint8).reshape(height, plane.line_size) for plane in planes]
        return np.stack([row_HW[:, :width] for row_HW in rows])


@needs_corpus
@pytest.mark.parametrize(
    ("file_name", "num_frames", "golden", "full"),
    [
        ("bigbuckbunny_720p.mp4", 1, 223, 201),
        ("portrait_480x640.mp4", 1, 509, 367),
        ("screen_1080p_2min.mp4", 2, 2159, 2097),
        ("stage_704p.mp4", 1, 384, 378),
        ("street_360p.mp4", 3, 119, 132),
        ("vggsound_0B4dYTMsgHA_000130.mp4", 2, 159, 148),
        ("cockatoo_720p_20fps.mp4", 3, 17, 13),
        ("lecture_360p.mp4", 2, 12, 8),
        ("nasa_180p_8khz.mp4", 2, 12, 8),
        ("pancake_240p_opus.mkv", 2, 8, 6),
        ("world_270p.mp4", 4, 11, 11),
    ],
)
def test_keyframe_laplacian_variance_real_file_has_its_golden_score(file_name, num_frames, golden, full):
    # Origin: this code on key frames by PyAV, and laplacian_variance on all frames of the 10 s, 2026-11-23.
    luma_KHW = decode_keyframes(CORPUS / file_name)
    assert len(luma_KHW) == num_frames
    assert score(luma_KHW) == pytest.approx(golden, rel=0.1)
    assert KEEP["keyframe_laplacian_variance"].admits(golden) == KEEP["laplacian_variance"].admits(full)
