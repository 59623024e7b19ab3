"""yt-dlp in a child process: the requests, and the processes that answer them.

A child costs one import of yt-dlp, so it is kept and asked again; one that was late, died or was abandoned is
killed with everything it started. A child that loses its parent ends by itself, at once.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path

from crawl.policy import FetchConfig
from infra import errors
from infra.errors import AvgenError, ConfigError, ExtractorBug, FetchTimeout

_START_TIMEOUT_S = 120.0
# Extractors keep caches; a fresh process now and then bounds what they hold. Assumption, not measured.
_MAX_REQUESTS_A_CHILD = 200
_READ_BYTES = 65536

# Children that wait for a request. `append` and `pop` of a deque are atomic, so threads may share it.
_idle: "deque[_Child]" = deque()

_ERROR_BY_CODE: dict[str, type[AvgenError]] = {
    value.code: value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, AvgenError)
}


def list_entries(url: str, *, config: FetchConfig) -> Iterator[str]:
    """The addresses of the videos behind `url`, as they are found; one that is a single video yields itself.

    Raises:
        ConfigError: yt-dlp does not start.
        MediaError, TransientError: the list cannot be read, or not to its end.
    """
    request = {"task": "list", "url": url, "config": config.model_dump(mode="json")}
    for reply in _ask(request, timeout_s=config.list_timeout_s):
        if reply["reply"] == "entry":
            yield reply["url"]


def download(url: str, *, out_dir: Path, ffmpeg: Path, config: FetchConfig) -> dict[str, str]:
    """Fetch one video into the empty folder `out_dir`; what yt-dlp knows of it, and `file`, its name.

    Raises:
        ConfigError: yt-dlp does not start.
        MediaError, TransientError: there is no usable file; `out_dir` may hold parts of one.
    """
    request = {
        "task": "fetch",
        "url": url,
        "out_dir": str(out_dir.resolve()),
        "ffmpeg": str(ffmpeg),
        "config": config.model_dump(mode="json"),
    }
    (reply,) = _ask(request, timeout_s=config.timeout_s)
    return {name: value for name, value in reply.items() if name != "reply"}


class _Child:
    """One process that answers requests, a JSON line each way."""

    def __init__(self) -> None:
        root = str(Path(__file__).resolve().parents[1])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
        self.owner_pid = os.getpid()
        self.num_requests = 0
        self._unread = b""
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "crawl.ytdlp_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path, "YTDLP_NO_PLUGINS": "1"},
            start_new_session=True,
        )

    def send(self, request: Mapping[str, object]) -> None:
        assert self._process.stdin is not None
        self.num_requests += 1
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()

    def receive(self, *, timeout_s: float) -> dict[str, str]:
        """The next reply.

        Raises:
            TimeoutError: there was none in time.
            EOFError: the process ended.
        """
        deadline_s = time.monotonic() + timeout_s
        while b"\n" not in self._unread:
            self._unread += self._read(max(0.0, deadline_s - time.monotonic()))
        line, _, self._unread = self._unread.partition(b"\n")
        reply: dict[str, str] = json.loads(line)
        return reply

    def _read(self, timeout_s: float) -> bytes:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(timeout_s):
                raise TimeoutError
        chunk = os.read(self._process.stdout.fileno(), _READ_BYTES)
        if not chunk:
            raise EOFError
        return chunk

    def is_running(self) -> bool:
        return self.owner_pid == os.getpid() and self._process.poll() is None

    def kill(self) -> int:
        """End the process and what it started; its exit status."""
        if self._process.returncode is None:  # not reaped, so its id is still its own
            os.killpg(self._process.pid, signal.SIGKILL)
        status = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        return status


def _ask(request: Mapping[str, object], *, timeout_s: float) -> Iterator[dict[str, str]]:
    """The replies to one request; each must come within `timeout_s` of the one before."""
    child = _borrow()
    keep = False
    try:
        child.send(request)
        while True:
            reply = child.receive(timeout_s=timeout_s)
            if reply["reply"] == "failed":
                keep = True
                raise _ERROR_BY_CODE[reply["code"]](reply["message"])
            if reply["reply"] == "done":
                keep = True
                return
            yield reply
    except TimeoutError as err:
        raise FetchTimeout(
            f"yt-dlp must answer within {timeout_s:g} s, it did not ({request['url']})"
        ) from err
    except (EOFError, BrokenPipeError) as err:
        status = child.kill()
        raise ExtractorBug(
            f"the yt-dlp process must answer, it ended with {status} ({request['url']})"
        ) from err
    finally:
        if keep and child.num_requests < _MAX_REQUESTS_A_CHILD:
            _idle.append(child)
        else:
            child.kill()


def _borrow() -> _Child:
    """A child that has imported yt-dlp and waits."""
    while _idle:
        try:
            child = _idle.pop()
        except IndexError:
            break  # another thread took the last one
        if child.is_running():
            return child
    child = _Child()
    try:
        child.receive(timeout_s=_START_TIMEOUT_S)
    except TimeoutError as err:
        child.kill()
        raise FetchTimeout(f"yt-dlp must start within {_START_TIMEOUT_S:g} s, it did not") from err
    except EOFError as err:
        status = child.kill()
        message = f"yt-dlp must start, it ended with {status}; run python -m crawl.ytdlp_child to see why"
        raise ConfigError(message) from err
    return child
