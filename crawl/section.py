"""Spans of a video -> a file that holds no more than them, through byte ranges; picture and sound -> one file.

The containers are taken apart and put together in a child process (infra/media/section_child.py) that sees no
network: it asks for bytes, and they are read here. A child serves one section; to start it costs an eighth of a
second, and what broke one never meets the next.
"""

import json
import math
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from crawl.formats import Stream
from crawl.http import Http, NoRanges
from infra.errors import (
    AvgenError,
    DiskFull,
    FetchTimeout,
    MediaTimeout,
    MediaTooLarge,
    MissingStream,
    NetworkFailure,
    TooLarge,
    TooShort,
    Truncated,
    Undecodable,
)
from infra.media.child import end_child, error_of_end, limit_memory
from infra.units import BYTES_PER_MIB

ReadSpan = Callable[[int, int], tuple[bytes, int]]
"""The bytes from the first to the last, both included, or up to the end; and the length of the whole."""

_ROOT = Path(__file__).resolve().parents[1]
_PIPE_BYTES = 65_536
_ERRORS: dict[str, type[AvgenError]] = {
    cls.code: cls for cls in (Undecodable, Truncated, MissingStream, TooShort, MediaTooLarge, DiskFull)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionLimits:
    """What a section may take before its child is ended."""

    timeout_s: float = 1800.0
    """For all of it, the network included."""
    stall_s: float = 60.0
    """Longest silence of the child while it is being waited for."""
    memory_mib: int = 2048
    """Address space of the child."""
    max_bytes: int = 8 * 1024**3
    """To be read, and to be written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A file that holds a part of a video."""

    path: Path
    """As asked for, with the suffix of its kind."""
    start_s: float
    """The file's zero in the time of the video, whose `[a, b)` is `[a - start_s, b - start_s)` here."""
    end_s: float
    """Where its picture ends, in the time of the video."""
    num_bytes_read: int
    """Bytes that were moved for it."""
    num_requests: int
    """Requests that this took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeNeeded:
    """No section can be made, and nothing says that the video is bad: fetch all of it."""

    reason: str
    num_bytes_read: int = 0
    """Bytes that were moved to find that out."""


def sections_of(spans: Iterable[tuple[float, float]], gap_s: float) -> tuple[tuple[float, float], ...]:
    """The sections that hold all spans of one video, in order; those no further than `gap_s` apart are one."""
    sections: list[tuple[float, float]] = []
    for start_s, end_s in sorted(spans):
        if sections and start_s - sections[-1][1] <= gap_s:
            sections[-1] = (sections[-1][0], max(sections[-1][1], end_s))
        else:
            sections.append((start_s, end_s))
    return tuple(sections)


def fetch_section(
    streams: Sequence[Stream], *, start_s: float, end_s: float, http: Http, out: Path, limits: SectionLimits
) -> Section | WholeNeeded:
    """The part `[start_s, end_s)` of a video that is one file, or one of picture and one of sound.

    The file begins at the key frame from which a reader would decode the start of the span, and may go on a little
    after its end. It holds the packets that a reader would read for any span within, so they decode to what they
    decode to in the whole file. The same packets give the same bytes.

    Args:
        out: where to write, in a folder that is there; the suffix is replaced.

    Raises:
        TooShort: the video ends before `start_s`.
        Undecodable, MissingStream: it is no video.
        Truncated: it ends before its header says.
        TooLarge, MediaTooLarge, MediaTimeout, FetchTimeout: it takes more than the limits allow.
        TransientError, SourceUnavailable: as `Http.read_span`; DiskFull: there is no room for the section.
    """
    if any(stream.protocol not in ("http", "https") for stream in streams):
        return WholeNeeded(reason="a section must come from plain files, one stream has a manifest")
    reads = [partial(http.read_span, stream.url, headers=stream.http_headers) for stream in streams]
    return cut(reads, start_s=start_s, end_s=end_s, out=out, limits=limits)


def cut(
    reads: Sequence[ReadSpan], *, start_s: float, end_s: float, out: Path, limits: SectionLimits
) -> Section | WholeNeeded:
    """As `fetch_section`, from anything that gives bytes."""
    files = [_Ranges(read, limits.max_bytes) for read in reads]
    request = {
        "do": "cut",
        "num_files": len(reads),
        "start_s": start_s,
        "end_s": None if end_s == math.inf else end_s,
    }
    try:
        answer = _answer(request, files, out=out, limits=limits)
    except NoRanges as err:
        answer = {"whole": str(err)}
    num_bytes = sum(file.num_bytes for file in files)
    if "whole" in answer:
        return WholeNeeded(reason=answer["whole"], num_bytes_read=num_bytes)
    return Section(
        path=_placed(out, answer),
        start_s=answer["start_s"],
        end_s=answer["end_s"],
        num_bytes_read=num_bytes,
        num_requests=sum(file.num_requests for file in files),
    )


def merge(files: Sequence[Path], *, out: Path, limits: SectionLimits) -> Path:
    """One file of a file with picture and one with sound, by copying; `out` with the suffix of its kind.

    Raises:
        Undecodable: a file, or what it holds, cannot be put into another container.
        MissingStream, Truncated, MediaTooLarge, MediaTimeout, DiskFull: as `fetch_section`.
    """
    request = {"do": "merge", "paths": [str(path.absolute()) for path in files]}
    answer = _answer(request, [], out=out, limits=limits)
    if "whole" in answer:
        raise Undecodable(f"{answer['whole']} ({', '.join(path.name for path in files)})")
    return _placed(out, answer)


class _Ranges:
    """A file of somebody else's, what was read of it, and that it stays the same."""

    def __init__(self, read: ReadSpan, max_bytes: int) -> None:
        self._read, self._max_bytes, self._total_bytes = read, max_bytes, -1
        self.num_bytes, self.num_requests = 0, 0

    def read(self, first: int, last: int) -> tuple[bytes, int]:
        """The bytes, all of them, and how long the file is.

        Raises:
            TooLarge: more was read than may be.
            NetworkFailure: the answer contradicts itself or one before.
        """
        found, total_bytes = self._read(first, last)
        self.num_requests += 1
        self.num_bytes += len(found)
        if self.num_bytes > self._max_bytes:
            raise TooLarge(f"at most {self._max_bytes} bytes may be read for a section, got {self.num_bytes}")
        if self._total_bytes not in (-1, total_bytes):
            raise NetworkFailure(
                f"a file must keep its length of {self._total_bytes} bytes while it is read, got {total_bytes}"
            )
        self._total_bytes = total_bytes
        num_wanted = max(0, min(last + 1, total_bytes) - first)
        if len(found) != num_wanted:
            raise NetworkFailure(f"{num_wanted} bytes from byte {first} on were asked for, got {len(found)}")
        return found, total_bytes


def _placed(out: Path, answer: Mapping[str, Any]) -> Path:
    return out.rename(out.with_suffix(answer["suffix"]))


def _answer(
    request: Mapping[str, object], files: Sequence[_Ranges], *, out: Path, limits: SectionLimits
) -> dict[str, Any]:
    """What the child says at its end; `out` is there then, and otherwise not."""
    child = _Child(limits, out.name)
    is_written = False
    try:
        child.send({**request, "out": str(out.absolute()), "max_bytes": limits.max_bytes})
        while True:
            line = child.line()
            if "file" in line:
                found, total_bytes = files[line["file"]].read(line["first"], line["last"])
                child.send({"num_bytes": len(found), "total_bytes": total_bytes}, found)
            elif "code" in line:
                raise _ERRORS[line["code"]](f"{line['message']} ({out.name})")
            elif line:
                is_written = "whole" not in line
                return line
    finally:
        child.close()
        if not is_written:
            out.unlink(missing_ok=True)


class _Child:
    """A running section_child.py."""

    def __init__(self, limits: SectionLimits, subject: str) -> None:
        self._limits, self._subject = limits, subject
        self._deadline_s = time.monotonic() + limits.timeout_s
        self._unread = b""
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the child)
        path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH", ""))))
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "infra.media.section_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,  # A file: a pipe that nobody reads would block it.
            env={**os.environ, "PYTHONPATH": path},
            bufsize=0,
        )
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        limit_memory(self._process, limits.memory_mib * BYTES_PER_MIB)

    def send(self, message: Mapping[str, object], more: bytes = b"") -> None:
        """Write a line, and bytes after it."""
        assert self._process.stdin is not None
        unsent = memoryview(json.dumps(message).encode() + b"\n" + more)
        with suppress(BrokenPipeError):  # How it ended shows when it is listened to.
            while unsent:
                self._wait(self._process.stdin, selectors.EVENT_WRITE)
                unsent = unsent[self._process.stdin.write(unsent[:_PIPE_BYTES]) :]

    def line(self) -> dict[str, Any]:
        """The next line that says something."""
        while True:
            line, found, rest = self._unread.partition(b"\n")
            if found:
                self._unread = rest
                if line:
                    return dict(json.loads(line))
            else:
                self._unread += self._chunk()

    def close(self) -> None:
        """End it."""
        end_child(self._process)
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            assert stream is not None
            stream.close()

    def _chunk(self) -> bytes:
        assert self._process.stdout is not None
        self._wait(self._process.stdout, selectors.EVENT_READ)
        chunk = os.read(self._process.stdout.fileno(), _PIPE_BYTES)
        if not chunk:
            raise self._error_of_end()
        return chunk

    def _wait(self, pipe: IO[bytes], event: int) -> None:
        """Until a pipe can be read or written.

        Raises:
            FetchTimeout: not within the time for the section.
            MediaTimeout: not within the time that a child may say nothing.
        """
        left_s = self._deadline_s - time.monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, event)
            if left_s > 0 and selector.select(min(left_s, self._limits.stall_s)):
                return
        if left_s <= self._limits.stall_s:
            raise FetchTimeout(
                f"a section must be made within {self._limits.timeout_s:g} s, it was not ({self._subject})"
            )
        raise MediaTimeout(
            f"a media child must make progress every {self._limits.stall_s:g} s, it did not ({self._subject})"
        )

    def _error_of_end(self) -> Exception:
        status = end_child(self._process)
        self._stderr.seek(0)
        stderr = self._stderr.read()
        error = error_of_end(status, stderr, self._subject)
        if isinstance(error, Undecodable) and stderr.startswith(b"Traceback"):
            return RuntimeError(f"the media child has a bug, seen with {self._subject}: {stderr.decode()}")
        return error
