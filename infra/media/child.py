"""What every media child gets: the binary, the whitelists, a memory limit, and a sure end."""

import os
import resource
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from infra.errors import ChildKilled, ConfigError

FFMPEG_VARIABLE = "AVGEN_FFMPEG"
PROTOCOL_WHITELIST = "file"
FORMAT_WHITELIST = "mov,matroska,webm,avi,flv,mpegts,mpeg,mpegvideo,ogg,asf,mxf"
"""Demuxers of self-contained files. Playlists (hls, dash, concat, ...) name other files and are not here."""


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


def raise_if_killed(status: int, subject: str) -> None:
    """Raise `ChildKilled` when a child's end says nothing of its input.

    Our own limits end it otherwise: memory by a failed allocation, time by an error before this is asked.
    """
    if status in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT):
        raise ChildKilled(f"a media child must end by itself, it was killed by signal {-status} ({subject})")


def last_line(stderr: bytes) -> str:
    """The last non-empty line a child wrote, for error messages."""
    lines = [line.strip() for line in stderr.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def spawn(
    command: Sequence[str], *, stdin: int, stdout: int, pass_fds: Sequence[int], max_bytes: int
) -> subprocess.Popen[bytes]:
    """Start a child with bounded memory. Its stderr is a pipe."""
    process = subprocess.Popen(
        list(command), stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, pass_fds=tuple(pass_fds)
    )
    limit_memory(process, max_bytes)
    return process
