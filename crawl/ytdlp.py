"""yt-dlp in child processes: what is asked of them, their turns at hosts, and the processes themselves.

A child costs one import of yt-dlp, so it is kept and asked again; one that was late, died or was abandoned is
killed with everything it started. A child that loses its parent ends by itself, at once.
"""

import json
import math
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from crawl.classify import error_named
from crawl.formats import Entry, Span, Stream, Video
from crawl.http import Http
from crawl.identity import Identity, Proxy
from crawl.policy import FetchConfig, FormatPolicy, HostLimit
from crawl.politeness import Said
from crawl.turns import Turn, Turns
from infra.errors import AvgenError, ConfigError, ExtractorBug, FetchTimeout

_START_TIMEOUT_S = 120.0
# Extractors keep caches; a fresh process now and then bounds what they hold. Assumption, not measured.
_MAX_TASKS_A_CHILD = 200
_READ_BYTES = 65536

_Reply = dict[str, Any]


class Extractors:
    """The yt-dlp processes of one worker, shared by its threads."""

    def __init__(self, config: FetchConfig, turns: Turns, identity: Identity, http: Http) -> None:
        self._config, self._turns, self._identity, self._http = config, turns, identity, http
        self._places = threading.BoundedSemaphore(config.extractors)
        # Children that wait for a task. `append` and `pop` of a deque are atomic, so threads share it.
        self._idle: deque[_Child] = deque()

    def find(self, url: str, *, policy: FormatPolicy, span: Span, out_dir: Path, ffmpeg: Path) -> Video:
        """The video at an address. Plain files are only described; fragments are downloaded, and joined in `file`.

        Threads wait for one of `config.extractors` processes.

        Args:
            span: the wanted part; of fragments, those that overlap it are fetched where the manifest says which
                these are, else all.
            out_dir: what an earlier, failed call left in it is resumed.
            ffmpeg: joins fragments.

        Raises:
            ConfigError: yt-dlp does not start.
            Deferred: a host is paused; it was not asked.
            BlockedByPolicy: robots.txt forbids the address or a fragment. What extractors ask on the way there
                is not checked.
            MediaError, TransientError: there is no usable video.
        """
        task = {
            "task": "find",
            "url": url,
            "policy": policy.model_dump(mode="json"),
            "start_s": span[0],
            "end_s": span[1],
            "out_dir": str(out_dir.resolve()),
            "ffmpeg": str(ffmpeg),
        }
        with self._places:
            (reply,) = self._replies(task, timeout_s=self._config.timeout_s)
        video = reply["video"]
        return Video(**video | {"streams": tuple(Stream(**stream) for stream in video["streams"])})

    def entries(self, url: str, *, first_index: int = 0) -> Iterator[Entry]:
        """The videos behind `url`, as they are found; one that is a single video yields itself.

        A listing keeps a process of its own until it ends or is closed: the next page is read when it is wanted.

        Args:
            first_index: the entry to begin at; pages before it are read again.

        Raises:
            ConfigError: yt-dlp does not start.
            Deferred, MediaError, TransientError: the list cannot be read, or not to its end.
        """
        task = {"task": "entries", "url": url, "first_index": first_index}
        for reply in self._replies(task, timeout_s=self._config.list_timeout_s):
            yield Entry(index=reply["index"], url=reply["url"], kind=reply["kind"])

    def close(self) -> None:
        """End the processes that wait for a task."""
        while self._idle:
            self._idle.pop().kill()

    def _replies(self, task: Mapping[str, object], *, timeout_s: float) -> Iterator[_Reply]:
        """`found` and `entry`; the child may think `timeout_s` about each, waiting for turns not counted."""
        url = str(task["url"])
        proxy = self._identity.proxy()
        whole_task = {
            **task,
            "config": self._config.model_dump(mode="json"),
            "parameters": self._identity.ytdlp_parameters(proxy)
            if proxy
            else self._identity.ytdlp_parameters(),
        }
        if url.startswith("http"):
            self._http.require_allowed(url)
        child = self._borrow()
        keep = False
        try:
            with _Conversation(self, child, proxy) as conversation:
                yield from conversation.replies(whole_task, timeout_s=timeout_s)
            keep = True
        except TimeoutError as err:
            raise FetchTimeout(f"yt-dlp must answer within {timeout_s:g} s, it did not ({url})") from err
        except (EOFError, BrokenPipeError) as err:
            raise ExtractorBug(
                f"the yt-dlp process must answer, it ended with {child.kill()} ({url})"
            ) from err
        except AvgenError as err:
            keep = True
            err.args = (self._identity.scrub(str(err)), *err.args[1:])
            raise
        finally:
            if keep and child.num_tasks < _MAX_TASKS_A_CHILD:
                self._idle.append(child)
            else:
                child.kill()

    def _borrow(self) -> "_Child":
        """A child that has imported yt-dlp and waits."""
        while self._idle:
            try:
                child = self._idle.pop()
            except IndexError:
                break  # another thread took the last one
            if child.is_running():
                return child
            child.kill()
        return _Child.started(has_plugins=self._config.extractor_plugins_path is not None)

    # ---- turns ----

    def enter_turn(self, stack: ExitStack, reply: _Reply, proxy: Proxy | None) -> Turn:
        """The turn that a child asks for, which ends with the stack."""
        if reply["is_media"]:
            self._http.require_allowed(reply["url"])
        turn = stack.enter_context(self._turns.at(reply["url"]))
        if proxy:
            per_s = self._config.requests_per_proxy_h / 3600
            limit = HostLimit(requests_per_s=per_s, connections=self._config.connections)
            stack.enter_context(self._turns.wait_for(f"proxy:{proxy.name}", limit))
        return turn

    def end_turn(self, stack: ExitStack, turn: Turn, reply: _Reply, proxy: Proxy | None) -> None:
        """Report what the host said, and end its turn."""
        turn.said(Said(reply["kind"], reply["retry_after_s"], self._identity.scrub(reply["message"])))
        if proxy:
            self._identity.proxy_answered(proxy, ok=reply["is_proxy_ok"])
        stack.close()


class _Conversation:
    """One task of a child: the turns that it takes are given back at the end, whatever that is."""

    def __init__(self, extractors: Extractors, child: "_Child", proxy: Proxy | None) -> None:
        self._extractors = extractors
        self._child = child
        self._proxy = proxy
        self._held = ExitStack()
        self._turn: Turn

    def __enter__(self) -> "_Conversation":
        return self

    def __exit__(self, *error: Any) -> None:
        self._held.__exit__(*error)

    def replies(self, task: Mapping[str, object], *, timeout_s: float) -> Iterator[_Reply]:
        """The replies that are for the caller.

        Raises:
            TimeoutError, EOFError, BrokenPipeError: the child is late, or ended.
            AvgenError: the task failed.
        """
        self._child.begin(task)
        left_s = timeout_s
        while True:
            began_s = time.monotonic()
            reply = self._child.receive(timeout_s=left_s)
            left_s -= time.monotonic() - began_s
            if reply["reply"] == "turn":
                self._take_turn(reply)
            elif reply["reply"] == "said":
                self._extractors.end_turn(self._held, self._turn, reply, self._proxy)
            elif reply["reply"] == "failed":
                raise error_named(reply["code"], reply["message"], reply["until_s"])
            elif reply["reply"] == "done":
                return
            else:
                yield reply
                left_s = timeout_s

    def _take_turn(self, reply: _Reply) -> None:
        try:
            self._turn = self._extractors.enter_turn(self._held, reply, self._proxy)
        except AvgenError as err:
            self._held.close()
            until_s = getattr(err, "until_s", 0.0)
            self._child.send({"code": err.code, "message": str(err), "until_s": until_s})
        else:
            self._child.send({"go": True})


class _Child:
    """One process that does tasks, JSON lines each way."""

    def __init__(self, *, has_plugins: bool) -> None:
        root = str(Path(__file__).resolve().parents[1])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
        plugins = {} if has_plugins else {"YTDLP_NO_PLUGINS": "1"}
        self.owner_pid = os.getpid()
        self.num_tasks = 0
        self._unread = b""
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "crawl.ytdlp_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path, **plugins},
            start_new_session=True,
        )

    @classmethod
    def started(cls, *, has_plugins: bool) -> "_Child":
        """A child that waits for its first task.

        Raises:
            FetchTimeout, ConfigError: it does not start.
        """
        child = cls(has_plugins=has_plugins)
        try:
            child.receive(timeout_s=_START_TIMEOUT_S)
        except TimeoutError as err:
            child.kill()
            raise FetchTimeout(f"yt-dlp must start within {_START_TIMEOUT_S:g} s, it did not") from err
        except EOFError as err:
            status = child.kill()
            raise ConfigError(
                f"yt-dlp must start, it ended with {status}; run python -m crawl.ytdlp_child to see why"
            ) from err
        return child

    def begin(self, task: Mapping[str, object]) -> None:
        """Give it a task."""
        self.num_tasks += 1
        self.send(task)

    def send(self, line: Mapping[str, object]) -> None:
        """A task, whose first key is `task`, or an answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(line).encode() + b"\n")
        self._process.stdin.flush()

    def receive(self, *, timeout_s: float) -> _Reply:
        """The next reply.

        Raises:
            TimeoutError: there was none in time.
            EOFError: the process ended.
        """
        deadline_s = time.monotonic() + timeout_s
        while b"\n" not in self._unread:
            self._unread += self._read(max(0.0, deadline_s - time.monotonic()))
        line, _, self._unread = self._unread.partition(b"\n")
        reply: _Reply = json.loads(line)
        return reply

    def _read(self, timeout_s: float) -> bytes:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(None if timeout_s == math.inf else timeout_s):
                raise TimeoutError
        chunk = os.read(self._process.stdout.fileno(), _READ_BYTES)
        if not chunk:
            raise EOFError
        return chunk

    def is_running(self) -> bool:
        """Whether it can be given a task by this process."""
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
