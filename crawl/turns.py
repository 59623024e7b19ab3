"""Whose turn it is: the worker's side of the host gate, shared by its threads."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from urllib.parse import urlsplit

from crawl.policy import FetchConfig, HostLimit
from crawl.politeness import Desk, Granted, HostPause, Said, Wait
from crawl.robots import Robots, is_unreachable, unreachable
from infra.errors import BlockedByPolicy, Deferred, FetchTimeout, NetworkFailure

_RENEW_S = 15.0
# A name whose limit makes us wait longer is like a paused one: the thread has better things to do.
_LONGEST_WAIT_S = 60.0
_ROBOTS_KEPT_S = 600.0
_ROBOTS_KEPT = 256


class Turn:
    """One request to one name."""

    def __init__(self) -> None:
        self.report: Said | None = None
        """What the host answered."""
        self.pause: HostPause | None = None
        """The pause that the answer began, if any; known when the turn is over."""

    def said(self, said: Said) -> None:
        """Report what the host answered; the last report counts."""
        self.report = said


class Turns:
    """Lets the threads of a worker ask hosts when it is their turn.

    A thread has the turn of at most one host at a time: it ends the hop of a redirect before the next one begins,
    and asks for robots.txt before its turn, not within. Only a proxy's turn is taken inside a host's. Else two
    threads could wait for each other for ever.
    """

    def __init__(
        self,
        desk: Desk,
        config: FetchConfig,
        *,
        sleep: Callable[[float], None],
        rng: random.Random,
        clock: Callable[[], float] = time.time,
        on_pause: Callable[[HostPause], None] = lambda pause: None,
    ) -> None:
        """`rng` names this worker, so it is seeded differently in each.

        Args:
            clock: tells Unix time.
            on_pause: is told of each pause that an answer began here.
        """
        self._desk = desk
        self._config = config
        self._sleep = sleep
        self._clock = clock
        self._on_pause = on_pause
        self._client_id = f"{rng.getrandbits(64):016x}"
        self._lines = _Lines()
        self._renewal = _Renewal(lambda: desk.renew(self._client_id))
        self._robots: dict[str, tuple[str, float]] = {}
        self._robots_lock = threading.Lock()

    def at(self, url: str, *, delay_s: float = 0.0) -> AbstractContextManager[Turn]:
        """The turn for one request to the host of `url`; entering it waits until the host may be asked.

        The body reports with `said`. Without a report, leaving by an exception is "failed", which changes nothing,
        and leaving otherwise is "ok".

        Args:
            delay_s: the Crawl-delay of its robots.txt, 0 for none.

        Raises:
            Deferred: the host is paused for more than a few seconds.
        """
        name, limit = self._config.limit_of(_host_of(url))
        return self.wait_for(name, _narrowed(limit, delay_s))

    @contextmanager
    def wait_for(self, name: str, limit: HostLimit) -> Iterator[Turn]:
        """The same for a name that is no host, such as `proxy:host:port`."""
        lease_id = self._lease_id(name, limit)
        turn = Turn()
        try:
            with self._renewal.on():
                yield turn
            turn.report = turn.report or Said("ok")
        finally:
            turn.pause = self._desk.release(lease_id, turn.report or Said("failed"))
            if turn.pause:
                self._on_pause(turn.pause)

    def robots(self, origin: str, fetch: Callable[[], Robots]) -> str:
        """The robots.txt of an origin (`https://host:port`) from this worker's cache, the desk's or `fetch`.

        Args:
            fetch: asks the host, under its own turn, and returns `robots_of(status, body)`. One thread of all
                workers calls it at a time. What it raises is raised; a host that cannot be reached or does not
                answer in time is `unreachable` for all for a while.
        """
        text, until_s = self._robots.get(origin, ("", 0.0))
        if until_s > self._clock():
            return text
        with self._lines.of(f"robots {origin}"):
            while isinstance(answer := self._desk.robots(origin, client_id=self._client_id), Wait):
                self._sleep(answer.wait_s)
            text = answer if isinstance(answer, str) else self._fetch_robots(origin, fetch)
        if not is_unreachable(text):
            self._keep_robots(origin, text)
        return text

    def _lease_id(self, name: str, limit: HostLimit) -> int:
        """One thread at a time asks for a name, so that a client's place in the line is one thread's."""
        with self._lines.of(name):
            while True:
                answer = self._desk.acquire(name, limit, client_id=self._client_id)
                if isinstance(answer, Granted):
                    return answer.lease_id
                if isinstance(answer, HostPause):
                    raise Deferred(_paused(answer), answer.until_s)
                if answer.wait_s > _LONGEST_WAIT_S:
                    until_s = self._clock() + answer.wait_s
                    raise Deferred(
                        f"{name} may be asked again at {_iso(until_s)}, its limit is {limit}", until_s
                    )
                self._sleep(answer.wait_s)

    def _fetch_robots(self, origin: str, fetch: Callable[[], Robots]) -> str:
        robots = Robots("", max_age_s=0.0)
        try:
            robots = fetch()
        except (NetworkFailure, FetchTimeout) as err:
            robots = unreachable(str(err))
            raise
        finally:
            self._desk.keep_robots(origin, robots.text, max_age_s=robots.max_age_s)
        return robots.text

    def _keep_robots(self, origin: str, text: str) -> None:
        with self._robots_lock:
            self._robots.pop(origin, None)
            self._robots[origin] = text, self._clock() + _ROBOTS_KEPT_S
            if len(self._robots) > _ROBOTS_KEPT:
                del self._robots[next(iter(self._robots))]


class _Lines:
    """A lock for each name, as long as somebody uses it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lines: dict[str, tuple[threading.Lock, int]] = {}

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Alone at this name."""
        with self._lock:
            line, num_users = self._lines.get(name, (threading.Lock(), 0))
            self._lines[name] = line, num_users + 1
        try:
            with line:
                yield
        finally:
            with self._lock:
                _, num_users = self._lines.pop(name)
                if num_users > 1:
                    self._lines[name] = line, num_users - 1


class _Renewal:
    """A thread that says that we live as long as somebody holds a lease, and ends soon after."""

    def __init__(self, renew: Callable[[], None]) -> None:
        self._renew = renew
        self._lock = threading.Lock()
        self._num_held = 0
        self._thread: threading.Thread | None = None

    @contextmanager
    def on(self) -> Iterator[None]:
        """Leases are renewed within."""
        with self._lock:
            self._num_held += 1
            if not (self._thread and self._thread.is_alive()):
                self._thread = threading.Thread(target=self._run, name="renew-leases", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._num_held -= 1

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            pause.wait(_RENEW_S)
            with self._lock:
                if self._num_held == 0:
                    self._thread = None
                    return
            self._renew()


def _host_of(url: str) -> str:
    try:
        host = urlsplit(url).hostname
    except ValueError:
        host = None
    if not host:
        raise BlockedByPolicy(f"an address must name a host, got {url!r}")
    return host


def _narrowed(limit: HostLimit, delay_s: float) -> HostLimit:
    if delay_s * limit.requests_per_s <= 1:
        return limit
    return HostLimit(requests_per_s=1 / delay_s, connections=limit.connections)


def _paused(pause: HostPause) -> str:
    said = f": {pause.reason}" if pause.reason else ""
    return f"{pause.host} is left alone until {_iso(pause.until_s)} ({pause.code}){said}"


def _iso(moment_s: float) -> str:
    return datetime.fromtimestamp(moment_s, UTC).isoformat(timespec="seconds")
