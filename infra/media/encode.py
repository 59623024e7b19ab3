"""One ffmpeg child turns a clip's frames and samples into an mp4 and a flac, the same bytes every time."""

import os
import selectors
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import ffmpeg
import numpy as np
from numpy.typing import NDArray

from infra.errors import MediaTimeout
from infra.media.child import end_child, error_of_end, spawn
from infra.media.pipes import widen_pipe
from infra.units import BYTES_PER_MIB

_MEMORY_LIMIT_BYTES = 2048 * BYTES_PER_MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodePlan:
    """How a clip is written."""

    frame_rate_fps: Fraction
    side_px: int
    sample_rate_hz: int
    x264_preset: str
    x264_crf: int
    keyframe_interval_frames: int
    time_limit_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedClip:
    """The two media members of a sample."""

    mp4: bytes
    flac: bytes


def encode_clip(
    i420_NB: NDArray[np.uint8], mono_S: NDArray[np.int16], plan: EncodePlan, *, binary: Path, work_dir: Path
) -> EncodedClip:
    """H.264 in MP4 (no sound) and mono FLAC of one clip.

    One thread and bit-exact flags: the bytes depend on the input, the plan and the ffmpeg build alone.

    Args:
        i420_NB: N square planar 4:2:0 frames, limited-range bt709, one a row.
        mono_S: 16-bit samples.
        work_dir: where the temporaries of this one clip go; they are gone when this returns.

    Raises:
        Undecodable: ffmpeg failed.
        MediaTooLarge: ffmpeg needs more memory than a child gets.
        MediaTimeout: ffmpeg did not end in time.
    """
    paths = {name: work_dir / f"clip.{name}" for name in ("pcm", "mp4", "flac")}
    try:
        paths["pcm"].write_bytes(np.ascontiguousarray(mono_S, "<i2").data)
        _run(_encode_command(paths, plan, binary=binary), i420_NB, time_limit_s=plan.time_limit_s)
        return EncodedClip(mp4=paths["mp4"].read_bytes(), flac=paths["flac"].read_bytes())
    finally:
        for path in paths.values():
            path.unlink(missing_ok=True)


def _run(command: list[str], i420_NB: NDArray[np.uint8], *, time_limit_s: float) -> None:
    deadline_s = time.monotonic() + time_limit_s
    process = spawn(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=(),
        max_bytes=_MEMORY_LIMIT_BYTES,
    )
    try:
        assert process.stdin is not None
        _feed(process.stdin.fileno(), np.ascontiguousarray(i420_NB).data.cast("B"), deadline_s)
        _, stderr = process.communicate(timeout=deadline_s - time.monotonic())
    except (subprocess.TimeoutExpired, TimeoutError) as err:
        raise MediaTimeout(f"encoding a clip must end within {time_limit_s:g} s, it did not") from err
    finally:
        end_child(process)
    if process.returncode != 0:
        raise error_of_end(process.returncode, stderr, "encoding a clip")


def _feed(fd: int, left: memoryview, deadline_s: float) -> None:
    """Write everything into a pipe, as much at a time as it takes; `Popen.communicate` writes 4 KiB at a time.

    A reader that has gone is no error here: its exit status says why.

    Raises:
        TimeoutError: the monotonic clock passed `deadline_s`.
    """
    os.set_blocking(fd, False)
    widen_pipe(fd)
    with selectors.DefaultSelector() as selector, suppress(BrokenPipeError):
        selector.register(fd, selectors.EVENT_WRITE)
        while left:
            if not selector.select(max(0, deadline_s - time.monotonic())):
                raise TimeoutError
            left = left[os.write(fd, left) :]


def _encode_command(paths: dict[str, Path], plan: EncodePlan, *, binary: Path) -> list[str]:
    frames = ffmpeg.input(
        "pipe:0",
        blocksize=BYTES_PER_MIB,  # Fewer, larger reads.
        format="rawvideo",
        pix_fmt="yuv420p",
        s=f"{plan.side_px}x{plan.side_px}",
        framerate=str(plan.frame_rate_fps),
        color_range="tv",
        colorspace="bt709",
        color_primaries="bt709",
        color_trc="bt709",
    )
    samples = ffmpeg.input(str(paths["pcm"]), format="s16le", ar=plan.sample_rate_hz, ac=1)
    exact = {"fflags": "+bitexact", "map_metadata": -1, "threads": 1}
    video = frames["v"].output(
        str(paths["mp4"]),
        vcodec="libx264",
        preset=plan.x264_preset,
        crf=plan.x264_crf,
        g=plan.keyframe_interval_frames,
        movflags="+faststart",
        **{"flags:v": "+bitexact", **exact},
    )
    sound = samples["a"].output(str(paths["flac"]), acodec="flac", **{"flags:a": "+bitexact", **exact})
    merged = ffmpeg.merge_outputs(video, sound).global_args("-hide_banner", "-loglevel", "error")
    command: list[str] = merged.compile(cmd=str(binary), overwrite_output=True)
    return command
