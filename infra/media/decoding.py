"""Packets of one stream -> frames, some of them broken; what comes out of a filter graph, and a frame's bytes."""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import av
import numpy as np
from av.filter import Graph
from av.video.plane import VideoPlane
from numpy.typing import NDArray

from infra.errors import Undecodable

FrameT = TypeVar("FrameT", av.VideoFrame, av.AudioFrame)

_MAX_ERROR_RATIO = 2 / 3  # Source: ffmpeg 9, fftools, -max_error_rate.


class Decoding(Generic[FrameT]):
    """A decoder that takes a broken packet for a lost one, as players do, unless most are broken."""

    def __init__(self, decode: Callable[[av.Packet | None], list[FrameT]]) -> None:
        self._decode: Callable[[av.Packet | None], list[FrameT]] = decode
        self._num_packets, self._num_errors = 0, 0
        self._last_error: str | None = None

    def frames(self, packet: av.Packet | None) -> list[FrameT]:
        """What a packet decodes to, or with none what is still inside; nothing when it is broken."""
        self._num_packets += packet is not None
        try:
            return self._decode(packet)
        except av.EOFError:
            return []
        except av.MemoryError:
            raise
        except av.FFmpegError as err:
            self._num_errors += 1
            self._last_error = err.strerror
            return []

    def require_most(self) -> None:
        """Raise `Undecodable` when most packets were broken."""
        if self._num_errors > _MAX_ERROR_RATIO * max(1, self._num_packets):
            raise Undecodable(
                f"a stream must decode, {self._num_errors} of {self._num_packets} packets did not:"
                f" {self._last_error}"
            )


def filtered(graph: Graph, frame: FrameT | None, kind: type[FrameT]) -> Iterator[FrameT]:
    """What a graph with one end gives for a frame, or with none at its end.

    Args:
        kind: of what it gives.
    """
    graph.push(frame)
    while True:
        try:
            made = graph.pull()
        except (av.BlockingIOError, av.EOFError):
            return
        assert isinstance(made, kind)
        yield made


def plane_HB(plane: VideoPlane) -> NDArray[np.uint8]:
    """The lines of an 8-bit plane without their padding: H lines of B bytes, a view."""
    lines_HB = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
    return lines_HB[:, : plane.width]


def reason_of(err: Exception) -> str:
    """What ffmpeg said last, without the path of the file: the same file fails in the same words anywhere."""
    log = getattr(err, "log", None)  # PyAV: (level, component, message) of ffmpeg's last line
    return str(log[2].strip()) if log else getattr(err, "strerror", None) or str(err)
