"""yt-dlp in child processes: what is behind an address, and the videos that a page, playlist or channel lists.

A child costs one import of yt-dlp, so it is kept and asked again; one that was late, died or was abandoned is
killed with everything it started. A child that loses its parent ends by itself, at once. Before each request it
asks for its turn at the host, and reports what the host answered.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

from crawl.formats import Entry, Stream, Video
from crawl.http import Http
from crawl.identity import Identity
from crawl.policy import FetchConfig, FormatPolicy
from crawl.politeness import Said
from crawl.turns import Turn, Turns
from infra import errors
from infra.errors import AvgenError, ConfigError, Deferred, ExtractorBug, FetchTimeout

_START_TIMEOUT_S = 120.0
# Extractors keep caches; a fresh process now and then bounds what they hold. Assumption, not measured.
_MAX_REQUESTS_A_CHILD = 200
_READ_BYTES = 65536
_TROUBLE = ("bot_check", "rate_limited")
Reply = dict[str, Any]

_ERROR_BY_CODE: dict[str, type[AvgenError]] = {
    value.code: value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, AvgenError)
}


class Extractors:
    """The yt-dlp processes of one worker: at most `fetch.extractors` at once; threads wait for one."""

    def __init__(self, config: FetchConfig, turns: Turns, identity: Identity, http: Http) -> None:
        self._config, self._turns, self._identity, self._http = config, turns, identity, http
        self._slots = threading.BoundedSemaphore(config.extractors)
        # Children that wait for a request. `append` and `pop` of a deque are atomic, so threads may share it.
        self._idle: deque[_Child] = deque()

    def find(
        self, url: str, *, policy: FormatPolicy, span: tuple[float, float], out_dir: Path, ffmpeg: Path
    ) -> Video:
        """The video behind an address, and the streams that the policy chooses of it.

        Streams that are plain files are only described. Fragments of HLS and DASH are downloaded into `out_dir`,
        where an earlier attempt may have left some: those that overlap `span` when the manifest says which these
        are, else all.

        Raises:
            SourceUnavailable: there is no such video, or the policy does not want it.
            BlockedByPolicy: robots.txt of the address forbids it. What an extractor asks besides is not checked.
            TransientError: it may be had later; Deferred: nothing was asked.
            ConfigError: yt-dlp does not start.
        """
        self._http.require_allowed(url)
        start_s, end_s = span
        request = {
            "task": "find",
            "url": url,
            "policy": policy.model_dump(mode="json"),
            "start_s": start_s,
            "end_s": None if end_s == float("inf") else end_s,
            "out_dir": str(out_dir.resolve()),
            "ffmpeg": str(ffmpeg),
        }
        with closing(self._ask(request, timeout_s=self._config.timeout_s)) as replies:
            (reply,) = replies
        known = {name: value for name, value in reply.items() if name not in ("reply", "streams")}
        known["file_end_s"] = float("inf") if known["file_end_s"] is None else known["file_end_s"]
        return Video(streams=tuple(Stream(**stream) for stream in reply["streams"]), **known)

    def entries(self, url: str, *, first_index: int = 0) -> Iterator[Entry]:
        """The videos behind an address from one on, as they are found; a single video lists itself.

        Raises:
            SourceUnavailable, TransientError, ConfigError: as `find`; the list cannot be read, or not to its end.
        """
        self._http.require_allowed(url)
        request = {"task": "list", "url": url, "first_index": first_index}
        with closing(self._ask(request, timeout_s=self._config.list_timeout_s)) as replies:
            for reply in replies:
                yield Entry(index=reply["index"], url=reply["url"], kind=reply["kind"])

    def close(self) -> None:
        """End the processes that no thread uses."""
        while self._idle:
            self._idle.pop().kill()

    def _ask(self, request: Mapping[str, object], *, timeout_s: float) -> Generator[Reply, None, None]:
        """The replies to one request; each must come within `timeout_s` of the one before."""
        proxy = self._identity.proxy()
        whole = {
            **request,
            "config": self._config.model_dump(mode="json"),
            "identity": self._identity.ytdlp_parameters(proxy),
        }
        with self._slots:
            child = self._borrow()
            conversation = _Conversation(child, self._turns, url=str(request["url"]))
            try:
                yield from conversation.replies(whole, timeout_s=timeout_s)
            except AvgenError as err:
                raise type(err)(self._identity.scrub(str(err)), *err.args[1:]) from None
            finally:
                conversation.end_turn()
                if proxy:
                    self._identity.proxy_answered(proxy, ok=not conversation.has_proxy_failed)
                if conversation.is_over and child.num_requests < _MAX_REQUESTS_A_CHILD:
                    self._idle.append(child)
                else:
                    child.kill()

    def _borrow(self) -> "_Child":
        """A child that has imported yt-dlp and waits."""
        while self._idle:
            try:
                child = self._idle.pop()
            except IndexError:
                break  # Another thread took the last one.
            if child.is_running():
                return child
            child.kill()
        return _started_child(self._config)


class _Conversation:
    """One request to a child: its turns at hosts, and its replies."""

    def __init__(self, child: "_Child", turns: Turns, *, url: str) -> None:
        self._child, self._turns, self._url = child, turns, url
        self._stack = ExitStack()
        self._turn: Turn | None = None
        self.is_over = False
        """Whether the child waits for its next request."""
        self.has_proxy_failed = False
        self._is_trouble_known = False

    def replies(self, request: Mapping[str, object], *, timeout_s: float) -> Iterator[Reply]:
        try:
            self._child.send(request)
            while True:
                reply = self._child.receive(timeout_s=timeout_s)
                if reply["reply"] == "turn":
                    self._child.send(self._take_turn(reply["url"]))
                elif reply["reply"] == "said":
                    self._report(reply)
                else:
                    # Whoever takes the replies may take his time: no turn is held meanwhile.
                    self.end_turn()
                    if reply["reply"] == "failed":
                        self.is_over = True
                        raise self._error(reply)
                    if reply["reply"] == "done":
                        self.is_over = True
                        return
                    yield reply
        except TimeoutError as err:
            raise FetchTimeout(
                f"yt-dlp must answer within {timeout_s:g} s, it did not ({self._url})"
            ) from err
        except (EOFError, BrokenPipeError) as err:
            status = self._child.kill()
            raise ExtractorBug(
                f"the yt-dlp process must answer, it ended with {status} ({self._url})"
            ) from err

    def end_turn(self) -> None:
        """Give back the turn at the host that was asked last."""
        if self._turn and self._turn.report is None:
            self._turn.said(Said("failed"))
        self._turn = None
        self._stack.close()

    def _take_turn(self, url: str) -> Mapping[str, object]:
        self.end_turn()
        try:
            self._turn = self._stack.enter_context(self._turns.at(url))
        except AvgenError as err:
            until_s = err.until_s if isinstance(err, Deferred) else 0.0
            return {"go": False, "code": err.code, "message": str(err), "until_s": until_s}
        return {"go": True}

    def _report(self, reply: Reply) -> None:
        self._is_trouble_known = reply["kind"] in _TROUBLE
        if self._turn:
            said = Said(reply["kind"], retry_after_s=reply["retry_after_s"], message=reply["message"])
            self._turn.said(said)

    def _error(self, reply: Reply) -> AvgenError:
        """The child's error; a bot check that only the extractor understood pauses its host, too."""
        error_class = _ERROR_BY_CODE[reply["code"]]
        self.has_proxy_failed = reply["code"] == "network" and "proxy" in reply["message"].lower()
        if error_class is Deferred:
            return Deferred(reply["message"], reply["until_s"])
        if reply["code"] in _TROUBLE and not self._is_trouble_known:
            with suppress(Deferred), self._turns.at(self._url) as turn:
                turn.said(Said(reply["code"], message=reply["message"]))
        return error_class(reply["message"])


class _Child:
    """One process that answers requests, a JSON line each way."""

    def __init__(self, config: FetchConfig) -> None:
        root = str(Path(__file__).resolve().parents[1])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
        self.owner_pid = os.getpid()
        self.num_requests = 0
        self._unread = b""
        plugins = {} if config.extractor_plugins_path else {"YTDLP_NO_PLUGINS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "crawl.ytdlp_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path, **plugins},
            start_new_session=True,
        )

    def send(self, message: Mapping[str, object]) -> None:
        """A request, or the answer to a question of the child."""
        assert self._process.stdin is not None
        self.num_requests += "task" in message
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        self._process.stdin.flush()

    def receive(self, *, timeout_s: float) -> Reply:
        """The next reply.

        Raises:
            TimeoutError: there was none in time.
            EOFError: the process ended.
        """
        deadline_s = time.monotonic() + timeout_s
        while b"\n" not in self._unread:
            self._unread += self._read(max(0.0, deadline_s - time.monotonic()))
        line, _, self._unread = self._unread.partition(b"\n")
        reply: Reply = json.loads(line)
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
        """Whether it is ours and alive."""
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


def _started_child(config: FetchConfig) -> _Child:
    child = _Child(config)
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
