"""Keep-alive connections: each to an address that was checked, each answer with an end in time."""

import functools
import http.client
import io
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from urllib.parse import urlsplit

from urllib3.connection import HTTPConnection, HTTPSConnection, ProxyConfig
from urllib3.exceptions import HTTPError
from urllib3.response import HTTPResponse
from urllib3.util.connection import create_connection

from crawl.addresses import AddressInfo, require_public
from crawl.proxies import Proxy

_BUFFER_BYTES = 64 * 1024


class ProxyFailure(OSError):
    """A proxy did not connect us. What the host behind it does is no such failure."""


class Deadline:
    """When a fetch must have finished; waiting for a turn does not count."""

    def __init__(self, *, timeout_s: float, stall_timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.stall_timeout_s = stall_timeout_s
        self._end_s = time.monotonic() + timeout_s

    def excuse(self, waited_s: float) -> None:
        """Move the end: the time was not the host's."""
        self._end_s += waited_s

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self._end_s

    def left_s(self) -> float:
        """Seconds to wait for the next byte, more than 0.

        Raises:
            TimeoutError: the time is up.
        """
        left_s = self._end_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("time is up")
        return min(left_s, self.stall_timeout_s)


@dataclass(frozen=True, slots=True)
class Route:
    """What one connection serves: an origin, directly or through a proxy."""

    scheme: str
    host: str
    port: int
    proxy: Proxy | None = None


class _TimedSocket(io.RawIOBase):
    """What a socket receives, until the deadline: a host that sends a byte now and then does not move it."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, deadline: Deadline) -> None:
        self._raw, self._sock, self._deadline = raw, sock, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int | None:  # type: ignore[override]
        self._sock.settimeout(self._deadline.left_s())
        return self._raw.readinto(buffer)  # type: ignore[attr-defined, no-any-return]

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimedResponse(http.client.HTTPResponse):
    """Status line, headers and body all end at the deadline."""

    def __init__(self, sock: socket.socket, *args: object, deadline: Deadline, **kwargs: object) -> None:
        super().__init__(sock, *args, **kwargs)  # type: ignore[arg-type]
        raw = self.fp.detach()  # type: ignore[attr-defined]
        self.fp = io.BufferedReader(_TimedSocket(raw, sock, deadline), _BUFFER_BYTES)


class _CheckedConnection(HTTPConnection):
    """Looks its host up once, and connects to one of the addresses that were checked."""

    allow_private = False
    socks_proxy: Proxy | None = None

    def _new_conn(self) -> socket.socket:
        found = require_public(
            self._dns_host, self.port, allow_private=self.allow_private, resolve=_addresses_of
        )
        failure = OSError("the host has no address")
        for *_, address in found:
            try:
                if self.socks_proxy:
                    return _through_socks(self.socks_proxy, self._dns_host, address, self.timeout)
                return create_connection(address[:2], self.timeout, socket_options=self.socket_options)
            except OSError as err:
                failure = err
        raise failure


class _CheckedTlsConnection(_CheckedConnection, HTTPSConnection):
    """The same for https; certificate and name are verified against the host that was asked for."""


def _addresses_of(host: str, port: int) -> Sequence[AddressInfo]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


def _through_socks(proxy: Proxy, host: str, address: tuple, timeout_s: float | None) -> socket.socket:
    """A connection to the checked address, or for `socks5h` to the host, whose name the proxy looks up again."""
    import socks

    parts = urlsplit(proxy.url)
    user, password = proxy.login()
    return socks.create_connection(  # type: ignore[no-any-return]
        (host if parts.scheme == "socks5h" else address[0], address[1]),
        timeout_s,
        proxy_type=socks.SOCKS5,
        proxy_addr=parts.hostname,
        proxy_port=parts.port,
        proxy_username=user or None,
        proxy_password=password or None,
    )


class Connections:
    """The open connections of one worker, shared by its threads."""

    def __init__(self, *, max_idle: int, allow_private: bool) -> None:
        self._max_idle = max_idle
        self._allow_private = allow_private
        self._idle: list[tuple[Route, HTTPConnection]] = []
        self._lock = threading.Lock()

    def ask(
        self, route: Route, url: str, headers: Mapping[str, str], deadline: Deadline
    ) -> tuple[HTTPConnection, HTTPResponse]:
        """GET, until the headers of the answer are there. `keep` or close the connection afterwards.

        A connection that the server closed while it was idle is replaced by a new one.

        Raises:
            BlockedByPolicy: the host has an address that is not public.
            OSError, http.client.HTTPException, urllib3.exceptions.HTTPError: the network's.
        """
        idle = self._take(route)
        if idle is not None:
            try:
                return idle, _exchange(idle, route, url, headers, deadline)
            except (ConnectionError, ssl.SSLError):
                idle.close()
        connection = self._new(route)
        return connection, _exchange(connection, route, url, headers, deadline)

    def keep(self, route: Route, connection: HTTPConnection) -> None:
        """Hold a connection whose answer was read to its end for the next request."""
        if connection.is_closed:
            return
        with self._lock:
            self._idle.append((route, connection))
            _, oldest = self._idle.pop(0) if len(self._idle) > self._max_idle else (route, None)
        if oldest:
            oldest.close()

    def close(self) -> None:
        """Close those that are idle."""
        with self._lock:
            idle, self._idle = self._idle, []
        for _, connection in idle:
            connection.close()

    def _take(self, route: Route) -> HTTPConnection | None:
        """The idle connection of a route that was used last and that the server has not closed."""
        while True:
            with self._lock:
                index = next((i for i in reversed(range(len(self._idle))) if self._idle[i][0] == route), None)
                if index is None:
                    return None
                _, connection = self._idle.pop(index)
            if connection.is_connected:
                return connection
            connection.close()

    @functools.cached_property
    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context()

    def _new(self, route: Route) -> HTTPConnection:
        if route.proxy and not _is_socks(route.proxy):
            return self._new_to_proxy(route, route.proxy)
        connection = self._connection(route.scheme, route.host, route.port)
        connection.allow_private = self._allow_private
        connection.socks_proxy = route.proxy
        return connection

    def _new_to_proxy(self, route: Route, proxy: Proxy) -> HTTPConnection:
        """A connection to a proxy, which may be anywhere, for a host that must be public."""
        require_public(route.host, route.port, allow_private=self._allow_private, resolve=_addresses_of)
        parts = urlsplit(proxy.url)
        scheme = "https" if "https" in (route.scheme, parts.scheme) else "http"
        connection = self._connection(scheme, str(parts.hostname), int(parts.port or 0))
        connection.allow_private = True
        if route.scheme == "https":
            connection.proxy_config = ProxyConfig(self._tls, False, None, None)
            connection.set_tunnel(route.host, route.port, headers=proxy.headers, scheme=parts.scheme)
        return connection

    def _connection(self, scheme: str, host: str, port: int) -> _CheckedConnection:
        if scheme == "https":
            return _CheckedTlsConnection(host, port, ssl_context=self._tls)
        return _CheckedConnection(host, port)


def _exchange(
    connection: HTTPConnection, route: Route, url: str, headers: Mapping[str, str], deadline: Deadline
) -> HTTPResponse:
    target = url[url.index("/", len(f"{route.scheme}://")) :]
    if route.proxy and route.scheme == "http" and not _is_socks(route.proxy):
        target, headers = url, {**headers, **route.proxy.headers}
    with ExitStack() as cleanup:
        cleanup.callback(connection.close)
        connection.timeout = deadline.left_s()
        connection.response_class = functools.partial(  # type: ignore[assignment]
            _TimedResponse, deadline=deadline
        )
        if connection.is_closed:
            _connect(connection, route)
        connection.request("GET", target, headers=headers, preload_content=False, decode_content=False)
        response = connection.getresponse()
        cleanup.pop_all()
    return response


def _connect(connection: HTTPConnection, route: Route) -> None:
    try:
        connection.connect()
    except (OSError, http.client.HTTPException, HTTPError) as err:
        if route.proxy and _is_of_the_proxy(err):
            raise ProxyFailure(f"proxy {route.proxy.name} does not connect us: {err}") from err
        raise


def _is_of_the_proxy(err: Exception) -> bool:
    """Whether the proxy failed, and not the host behind it."""
    is_hosts = isinstance(err, ssl.SSLError) or type(err).__name__ == "SOCKS5Error"
    is_answer = "Tunnel connection failed" in str(err) and " 407 " not in str(err)
    return not (is_hosts or is_answer)


def _is_socks(proxy: Proxy) -> bool:
    return proxy.url.lower().startswith("socks")
