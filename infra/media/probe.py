"""Reads the header of a media file in a child process that a bad file may kill.

Starting Python for every file would cost more than many files' whole verdict, so one child serves
many files over a line protocol. A file that makes it crash or hang costs that file: the child is
ended and the next file gets a new one.
"""

import json
import selectors
import subprocess
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from infra.errors import MediaError, MediaTimeout, MissingStream, Undecodable
from infra.media.child import end_child, last_line, raise_if_killed, spawn
from infra.units import BYTES_PER_MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What a file's header and first frame say of its first video and first audio stream."""

    duration_s: float
    """Container duration; 0.0 when the header does not say."""
    width_px: int
    """Display width: rotation and sample aspect ratio applied."""
    height_px: int
    """Display height: rotation and sample aspect ratio applied."""
    frame_rate_fps: Fraction
    """Average over the stream; 0 when the header does not say."""
    video_codec: str
    pixel_format: str
    color_matrix_known: bool
    """Whether the stream says how its YCbCr relates to RGB."""
    video_stream_index: int
    has_audio: bool
    sample_rate_hz: int
    """0 when there is no audio stream."""
    num_audio_channels: int
    """0 when there is no audio stream."""
    audio_codec: str
    """Empty when there is no audio stream."""
    audio_stream_index: int
    """Meaningless when there is no audio stream."""


_ERRORS: dict[str, type[MediaError]] = {cls.code: cls for cls in (Undecodable, MissingStream)}


class Prober:
    """Callable that probes one file after another through a child it restarts when needed."""

    def __init__(self, *, time_limit_s: float = 20.0, memory_limit_mib: int = 2048) -> None:
        self._time_limit_s = time_limit_s
        self._memory_limit_bytes = memory_limit_mib * BYTES_PER_MIB
        self._child: subprocess.Popen[bytes] | None = None

    def __call__(self, path: Path) -> Probe:
        """Header facts of the file at `path`.

        Raises:
            Undecodable: no accepted container, or its first video frame does not decode.
            MissingStream: no video stream.
            MediaTimeout: no answer within the time limit.
        """
        child = self._ensure_child()
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(json.dumps(str(path)).encode() + b"\n")
        child.stdin.flush()
        if not _readable(child.stdout, self._time_limit_s):
            self.close()
            raise MediaTimeout(f"probing must end within {self._time_limit_s:g} s, it did not ({path.name})")
        line = child.stdout.readline()
        if not line:
            status, stderr = end_child(child), child.stderr.read() if child.stderr else b""
            self.close()
            raise_if_killed(status, path.name)
            raise Undecodable(
                f"the header must be readable, the probe died with status {status}:"
                f" {last_line(stderr)} ({path.name})"
            )
        return _parse(json.loads(line))

    def close(self) -> None:
        """End the child; the next call starts another."""
        if self._child is not None:
            end_child(self._child)
            for stream in (self._child.stdin, self._child.stdout, self._child.stderr):
                if stream is not None:
                    stream.close()
            self._child = None

    def _ensure_child(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self.close()
            self._child = spawn(
                [sys.executable, "-m", "infra.media.probe_child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=(),
                max_bytes=self._memory_limit_bytes,
            )
        return self._child


def _readable(stream: Any, time_limit_s: float) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        return bool(selector.select(time_limit_s))


def _parse(answer: dict[str, Any]) -> Probe:
    if "code" in answer:
        raise _ERRORS[answer["code"]](answer["message"])
    answer["frame_rate_fps"] = Fraction(*answer["frame_rate_fps"])
    return Probe(**answer)
