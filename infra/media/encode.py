"""A clip's frames and samples -> an mp4 and a flac, the same bytes every time.

What is encoded are arrays of our own, so this runs in the process that has them.
"""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

_COLOR = 1  # bt709 in every one of ffmpeg's enumerations of colour.
_LIMITED_RANGE = 1  # AVCOL_RANGE_MPEG, ffmpeg libavutil/pixfmt.h


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodePlan:
    """How a clip is written."""

    frame_rate_fps: Fraction
    side_px: int
    x264_preset: str
    x264_crf: int
    keyframe_interval_frames: int


def encode_mp4(frames: Iterable[NDArray[np.uint8]], plan: EncodePlan, *, path: Path) -> bytes:
    """H.264 in MP4, no sound. One thread and bit-exact flags: the bytes depend on the input and the plan alone.

    Args:
        frames: square, planar 4:2:0, limited-range bt709, each contiguous; done with when the next is asked for.
        path: a temporary file, for the index is moved to the front; it is gone when this returns.
    """
    options = {"preset": plan.x264_preset, "crf": str(plan.x264_crf), "flags": "+bitexact"}
    try:
        with av.open(
            str(path), "w", format="mp4", options={"movflags": "+faststart", "fflags": "+bitexact"}
        ) as container:
            stream = container.add_stream("libx264", rate=plan.frame_rate_fps, options=options)
            context = stream.codec_context
            context.width = context.height = plan.side_px
            context.pix_fmt, context.gop_size, context.thread_count = (
                "yuv420p",
                plan.keyframe_interval_frames,
                1,
            )
            context.color_range, context.colorspace = _LIMITED_RANGE, _COLOR
            context.color_primaries, context.color_trc = _COLOR, _COLOR
            for index, frame_B in enumerate(frames):
                picture = frame_B.reshape(-1, plan.side_px)
                frame = av.VideoFrame.from_numpy_buffer(picture, "yuv420p")
                frame.pts, frame.time_base = index, 1 / plan.frame_rate_fps
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path.read_bytes()
    finally:
        path.unlink(missing_ok=True)


def encode_flac(mono_S: NDArray[np.int16], *, sample_rate_hz: int) -> bytes:
    """Lossless FLAC of 16-bit mono samples."""
    file = io.BytesIO()
    with av.open(file, "w", format="flac", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(
            "flac", rate=sample_rate_hz, layout="mono", options={"flags": "+bitexact"}
        )
        frame = av.AudioFrame.from_ndarray(mono_S[np.newaxis], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = sample_rate_hz, 0, Fraction(1, sample_rate_hz)
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()
