"""Reading several pipes of one child at once, in bounded memory, so that no stream blocks another."""

import fcntl
import os
import selectors
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

import numpy as np
from numpy.typing import NDArray

from infra.errors import MediaTimeout, Undecodable
from infra.media.child import error_of_end, is_out_of_memory
from infra.units import BYTES_PER_MIB

_PIPE_BYTES = BYTES_PER_MIB  # Fewer wake-ups than the default 64 KiB.
_READ_BYTES = BYTES_PER_MIB
_SLACK_BYTES = 16 * BYTES_PER_MIB  # A second or two of frames; memory that is not touched costs nothing.
_STDERR_TAIL_BYTES = 8192


@contextmanager
def open_pipes(names: tuple[str, ...]) -> Iterator[tuple[dict[str, int], dict[str, int]]]:
    """Pipes by name: read ends and write ends. What is still in the maps at the end is closed."""
    reads: dict[str, int] = {}
    writes: dict[str, int] = {}
    try:
        for name in names:
            reads[name], writes[name] = os.pipe()
            os.set_blocking(reads[name], False)
            widen_pipe(reads[name])
        yield reads, writes
    finally:
        for fd in (*reads.values(), *writes.values()):
            os.close(fd)


def widen_pipe(fd: int) -> None:
    """Let a pipe hold `_PIPE_BYTES`, where this user's share of pipe memory allows it."""
    with suppress(PermissionError):  # Slower, not wrong.
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


class _Held:
    """The bytes of one stream, in one piece of memory that pipes are read into without a copy."""

    def __init__(self) -> None:
        self._bytes_B = np.empty(0, np.uint8)
        self._num_bytes = 0

    def __len__(self) -> int:
        return self._num_bytes

    def reserve(self, num_bytes: int) -> None:
        """Make room for so many bytes in all."""
        if num_bytes > len(self._bytes_B):
            larger_B = np.empty(num_bytes, np.uint8)
            larger_B[: len(self)] = self._bytes_B[: len(self)]
            self._bytes_B = larger_B

    def fill(self, fd: int, max_bytes: int) -> int:
        """Read once; how many bytes that gave."""
        if len(self) == len(self._bytes_B):
            self.reserve(2 * len(self) + _READ_BYTES)
        num_bytes = os.readv(fd, [self._bytes_B[len(self) : len(self) + max_bytes].data])
        self._num_bytes += num_bytes
        return num_bytes

    def line_bytes(self) -> int:
        """Length of the first line with its end; 0 while there is none."""
        return self._bytes_B[: len(self)].tobytes().find(b"\n") + 1

    def take(self, num_bytes: int) -> NDArray[np.uint8]:
        """Remove and return the first bytes. The shorter part is copied."""
        taken_B, rest_B = np.split(self._bytes_B[: len(self)], [num_bytes])
        is_most = num_bytes >= len(rest_B)
        self._bytes_B, self._num_bytes = rest_B.copy() if is_most else rest_B, len(rest_B)
        return taken_B if is_most else taken_B.copy()


class Pipes:
    """What the pipes of a child gave and was not taken yet.

    A stream may hold what is being waited for and `spare_bytes` more. What comes beyond that is counted and
    thrown away, and the stream is cut. For ffmpeg closes its pipes only when it ends: a stream that has ended
    cannot be told from one that is late, and all that comes of the others meanwhile would have to be held.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        fds: Mapping[str, int],
        *,
        stall_s: float,
        spare_bytes: int,
        subject: str,
    ) -> None:
        assert process.stderr is not None
        self._process = process
        self._stall_s = stall_s
        self._spare_bytes = spare_bytes
        self._subject = subject
        self._held = {name: _Held() for name in fds}
        self._max_held = dict.fromkeys(fds, spare_bytes)
        self._num_dropped = dict.fromkeys(fds, 0)
        self._open = set(fds)
        self._stderr = b""
        self._selector = selectors.DefaultSelector()
        for name, fd in fds.items():
            self._selector.register(fd, selectors.EVENT_READ, name)
        self._selector.register(process.stderr.fileno(), selectors.EVENT_READ, "")

    def wait_for(self, wanted: Mapping[str, int]) -> dict[str, int]:
        """Read until every stream holds what is wanted, has ended or is cut; return what each holds."""
        self._max_held = {name: count + self._spare_bytes for name, count in wanted.items()}
        for name, count in wanted.items():
            self._held[name].reserve(count + _SLACK_BYTES)
        while any(
            name in self._open - self.cut and len(self._held[name]) < count for name, count in wanted.items()
        ):
            self._pump()
        if not self._open:
            self._check_end()
        return {name: len(held) for name, held in self._held.items()}

    @property
    def cut(self) -> set[str]:
        """The streams of which bytes were thrown away."""
        return {name for name, count in self._num_dropped.items() if count}

    def take(self, name: str, num_bytes: int) -> NDArray[np.uint8]:
        """Remove and return the first `num_bytes` of a stream."""
        return self._held[name].take(num_bytes)

    def take_line(self, name: str) -> bytes:
        """Remove and return the first line of a stream."""
        while not (num_bytes := self._held[name].line_bytes()):
            if name not in self._open:
                self._check_end()
                raise Undecodable(f"decoding must give a frame, got none ({self._subject})")
            self._pump()
        return self.take(name, num_bytes).tobytes()

    def drain(self) -> dict[str, int]:
        """Throw everything away up to the child's end; return how many bytes that were, by stream."""
        num_held = {name: len(held) for name, held in self._held.items()}
        self._held = {name: _Held() for name in self._held}
        self._max_held = dict.fromkeys(self._held, 0)
        while self._open:
            self._pump()
        self._check_end()
        return {name: num_held[name] + count for name, count in self._num_dropped.items()}

    def _pump(self) -> None:
        events = self._selector.select(self._stall_s)
        if not events:
            raise MediaTimeout(
                f"decoding must make progress every {self._stall_s:g} s, it did not ({self._subject})"
            )
        for key, _ in events:
            if not (self._read(key.data, key.fd) if key.data else self._read_stderr(key.fd)):
                self._selector.unregister(key.fd)
                self._open.discard(key.data)

    def _read(self, name: str, fd: int) -> int:
        """Hold or drop what there is of a stream; how many bytes that were."""
        room = 0 if name in self.cut else self._max_held[name] - len(self._held[name])
        if room > 0:
            return self._held[name].fill(fd, min(room, _READ_BYTES))
        num_dropped = len(os.read(fd, _READ_BYTES))
        self._num_dropped[name] += num_dropped
        return num_dropped

    def _read_stderr(self, fd: int) -> int:
        chunk = os.read(fd, _READ_BYTES)
        if not is_out_of_memory(self._stderr):  # What says so stays.
            self._stderr = self._stderr[-_STDERR_TAIL_BYTES:] + chunk
        return len(chunk)

    def _check_end(self) -> None:
        """Raise unless the child succeeded with all the memory that it asked for."""
        try:
            status = self._process.wait(self._stall_s)
        except subprocess.TimeoutExpired as err:
            raise MediaTimeout(
                f"ffmpeg must end within {self._stall_s:g} s of its output, it did not ({self._subject})"
            ) from err
        if status != 0 or is_out_of_memory(self._stderr):
            raise error_of_end(status, self._stderr, self._subject)
