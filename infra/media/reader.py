"""Reads media files in a child process that a bad file may kill.

Starting Python for every file would cost more than many files' whole verdict, so one child serves one file after
another. It takes requests over a line protocol and leaves frames and samples in memory that both processes map:
nothing is copied between them. A file that makes it crash, hang or eat memory costs that file: the child is ended
and the next file gets a new one.

C channels, T samples, N frames, B bytes of a planar frame, H rows and W columns of a frame.
"""

import json
import math
import mmap
import os
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from infra.errors import (
    ChildKilled,
    MediaError,
    MediaTimeout,
    MediaTooLarge,
    MissingStream,
    Truncated,
    Undecodable,
)
from infra.media.child import end_child, error_of_end, limit_memory
from infra.media.probe import Probe
from infra.units import BYTES_PER_MIB

_START_LIMIT_S = 60.0  # For Python and PyAV to start on a busy machine.
_MAX_ASPECT = 8  # Assumption, not measured: twice the widest panorama; more would mostly be cropped away.
_READ_BYTES = 65_536
_ERRORS: dict[str, type[MediaError]] = {
    cls.code: cls for cls in (Undecodable, Truncated, MissingStream, MediaTooLarge)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadLimits:
    """What the reading child may take before it is killed."""

    stall_s: float = 60.0
    """Longest silence of the child while it is being waited for."""
    memory_mib: int = 4096
    """Address space of the child."""
    skew_mib: int = 512
    """What may be held of one stream's packets while another's are waited for (badly interleaved files)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPlan:
    """What to make of a source: the sampling of its frames, and how much of it is looked at together."""

    frame_rate_fps: Fraction
    short_side_px: int
    window_frames: int
    """Frames of a window."""
    start_s: float = 0.0
    end_s: float = math.inf
    """Only `[start_s, end_s)` of the file is read; frame 0 is at `start_s`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """The sound of a window."""

    native_CT: NDArray[np.float32]
    """At the source's own rate and channels: exactly the samples that belong to `num_frames`."""
    num_frames: int
    """Frames of the window that picture and sound both cover."""
    has_ended: bool
    """Whether the shorter of the two ends in this window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """Frames of a window."""

    i420_NB: NDArray[np.uint8]
    """One planar YUV 4:2:0 frame a row, H*W*3/2 bytes, limited-range bt709."""
    height_px: int
    width_px: int

    def first(self, num_frames: int) -> "Pictures":
        """The first of them, a view."""
        return Pictures(i420_NB=self.i420_NB[:num_frames], height_px=self.height_px, width_px=self.width_px)

    @property
    def luma_NHW(self) -> NDArray[np.uint8]:
        """Luma planes, a view."""
        num_luma = self.height_px * self.width_px
        return self.i420_NB[:, :num_luma].reshape(len(self.i420_NB), self.height_px, self.width_px)


class MediaReader:
    """Probes and opens files, one at a time, through a child that it starts again when needed."""

    def __init__(self, limits: ReadLimits | None = None) -> None:
        self._limits = limits or ReadLimits()
        self._child: _Child | None = None

    def probe(self, path: Path) -> Probe:
        """Header facts of the file at `path`.

        Raises:
            Undecodable: no accepted container, or its first video frame does not decode.
            Truncated: the file is far too small for the duration that its header states.
            MissingStream: no video stream.
            MediaTooLarge: the header needs more memory than the child gets, or states an impossible size.
            MediaTimeout: no answer within the time limit.
            ChildKilled: the child was killed from outside.
        """
        facts = self._begin({"do": "probe", "path": path.absolute()}, path.name)
        facts["frame_rate_fps"] = Fraction(*facts["frame_rate_fps"])
        return Probe(**facts)

    @contextmanager
    def open(self, path: Path, probe: Probe, plan: ReadPlan) -> Iterator["MediaSource"]:
        """The file, which must have sound, for as long as the block lasts.

        Raises:
            MediaTooLarge: the picture is so long and narrow that its frames would be huge.
            MediaError, ChildKilled: see `probe`; also from what is done with the source.
        """
        _require_moderate_aspect(probe, path.name)
        request = {
            "do": "open",
            "path": path.absolute(),
            "video_stream": probe.video_stream_index,
            "audio_stream": probe.audio_stream_index,
            "is_interlaced": probe.is_interlaced,
            "duration_s": probe.duration_s,
            "source_rate_fps": _ratio(probe.frame_rate_fps),
            "frame_rate_fps": _ratio(plan.frame_rate_fps),
            "short_side_px": plan.short_side_px,
            "window_frames": plan.window_frames,
            "start_s": plan.start_s,
            "end_s": None if plan.end_s == math.inf else plan.end_s,
            "skew_mib": self._limits.skew_mib,
        }
        try:
            self._begin(request, path.name)
            assert self._child is not None
            yield MediaSource(self._child, path.name)
        except (MediaError, ChildKilled):
            self.close()  # A decoder that met broken data is not trusted with the next file.
            raise

    def close(self) -> None:
        """End the child; the next call starts another."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def _begin(self, request: dict[str, Any], subject: str) -> dict[str, Any]:
        """The answer of a child that has not seen the file yet; one that died before is replaced."""
        try:
            return self._running_child().ask(request, subject)
        except _NotTakenUp:  # It died since the last file; this one is not to blame.
            self.close()
        try:
            return self._running_child().ask(request, subject)
        except _NotTakenUp as err:
            self.close()
            raise ChildKilled(
                f"a media child must take up a file that it is given, it did not ({subject})"
            ) from err

    def _running_child(self) -> "_Child":
        if self._child is None or not self._child.is_running:
            self.close()
            self._child = _Child(self._limits)
        return self._child


class MediaSource:
    """An open file, seen through a window. What the methods return is overwritten by their next call."""

    def __init__(self, child: "_Child", subject: str) -> None:
        self._child, self._subject = child, subject

    def sound(self) -> Sound:
        """Decode the sound of the window.

        Raises:
            Undecodable: most of it is broken, or it changes its format.
            MediaTooLarge: the streams are interleaved too far apart to be held, or the child lacks memory.
            MediaTimeout: the child stalled.
        """
        answer = self._ask("sound")
        native_CT = self._child.array(answer, np.float32)[:, : answer["num_samples"]]
        return Sound(native_CT=native_CT, num_frames=answer["num_frames"], has_ended=answer["has_ended"])

    def key_frames(self) -> Pictures:
        """Decode a few key frames of the window without what is between. There may be none. Raises: as `sound`."""
        return self._pictures(self._ask("key_frames"))

    def pictures(self) -> Pictures:
        """Decode the `num_frames` of the window that `sound` told of.

        Raises:
            Undecodable: there is no frame, or they are of more than one shape.
            MediaTooLarge, MediaTimeout: as `sound`.
        """
        return self._pictures(self._ask("pictures"))

    def advance(self, num_frames: int) -> None:
        """Let the window begin so many frames later. What can be left out then of the decoding is left out."""
        self._ask("advance", num_frames=num_frames)

    def finish(self) -> float:
        """Read the rest without decoding it; seconds from the start of the span to the end of the longer stream.

        Raises:
            Undecodable: most frames were broken.
        """
        return float(self._ask("finish")["end_s"])

    def _ask(self, do: str, **more: int) -> dict[str, Any]:
        return self._child.ask({"do": do, **more}, self._subject)

    def _pictures(self, answer: dict[str, Any]) -> Pictures:
        i420_NB = self._child.array(answer, np.uint8)
        return Pictures(i420_NB=i420_NB, height_px=answer["height_px"], width_px=answer["width_px"])


class _NotTakenUp(Exception):
    """The child ended before it looked at a file."""


class _Child:
    """A running reader_child.py and the memory that is shared with it."""

    def __init__(self, limits: ReadLimits) -> None:
        self._limits = limits
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the child)
        self._memory_fd = os.memfd_create("avgen-media")
        os.ftruncate(self._memory_fd, mmap.PAGESIZE)
        self._map: mmap.mmap | None = None
        self._process = subprocess.Popen(
            [sys.executable, "-m", "infra.media.reader_child", str(self._memory_fd)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,  # A file: a pipe that nobody reads while the child works would block it.
            pass_fds=(self._memory_fd,),
            bufsize=0,
        )
        limit_memory(self._process, limits.memory_mib * BYTES_PER_MIB)
        self._unread = b""

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: dict[str, Any], subject: str) -> dict[str, Any]:
        """The answer; the child is ended when there is none."""
        assert self._process.stdin is not None
        self._stderr.seek(0)  # The child writes at the same offset.
        self._stderr.truncate()
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request, default=str).encode() + b"\n")
        is_first = request["do"] in ("probe", "open")
        if self._line(_START_LIMIT_S if is_first else self._limits.stall_s, subject) is None:
            raise _NotTakenUp if is_first else self._error_of_end(subject)
        while (line := self._line(self._limits.stall_s, subject)) == b"":
            pass
        if line is None:
            raise self._error_of_end(subject)
        answer: dict[str, Any] = json.loads(line)
        if "code" in answer:
            raise _ERRORS[answer["code"]](f"{answer['message']} ({subject})")
        return answer

    def array(self, answer: dict[str, Any], dtype: type[np.generic]) -> NDArray[Any]:
        """The array that an answer tells of, not copied."""
        num_items = math.prod(answer["shape"])
        end = answer["offset"] + num_items * np.dtype(dtype).itemsize
        if self._map is None or end > len(self._map):
            self._map = mmap.mmap(self._memory_fd, 0)
        return np.frombuffer(self._map, dtype, num_items, answer["offset"]).reshape(answer["shape"])

    def close(self) -> None:
        end_child(self._process)
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            assert stream is not None
            stream.close()
        os.close(self._memory_fd)

    def _line(self, time_limit_s: float, subject: str) -> bytes | None:
        """The next line that the child writes, without its end; none when there will be no more."""
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(time_limit_s):
                    end_child(self._process)
                    raise MediaTimeout(
                        f"a media child must make progress every {time_limit_s:g} s, it did not ({subject})"
                    )
                chunk = os.read(self._process.stdout.fileno(), _READ_BYTES)
                if not chunk:
                    return None
                self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _error_of_end(self, subject: str) -> Exception:
        status = end_child(self._process)
        self._stderr.seek(0)
        stderr = self._stderr.read()
        error = error_of_end(status, stderr, subject)
        if isinstance(error, Undecodable) and stderr.startswith(b"Traceback"):
            return RuntimeError(f"the media child has a bug, seen with {subject}: {stderr.decode()}")
        return error


def _require_moderate_aspect(probe: Probe, subject: str) -> None:
    short_px, long_px = sorted((probe.width_px, probe.height_px))
    if long_px > _MAX_ASPECT * short_px:
        raise MediaTooLarge(
            f"the longer side of a picture must be at most {_MAX_ASPECT} times the shorter, got"
            f" {probe.width_px} x {probe.height_px} ({subject})"
        )


def _ratio(rate_fps: Fraction) -> tuple[int, int]:
    return rate_fps.numerator, rate_fps.denominator
