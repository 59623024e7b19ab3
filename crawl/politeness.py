"""How often one host may be asked by all workers together, and when it is left alone.

One `HostGate` serves all workers. Each name (a host, all hosts of a site, a proxy) has a limit of requests a
second, a number of requests that may be open at once, a line of clients that wait, and at most one pause.

Begin times are spaced by 1 / `requests_per_s`. A name that was quiet may be asked `_BURST_S` worth of requests
at once, so any window of W seconds sees at most max(1, _BURST_S * rate) + W * rate of them. A name that the
gate does not know (after a restart, or forgotten) has nothing saved up: its first request waits one spacing.
"""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from crawl.policy import HostLimit

# Late wake-ups of clients lose nothing, and no second sees more than 1.25 times the limit, and one.
_BURST_S = 0.25
# A pause that ends sooner is waited for.
_SHORT_PAUSE_S = 5.0
# A client that says nothing for so long is dead: its leases and its claims are taken back.
_SILENT_S = 60.0
# A client that comes back so late does not hold up those behind it; it keeps its place.
_LATE_S = 1.0
# So long a place is kept; who was put off by a slow limit finds its turn saved up.
_PLACE_KEPT_S = 900.0
_LEAST_WAIT_S = 0.005
# A client that waits for an open request to end asks again after a tenth of the time since the last one ended.
_LEAST_POLL_S = 0.02
_LONGEST_POLL_S = 1.0

# How long a host is left alone that refused us; assumptions, not measured.
_RATE_LIMITED_S = 10.0
_BURST_OF_REFUSALS = 3
_BURST_OF_REFUSALS_S = 60.0
_REFUSED_OFTEN_S = 15 * 60.0
_BOT_CHECK_S = 30 * 60.0
_LONGEST_PAUSE_S = 6 * 3600.0
_LONGEST_RETRY_AFTER_S = 365 * 86400.0
# Share of a pause that is added at random, so that paused hosts do not come back together.
_JITTER_RATIO = 0.1
_REASON_MAX_CHARS = 300

_ROBOTS_POLL_S = 0.25
_ROBOTS_CLAIM_S = 300.0
_ROBOTS_MAX_CHARS = 64 * 1024 * 1024
_ROBOTS_ENTRY_CHARS = 256  # What an entry takes beside its text; assumption, not measured.


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPause:
    """A host that is left alone until `until_s`."""

    host: str
    """The name under which its requests are counted, see `FetchConfig.limit_of`."""
    until_s: float
    """Unix time."""
    code: str
    """`rate_limited` or `bot_check`."""
    reason: str
    """The host's own words."""


@dataclass(frozen=True, slots=True)
class Granted:
    """One request may begin now; `release` gives the lease back."""

    lease_id: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Not yet: ask again after `wait_s`; the place in the line is kept until then."""

    wait_s: float


@dataclass(frozen=True, slots=True)
class FetchRobots:
    """Nobody has the robots.txt of this origin: the caller fetches it and hands it to `keep_robots`."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a host answered to one request."""

    kind: Literal["ok", "rate_limited", "bot_check", "failed"]
    retry_after_s: float | None = None
    message: str = ""


class Desk(Protocol):
    """What workers hold of the gate; it may be in another process."""

    def acquire(self, host: str, limit: HostLimit, *, client_id: str) -> Granted | Wait | HostPause:
        """See `HostGate`, as for all that follow."""

    def release(self, lease_id: int, said: Said) -> HostPause | None:
        """Give a lease back."""

    def renew(self, client_id: str) -> None:
        """Say that a client is alive."""

    def pause(self, pause: HostPause) -> None:
        """Leave a host alone."""

    def pauses(self) -> tuple[HostPause, ...]:
        """All pauses in force."""

    def robots(self, origin: str, *, client_id: str) -> str | FetchRobots | Wait:
        """The robots.txt of an origin."""

    def keep_robots(self, origin: str, text: str, *, max_age_s: float) -> None:
        """Cache a robots.txt."""


@dataclass(slots=True)
class _Name:
    """What the gate knows of one name."""

    free_at_s: float = 0.0
    """When the next request may begin, but for a pause; 0: nobody has asked yet."""
    leases: dict[int, str] = field(default_factory=dict)
    """Open requests -> the client."""
    line: dict[str, float] = field(default_factory=dict)
    """Clients that wait, first come first -> when their place stops holding up others."""
    last_end_s: float = 0.0
    """When a request ended last."""
    pause: HostPause | None = None
    paused_lease_id: int = 0
    """The newest lease when the pause began: what older ones hear is old news."""
    step_s: float = 0.0
    """The last pause of our own choice; doubled by the next one, 0 after a success."""
    refused_s: tuple[float, ...] = ()
    """When it was said within the last `_BURST_OF_REFUSALS_S` that we ask too often."""

    def ahead(self, client_id: str, now_s: float) -> int:
        """How many clients come before this one."""
        count = 0
        for other, held_until_s in self.line.items():
            if other == client_id:
                break
            count += held_until_s >= now_s
        return count

    def poll_s(self, ahead: int, now_s: float) -> float:
        """When to ask again for the end of an open request, which nobody can know."""
        quiet_s = max(0.1 * (now_s - self.last_end_s), _LEAST_POLL_S)
        return min(quiet_s * (ahead + 1), _LONGEST_POLL_S)

    def leave_alone(self, pause: HostPause, lease_id: int) -> bool:
        """Begin a pause, unless one that ends later is in force."""
        if self.pause and self.pause.until_s >= pause.until_s:
            return False
        self.pause = pause
        self.paused_lease_id = lease_id
        return True

    def pause_s(self, lease_id: int, said: Said, now_s: float) -> float:
        """How long an answer makes us pause, before jitter; 0 for not at all."""
        asked_s = min(max(0.0, said.retry_after_s or 0.0), _LONGEST_RETRY_AFTER_S)
        is_first_bot_check = said.kind == "bot_check" and not (self.pause and self.pause.code == "bot_check")
        is_old_news = lease_id <= self.paused_lease_id and not is_first_bot_check
        if said.kind == "failed" or is_old_news:
            return asked_s
        first_s = _BOT_CHECK_S if said.kind == "bot_check" else self._refused(now_s)
        is_enough_said = asked_s > 0 and self.step_s == 0 and first_s == _RATE_LIMITED_S
        self.step_s = min(max(first_s, 2 * self.step_s), _LONGEST_PAUSE_S)
        return asked_s if is_enough_said else max(asked_s, self.step_s)

    def _refused(self, now_s: float) -> float:
        """Count a refusal; the shortest pause that it is worth."""
        recent_s = (moment_s for moment_s in self.refused_s if now_s - moment_s <= _BURST_OF_REFUSALS_S)
        self.refused_s = (*recent_s, now_s)
        return _REFUSED_OFTEN_S if len(self.refused_s) >= _BURST_OF_REFUSALS else _RATE_LIMITED_S

    def is_idle(self, now_s: float) -> bool:
        """Whether forgetting it changes nothing but one spacing of waiting."""
        remembered_s = self.pause.until_s + (_LONGEST_PAUSE_S if self.step_s else 0.0) if self.pause else 0.0
        in_use = self.leases or self.line
        return not in_use and max(self.free_at_s + _SILENT_S, remembered_s) < now_s


class HostGate:
    """Grants requests to hosts; a state machine without clock or lock, for all workers of a cluster.

    A place in the line belongs to a client, not to one of its threads: `Turns` lets one thread ask at a time.
    """

    def __init__(self) -> None:
        self._names: dict[str, _Name] = {}
        self._hosts: dict[int, str] = {}
        self._last_lease_id = 0
        self._seen_s: dict[str, float] = {}
        self._swept_s = 0.0
        self._robots: dict[str, tuple[str, float]] = {}
        self._robots_chars = 0
        self._robots_claims: dict[str, tuple[str, float]] = {}

    def acquire(
        self, host: str, limit: HostLimit, *, client_id: str, now_s: float
    ) -> Granted | Wait | HostPause:
        """A lease for one request to `host` now, or when to ask again, or the pause that forbids it.

        Args:
            host: the name that `FetchConfig.limit_of` gives.
            client_id: one a worker process; distinct among all of them.
        """
        self._seen_s[client_id] = now_s
        self._sweep(now_s)
        name = self._names.get(host) or self._names.setdefault(host, _Name())
        paused_until_s = name.pause.until_s if name.pause else 0.0
        if name.pause and paused_until_s - now_s > _SHORT_PAUSE_S:
            name.line.pop(client_id, None)
            return name.pause
        spacing_s = 1 / limit.requests_per_s
        name.free_at_s = name.free_at_s or now_s + spacing_s
        free_at_s = max(name.free_at_s, now_s - max(0.0, _BURST_S - spacing_s), paused_until_s)
        ahead = name.ahead(client_id, now_s)
        wait_s = free_at_s + ahead * spacing_s - now_s
        if wait_s <= 0 and self._num_free(name, limit, now_s) > ahead:
            name.free_at_s = free_at_s + spacing_s
            return self._grant(host, name, client_id, now_s)
        wait_s = max(wait_s, _LEAST_WAIT_S) if wait_s > 0 else name.poll_s(ahead, now_s)
        name.line[client_id] = now_s + wait_s + _LATE_S
        return Wait(wait_s)

    def release(self, lease_id: int, said: Said, *, now_s: float) -> HostPause | None:
        """Give a lease back; the pause that the answer began, if any. One that was taken back is ignored."""
        host = self._hosts.pop(lease_id, None)
        if host is None:
            return None
        name = self._names[host]
        self._seen_s[name.leases.pop(lease_id)] = now_s
        name.last_end_s = now_s
        if said.kind == "ok":
            if lease_id > name.paused_lease_id:
                name.step_s = 0.0
            return None
        pause_s = name.pause_s(lease_id, said, now_s)
        if pause_s == 0:
            return None
        jitter_s = pause_s * _JITTER_RATIO * random.Random(f"{host} {now_s}").random()
        pause = HostPause(
            host=host,
            until_s=now_s + pause_s + jitter_s,
            code="bot_check" if said.kind == "bot_check" else "rate_limited",
            reason=" ".join(said.message.split())[:_REASON_MAX_CHARS],
        )
        return pause if name.leave_alone(pause, self._last_lease_id) else None

    def renew(self, client_id: str, *, now_s: float) -> None:
        """Keep the leases of a client, which are taken back when it is silent for `_SILENT_S`."""
        self._seen_s[client_id] = now_s

    def pause(self, pause: HostPause) -> None:
        """Leave a host alone for a reason learned elsewhere; of two pauses the one that ends later counts."""
        self._names.setdefault(pause.host, _Name()).leave_alone(pause, self._last_lease_id)

    def pauses(self, *, now_s: float) -> tuple[HostPause, ...]:
        """The pauses in force, by host."""
        pauses = (name.pause for name in self._names.values() if name.pause and name.pause.until_s > now_s)
        return tuple(sorted(pauses, key=lambda pause: pause.host))

    def robots(self, origin: str, *, client_id: str, now_s: float) -> str | FetchRobots | Wait:
        """The robots.txt of an origin. One client is told to fetch it, the others to wait for it."""
        self._seen_s[client_id] = now_s
        text, until_s = self._robots.get(origin, ("", 0.0))
        if until_s > now_s:
            return text
        claimant, until_s = self._robots_claims.get(origin, (client_id, 0.0))
        if claimant != client_id and until_s > now_s and not self._is_silent(claimant, now_s):
            return Wait(_ROBOTS_POLL_S)
        self._robots_claims[origin] = client_id, now_s + _ROBOTS_CLAIM_S
        return FetchRobots()

    def keep_robots(self, origin: str, text: str, *, max_age_s: float, now_s: float) -> None:
        """Cache a robots.txt; the oldest ones make room for it."""
        self._robots_claims.pop(origin, None)
        self._drop_robots(origin)
        self._robots[origin] = text, now_s + max_age_s
        self._robots_chars += _ROBOTS_ENTRY_CHARS + len(text)
        while self._robots_chars > _ROBOTS_MAX_CHARS:
            self._drop_robots(next(iter(self._robots)))

    def _grant(self, host: str, name: _Name, client_id: str, now_s: float) -> Granted:
        """The ids are moments: a lease of a gate that was restarted is none of its successor's."""
        name.line.pop(client_id, None)
        name.last_end_s = name.last_end_s or now_s
        lease_id = self._last_lease_id = max(self._last_lease_id + 1, int(now_s * 1e6))
        name.leases[lease_id] = client_id
        self._hosts[lease_id] = host
        return Granted(lease_id)

    def _num_free(self, name: _Name, limit: HostLimit, now_s: float) -> int:
        if len(name.leases) >= limit.connections:
            self._take_back(name, now_s)
        return limit.connections - len(name.leases)

    def _take_back(self, name: _Name, now_s: float) -> None:
        """End the leases of clients that died."""
        for lease_id in [id_ for id_, client_id in name.leases.items() if self._is_silent(client_id, now_s)]:
            del name.leases[lease_id], self._hosts[lease_id]

    def _is_silent(self, client_id: str, now_s: float) -> bool:
        return self._seen_s.get(client_id, 0.0) + _SILENT_S < now_s

    def _sweep(self, now_s: float) -> None:
        """Forget the dead, and the names that are not in use: a crawl meets millions."""
        if now_s < self._swept_s + _SILENT_S:
            return
        self._swept_s = now_s
        for name in self._names.values():
            self._take_back(name, now_s)
            name.line = {
                client: held_s for client, held_s in name.line.items() if held_s + _PLACE_KEPT_S > now_s
            }
        self._names = {host: name for host, name in self._names.items() if not name.is_idle(now_s)}
        self._seen_s = {
            client: seen_s for client, seen_s in self._seen_s.items() if seen_s + _SILENT_S >= now_s
        }
        self._robots_claims = {
            origin: claim for origin, claim in self._robots_claims.items() if claim[1] > now_s
        }

    def _drop_robots(self, origin: str) -> None:
        if origin in self._robots:
            text, _ = self._robots.pop(origin)
            self._robots_chars -= _ROBOTS_ENTRY_CHARS + len(text)


class LocalDesk:
    """The gate with a clock and a lock: for the threads of one process, or as a process of its own."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` tells Unix time."""
        self._clock = clock
        self._gate = HostGate()
        self._lock = threading.Lock()

    def acquire(self, host: str, limit: HostLimit, *, client_id: str) -> Granted | Wait | HostPause:
        """See `HostGate`, as for all that follow."""
        with self._lock:
            return self._gate.acquire(host, limit, client_id=client_id, now_s=self._clock())

    def release(self, lease_id: int, said: Said) -> HostPause | None:
        """Give a lease back."""
        with self._lock:
            return self._gate.release(lease_id, said, now_s=self._clock())

    def renew(self, client_id: str) -> None:
        """Say that a client is alive."""
        with self._lock:
            self._gate.renew(client_id, now_s=self._clock())

    def pause(self, pause: HostPause) -> None:
        """Leave a host alone."""
        with self._lock:
            self._gate.pause(pause)

    def pauses(self) -> tuple[HostPause, ...]:
        """All pauses in force."""
        with self._lock:
            return self._gate.pauses(now_s=self._clock())

    def robots(self, origin: str, *, client_id: str) -> str | FetchRobots | Wait:
        """The robots.txt of an origin."""
        with self._lock:
            return self._gate.robots(origin, client_id=client_id, now_s=self._clock())

    def keep_robots(self, origin: str, text: str, *, max_age_s: float) -> None:
        """Cache a robots.txt."""
        with self._lock:
            self._gate.keep_robots(origin, text, max_age_s=max_age_s, now_s=self._clock())
