"""Reads the header of a media file in a child process that a bad file may kill.

Starting Python for every file would cost more than many files' whole verdict, so one child serves
many files over a line protocol. A file that makes it crash or hang costs that file: the child is
ended and the next file gets a new one.
"""

import json
import selectors
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

from infra.errors import (
    ChildKilled,
    MediaError,
    MediaTimeout,
    MediaTooLarge,
    MissingStream,
    Truncated,
    Undecodable,
)
from infra.media.child import end_child, error_of_end, spawn
from infra.units import BYTES_PER_MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What a file's header and first frame say of its first video and first audio stream."""

    duration_s: float
    """Container duration; 0.0 when the header does not say."""
    is_indexed: bool
    """Whether the container finds the key frame before a time, so that reading can start there."""
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
    is_hdr: bool
    """Whether its transfer is PQ or HLG."""
    is_interlaced: bool
    """Whether its first frame says that it is made of two fields."""
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


_START_LIMIT_S = 60.0  # For Python and PyAV to start on a busy machine.
_ERRORS: dict[str, type[MediaError]] = {
    cls.code: cls for cls in (Undecodable, Truncated, MissingStream, MediaTooLarge)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Child:
    process: subprocess.Popen[bytes]
    stderr: IO[bytes]
    """A file: a pipe that nobody reads while the child works would fill up and block it."""


class Prober:
    """Callable that probes one file after another through a child it restarts when needed."""

    def __init__(self, *, time_limit_s: float = 20.0, memory_limit_mib: int = 2048) -> None:
        self._time_limit_s = time_limit_s
        self._memory_limit_bytes = memory_limit_mib * BYTES_PER_MIB
        self._child: _Child | None = None

    def __call__(self, path: Path) -> Probe:
        """Header facts of the file at `path`.

        Raises:
            Undecodable: no accepted container, or its first video frame does not decode.
            Truncated: the file is far too small for the duration that its header states.
            MissingStream: no video stream.
            MediaTooLarge: the header needs more memory than the child gets, or states an impossible size.
            MediaTimeout: no answer within the time limit.
            ChildKilled: the child was killed from outside.
        """
        try:
            child = self._ask(path)
        except ChildKilled:  # Since the last file; this one is not to blame.
            child = self._ask(path)
        answers = child.process.stdout
        assert answers is not None
        if not _readable(answers, self._time_limit_s):
            self.close()
            raise MediaTimeout(f"probing must end within {self._time_limit_s:g} s, it did not ({path.name})")
        line = answers.readline()
        if not line:
            status = end_child(child.process)
            child.stderr.seek(0)
            error = error_of_end(status, child.stderr.read(), path.name)
            self.close()
            raise error
        return _parse(json.loads(line))

    def close(self) -> None:
        """End the child; the next call starts another."""
        if self._child is not None:
            process = self._child.process
            end_child(process)
            for stream in (process.stdin, process.stdout, self._child.stderr):
                if stream is not None:
                    stream.close()
            self._child = None

    def _ask(self, path: Path) -> _Child:
        """The child, which has taken up the file at `path`."""
        child = self._running_child()
        requests, answers = child.process.stdin, child.process.stdout
        assert requests is not None and answers is not None
        child.stderr.seek(0)  # The child writes at the same offset.
        child.stderr.truncate()
        with suppress(BrokenPipeError):
            requests.write(json.dumps(str(path)).encode() + b"\n")
        if not _readable(answers, _START_LIMIT_S) or not answers.readline():
            self.close()
            raise ChildKilled(f"the probe must take up a file that it is given, it did not ({path.name})")
        return child

    def _running_child(self) -> _Child:
        if self._child is None or self._child.process.poll() is not None:
            self.close()
            stderr = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the child)
            process = spawn(
                [sys.executable, "-m", "infra.media.probe_child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                pass_fds=(),
                max_bytes=self._memory_limit_bytes,
            )
            self._child = _Child(process=process, stderr=stderr)
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
