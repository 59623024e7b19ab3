"""Golden scores of real files, decoded here with PyAV. Origin: this code on the corpus, 2026-11-23."""

from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest

from filters.registry import all_filters, measure
from filters.signals import AudioSignal, VideoSignal
from tests.media import CORPUS, needs_corpus

pytestmark = needs_corpus

FILTERS = {entry.name: entry for entry in all_filters()}

# Cuts counted by eye: one in the NASA clip, two in the cartoon, one and a title in noaudio; the cockatoo moves
# fast. Loudness as ffmpeg's ebur128 says (5.1 in the cartoon). Tolerances leave room for another decoder.
GOLDEN = {
    "vggsound_0B4dYTMsgHA_000130.mp4": {
        "laplacian_variance": (148, 15),
        "cuts_per_s": (0, 0),
        "snr_db": (13.5, 1),
        "silence_ratio": (0, 0),
        "clipped_ratio": (0, 0.0005),
        "loudness_lufs": (-12.5, 0.1),
        "bandwidth_hz": (15778, 100),
        "channel_correlation": (0.68, 0.02),
    },
    "bigbuckbunny_720p.mp4": {
        "laplacian_variance": (198, 20),
        "cuts_per_s": (0, 0),
        "snr_db": (24, 2),
        "silence_ratio": (0, 0.02),
        "clipped_ratio": (0, 0.0005),
        "loudness_lufs": (-34.0, 0.1),
        "bandwidth_hz": (15125, 300),
        "channel_correlation": (0.02, 0.02),
    },
    "nasa_180p_8khz.mp4": {"laplacian_variance": (8, 2), "cuts_per_s": (0.1, 0.001), "clipped_ratio": (0, 0.0005),
        "bandwidth_hz": (4000, 50), "channel_correlation": (0.986, 0.01)},
    "street_360p.mp4": {"laplacian_variance": (132, 15), "cuts_per_s": (0.2, 0.001), "snr_db": (25, 2),
        "loudness_lufs": (-16.2, 0.1), "bandwidth_hz": (13107, 300)},
    "world_270p.mp4": {"laplacian_variance": (10.5, 3), "snr_db": (-20, 0), "silence_ratio": (1, 0),
        "loudness_lufs": (-70, 0), "bandwidth_hz": (0, 0), "channel_correlation": (1, 0)},
    "noaudio_480p.mp4": {"laplacian_variance": (24, 5), "cuts_per_s": (0.2, 0.001)},
    "cockatoo_720p_20fps.mp4": {"cuts_per_s": (0, 0)},
}  # fmt: skip


def decode_luma(path, num_frames=80):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        scale = 512 / min(stream.width, stream.height)
        width, height = (round(side * scale / 2) * 2 for side in (stream.width, stream.height))
        graph = av.filter.Graph()
        nodes = [
            graph.add_buffer(template=stream),
            graph.add("fps", "8"),
            graph.add("scale", f"{width}:{height}:flags=bicubic:out_range=tv"),
            graph.add("format", "yuv420p"),
            graph.add("buffersink"),
        ]
        for before, after in pairwise(nodes):
            before.link_to(after)
        graph.configure()
        luma_NHW = []
        for frame in container.decode(stream):
            graph.push(frame)
            while len(luma_NHW) < num_frames:
                try:
                    plane = graph.pull().planes[0]
                except (av.BlockingIOError, av.EOFError):
                    break
                luma_HW = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
                luma_NHW.append(luma_HW[:, : plane.width].copy())
            if len(luma_NHW) == num_frames:
                break
    return VideoSignal(luma_NHW=np.stack(luma_NHW), frame_rate_fps=Fraction(8))


def decode_audio(path, duration_s=10):
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        resampler = av.AudioResampler(format="fltp")
        blocks = [
            block.to_ndarray() for frame in container.decode(stream) for block in resampler.resample(frame)
        ]
        audio_CT = np.concatenate(blocks, axis=1)[:, : duration_s * stream.rate].astype(np.float32)
        return AudioSignal(audio_CT=audio_CT, sample_rate_hz=stream.rate)


@pytest.mark.parametrize("file_name", GOLDEN)
def test_measure_real_file_has_its_golden_scores(file_name):
    decode = {"video": decode_luma, "audio": decode_audio}
    needed = {FILTERS[name].needs for name in GOLDEN[file_name]}
    signals = {needs: decode[needs](CORPUS / file_name) for needs in needed}
    scores = {name: measure(FILTERS[name], signals[FILTERS[name].needs]) for name in GOLDEN[file_name]}
    expected = {name: pytest.approx(value, abs=tol) for name, (value, tol) in GOLDEN[file_name].items()}
    assert scores == expected
