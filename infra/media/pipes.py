"""Reading several pipes of one child at once, in bounded memory, so that no stream blocks another."""

import fcntl
import os
import selectors
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from infra.errors import MediaTimeout, Undecodable
from infra.media.child import error_of_end, is_out_of_memory
from infra.units import BYTES_PER_MIB

_F_SETPIPE_SZ = 1031  # linux/fcntl.h; fewer wake-ups than the default 64 KiB
_PIPE_BYTES = BYTES_PER_MIB
_READ_BYTES = BYTES_PER_MIB
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
            with suppress(PermissionError):  # Past a user's share of pipe memory; slower, not wrong.
                fcntl.fcntl(reads[name], _F_SETPIPE_SZ, _PIPE_BYTES)
        yield reads, writes
    finally:
        for fd in (*reads.values(), *writes.values()):
            os.close(fd)


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
        self._held = {name: bytearray() for name in fds}
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

    def take(self, name: str, num_bytes: int) -> bytearray:
        """Remove and return the first `num_bytes` of a stream."""
        held = self._held[name]
        if num_bytes < len(held) - num_bytes:
            taken = held[:num_bytes]
            del held[:num_bytes]
            return taken
        self._held[name] = held[num_bytes:]  # The shorter part is copied.
        del held[num_bytes:]
        return held

    def take_line(self, name: str) -> bytes:
        """Remove and return the first line of a stream."""
        while (end := self._held[name].find(b"\n")) < 0:
            if name not in self._open:
                self._check_end()
                raise Undecodable(f"decoding must give a frame, got none ({self._subject})")
            self._pump()
        return bytes(self.take(name, end + 1))

    def drain(self) -> dict[str, int]:
        """Throw everything away up to the child's end; return how many bytes that were, by stream."""
        num_held = {name: len(held) for name, held in self._held.items()}
        for held in self._held.values():
            held.clear()
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
            chunk = os.read(key.fd, _READ_BYTES)
            if not chunk:
                self._selector.unregister(key.fd)
                self._open.discard(key.data)
            elif key.data:
                self._hold(key.data, chunk)
            elif not is_out_of_memory(self._stderr):  # What says so stays.
                self._stderr = self._stderr[-_STDERR_TAIL_BYTES:] + chunk

    def _hold(self, name: str, chunk: bytes) -> None:
        held = self._held[name]
        room = 0 if name in self.cut else max(0, self._max_held[name] - len(held))
        held += chunk if len(chunk) <= room else memoryview(chunk)[:room]
        self._num_dropped[name] += max(0, len(chunk) - room)

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
