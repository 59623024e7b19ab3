"""Where ffmpeg is, what files may be, and what a media child gets: a memory limit and a sure end."""

import os
import re
import resource
import signal
import subprocess
from pathlib import Path

from infra.errors import AvgenError, ChildKilled, ConfigError, MediaTooLarge, Undecodable

FFMPEG_VARIABLE = "AVGEN_FFMPEG"
PROTOCOL_WHITELIST = "file"
FORMAT_WHITELIST = "mov,matroska,webm,avi,flv,mpegts,mpeg,mpegvideo,ogg,asf,mxf"
"""Demuxers of self-contained files. Playlists (hls, dash, concat, ...) name other files and are not here."""

# What children write when the limit on their memory stops them: glibc on ENOMEM, on EAGAIN of a new thread and on
# an unmappable library, Python. Seen with PyAV under `ulimit -v`, 2026-11-23.
_OUT_OF_MEMORY = re.compile(
    rb"Cannot allocate memory|Resource temporarily unavailable|failed to map segment|MemoryError"
)


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


def error_of_end(status: int, stderr: bytes, subject: str) -> AvgenError:
    """What a child's unsuccessful end says: killed from outside, out of memory, or a bad input."""
    if status in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT):
        return ChildKilled(f"a media child must end by itself, it was killed by signal {-status} ({subject})")
    if _OUT_OF_MEMORY.search(stderr):
        return MediaTooLarge(
            f"a media child must fit in its memory limit, it did not: {_last_line(stderr)} ({subject})"
        )
    return Undecodable(
        f"a media child must succeed, it ended with status {status}: {_last_line(stderr)} ({subject})"
    )


def _last_line(stderr: bytes) -> str:
    """The last line a child wrote."""
    lines = [line.strip() for line in stderr.decode(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "no message")
