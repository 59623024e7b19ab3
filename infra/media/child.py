"""What every media child gets: the binary, the whitelists, a memory limit, and a sure end."""

import os
import re
import resource
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from infra.errors import AvgenError, ChildKilled, ConfigError, MediaTooLarge, Undecodable

FFMPEG_VARIABLE = "AVGEN_FFMPEG"
PROTOCOL_WHITELIST = "file"
FORMAT_WHITELIST = "mov,matroska,webm,avi,flv,mpegts,mpeg,mpegvideo,ogg,asf,mxf"
"""Demuxers of self-contained files. Playlists (hls, dash, concat, ...) name other files and are not here."""

# What children write when the limit on their memory stops them: glibc on ENOMEM, on EAGAIN of a new thread and on
# an unmappable library, x264, Python. Seen with ffmpeg 9 and PyAV under `ulimit -v`, 2026-11-23.
_OUT_OF_MEMORY = re.compile(
    rb"Cannot allocate memory|Resource temporarily unavailable|failed to map segment|malloc of size|MemoryError"
)
# Lines that follow from the one that says what is wrong. Source: ffmpeg 9, fftools.
_AFTERMATH = re.compile(
    r"Task finished with error|Terminating thread with|Nothing was written into|Error sending frames to"
    r"|Error while filtering|Error muxing a packet|Could not open encoder before EOF|Last message repeated"
)
_ADDRESS = re.compile(r" @ 0x[0-9a-f]+")


def find_ffmpeg() -> Path:
    """The ffmpeg binary: `AVGEN_FFMPEG` when set, else the one that imageio-ffmpeg carries.

    Raises:
        ConfigError: `AVGEN_FFMPEG` is not an executable file.
    """
    named = os.environ.get(FFMPEG_VARIABLE)
    if named is None:
        import imageio_ffmpeg

        return Path(imageio_ffmpeg.get_ffmpeg_exe())
    if not os.access(named, os.X_OK):
        raise ConfigError(
            f"{FFMPEG_VARIABLE} must name an executable file, got {named!r}; unset it or fix it"
        )
    return Path(named)


def local_url(path: Path) -> str:
    """`path` in the form that ffmpeg never takes for an option or another protocol."""
    return f"file:{path.resolve()}"


def limit_memory(process: subprocess.Popen[bytes], max_bytes: int) -> None:
    """Bound the child's address space; allocations beyond it fail inside the child."""
    try:
        resource.prlimit(process.pid, resource.RLIMIT_AS, (max_bytes, max_bytes))
    except ProcessLookupError:
        process.poll()  # It has ended already; whoever waits for it sees how.


def end_child(process: subprocess.Popen[bytes]) -> int:
    """Kill the child if it still runs, reap it, and return its exit status (negative: signal)."""
    if process.poll() is None:
        process.kill()
    return process.wait()


def is_out_of_memory(stderr: bytes) -> bool:
    """Whether a child wrote that an allocation failed."""
    return _OUT_OF_MEMORY.search(stderr) is not None


def error_of_end(status: int, stderr: bytes, subject: str) -> AvgenError:
    """What a child's unsuccessful end says: killed from outside, out of memory, or a bad input."""
    if status in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT):
        return ChildKilled(f"a media child must end by itself, it was killed by signal {-status} ({subject})")
    if is_out_of_memory(stderr):
        return MediaTooLarge(
            f"a media child must fit in its memory limit, it did not: {last_line(stderr)} ({subject})"
        )
    return Undecodable(
        f"a media child must succeed, it ended with status {status}: {last_line(stderr)} ({subject})"
    )


def last_line(stderr: bytes) -> str:
    """The last line a child wrote that says something, without memory addresses."""
    lines = [line.strip() for line in stderr.decode(errors="replace").splitlines()]
    telling = [line for line in lines if line and not _AFTERMATH.search(line)]
    return _ADDRESS.sub("", telling[-1]) if telling else "no message"


def spawn(
    command: Sequence[str],
    *,
    stdin: int,
    stdout: int,
    stderr: int | IO[bytes],
    pass_fds: Sequence[int],
    max_bytes: int,
) -> subprocess.Popen[bytes]:
    """Start a child with bounded memory, its pipes unbuffered on our side."""
    process = subprocess.Popen(
        list(command), stdin=stdin, stdout=stdout, stderr=stderr, pass_fds=tuple(pass_fds), bufsize=0
    )
    limit_memory(process, max_bytes)
    return process
