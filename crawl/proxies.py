"""The proxies that requests go through: in turn, and those that fail rest for a while. Pure but for the clock."""

import base64
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

from infra.errors import ConfigError, Deferred

_NUM_FAILURES = 3
_FIRST_REST_S = 60.0
# Assumption, not measured: one that was away for an hour is asked again every hour.
_MAX_REST_S = 3600.0
_SCHEMES = frozenset({"http", "https", "socks5", "socks5h"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """One proxy. Its representation holds no secret."""

    name: str
    """`host:port`, and `#2` and so on when the same host and port come again with other credentials."""
    url: str = field(repr=False)
    """With user and password, URL-quoted, if it wants them."""
    headers: Mapping[str, str] = field(repr=False, compare=False)
    """What an HTTP proxy wants to read: `Proxy-Authorization`, or nothing."""

    def login(self) -> tuple[str, str]:
        """User and password, not quoted; empty when it wants none."""
        parts = urlsplit(self.url)
        return unquote(parts.username or ""), unquote(parts.password or "")


def parse_proxies(text: str, path: Path) -> list[Proxy]:
    """The proxies of a file's text, one address a line; blank lines and lines with `#` first are skipped.

    Raises:
        ConfigError: a line is no proxy; the message has its number and no word of it.
    """
    urls: dict[str, int] = {}
    for line_number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.strip().startswith("#"):
            urls.setdefault(line.strip(), line_number)
    num_of_host: dict[str, int] = {}
    proxies = []
    for url, line_number in urls.items():
        host = _host_and_port(url, f"{path}, line {line_number}")
        num_of_host[host] = num_of_host.get(host, 0) + 1
        name = host if num_of_host[host] == 1 else f"{host}#{num_of_host[host]}"
        proxies.append(_proxy(name, url))
    return proxies


class Proxies:
    """The state of the proxies of one process; threads share it."""

    def __init__(self, proxies: Sequence[Proxy], clock: Callable[[], float]) -> None:
        self._proxies, self._clock = tuple(proxies), clock
        self._lock = threading.Lock()
        self._next = 0
        self._health = {proxy.name: _Health() for proxy in proxies}

    def __iter__(self) -> Iterator[Proxy]:
        return iter(self._proxies)

    def take(self) -> Proxy | None:
        """The next that does not rest; None when there are none at all.

        Raises:
            Deferred: all of them rest.
        """
        if not self._proxies:
            return None
        with self._lock:
            now_s = self._clock()
            for index in range(self._next, self._next + len(self._proxies)):
                proxy = self._proxies[index % len(self._proxies)]
                if self._health[proxy.name].resting_until_s <= now_s:
                    self._next = (index + 1) % len(self._proxies)
                    return proxy
            until_s = min(health.resting_until_s for health in self._health.values())
        raise Deferred(f"a proxy of fetch.proxies_path must work, all {len(self._proxies)} rest", until_s)

    def answered(self, proxy: Proxy, *, ok: bool) -> None:
        """Whether a request through it worked. What fails while it rests began before, and counts for nothing."""
        with self._lock:
            now_s = self._clock()
            health = self._health[proxy.name]
            if ok:
                self._health[proxy.name] = _Health()
            elif health.resting_until_s <= now_s:
                health.failed(now_s)


@dataclass(slots=True)
class _Health:
    num_failures: int = 0
    """In a row, since it last rested."""
    next_rest_s: float = _FIRST_REST_S
    resting_until_s: float = 0.0

    def failed(self, now_s: float) -> None:
        self.num_failures += 1
        if self.num_failures == _NUM_FAILURES:
            self.num_failures = 0
            self.resting_until_s = now_s + self.next_rest_s
            self.next_rest_s = min(2 * self.next_rest_s, _MAX_REST_S)


def _host_and_port(url: str, where: str) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # Not chained: its text may hold a password.
        parts, port = urlsplit(""), None
    is_whole = parts.scheme in _SCHEMES and parts.hostname and port
    if not is_whole or parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ConfigError(
            f"a proxy must be http://, https://, socks5:// or socks5h:// and [USER:PASSWORD@]HOST:PORT ({where})"
        )
    if parts.scheme.startswith("socks") and find_spec("socks") is None:
        raise ConfigError(f"a {parts.scheme} proxy needs PySocks; install urllib3[socks] ({where})")
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
    return f"{host}:{port}"


def _proxy(name: str, url: str) -> Proxy:
    login = Proxy(name=name, url=url, headers={}).login()
    if not any(login) or url.lower().startswith("socks"):
        return Proxy(name=name, url=url, headers={})
    token = base64.b64encode(":".join(login).encode()).decode()
    return Proxy(name=name, url=url, headers={"Proxy-Authorization": f"Basic {token}"})
