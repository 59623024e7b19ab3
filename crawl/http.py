"""Plain HTTP for the crawl: polite, checked at every hop, every failure named."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from urllib.parse import SplitResult, quote, urljoin

from urllib3.util import make_headers

from crawl.addresses import origin_of, require_http
from crawl.answer import Answer, WrongPart, network_errors_named, one_line, refusal_of, said_of
from crawl.download import Download, Span, complete
from crawl.http_pool import Connections, Deadline, ProxyFailure, Route
from crawl.identity import Identity
from crawl.part_file import PartFile
from crawl.policy import FetchConfig, HostLimit
from crawl.proxies import Proxy
from crawl.robots import (
    Robots,
    allows,
    crawl_delay_s,
    is_unreachable,
    opt_out_directives,
    require_allowed,
    robots_of,
)
from crawl.turns import Turns
from infra.errors import (
    AvgenError,
    BlockedByPolicy,
    FetchTimeout,
    FormatMissing,
    NetworkFailure,
    NotMedia,
    TooLarge,
)

__all__ = ["Answer", "Download", "Http", "NoRanges", "Page"]

_MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
# What RFC 9309, section 2.5, asks crawlers to read at least of a robots.txt.
_ROBOTS_MAX_BYTES = 500 * 1024
# Nothing is inflated: a small body could become an endless one.
_CODINGS = {"content-encoding": "", "transfer-encoding": "chunked"}
_ROBOTS_OPT_OUT = "robots.txt"
# What a URL may carry unquoted. Source: RFC 3986, sections 2.2 to 2.4.
_URL_SAFE = "!#$%&'()*+,/:;=?@[]~"
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_SECRET_HEADERS = ("Authorization", "Cookie", "Proxy-Authorization")
_MAX_VALIDATORS = 1024


class NoRanges(FormatMissing):
    """The server does not send parts of this file: fetch the whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A small body, and the address that gave it."""

    url: str
    """After redirects."""
    content_type: str
    body: bytes
    opt_out: tuple[str, ...]
    """See `crawl.robots.opt_out_directives`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """What is asked of one address, at every hop."""

    span: Span | None
    check_robots: bool
    deadline: Deadline
    headers: Mapping[str, str] = field(default_factory=dict)
    any_status: bool = False
    """Take every answer: it is for robots.txt."""


class Http:
    """GET for all threads of one worker; connections are kept alive between requests.

    Every error message names the address and none of our secrets.
    """

    def __init__(self, config: FetchConfig, turns: Turns, identity: Identity) -> None:
        self._config = config
        self._agent = config.agent()
        self._turns = turns
        self._identity = identity
        self._connections = Connections(max_idle=2 * config.connections, allow_private=config.allow_private)
        self._validators: dict[str, str] = {}

    def close(self) -> None:
        """Close the connections that no thread uses."""
        self._connections.close()

    @contextmanager
    def open(
        self,
        url: str,
        *,
        headers: Mapping[str, str] = _NO_HEADERS,
        span: Span | None = None,
        check_robots: bool = True,
    ) -> Iterator[Answer]:
        """An answer whose body has not been read: status 200, or, when a `span` was asked for, also 206 or 416.

        Redirects are followed. The turn at the host ends with the context.

        Args:
            span: first and last byte, both included; no last one: to the end.
            check_robots: heed robots.txt and X-Robots-Tag, as the configuration says.

        Raises:
            BlockedByPolicy: scheme, address, robots or redirects forbid it.
            SourceUnavailable, RateLimited, BotCheck, NetworkFailure, FetchTimeout: what the host or network says.
            Deferred: nothing was asked, the host is paused.
        """
        wish = _Wish(headers=headers, span=span, check_robots=check_robots, deadline=self._deadline())
        with self._opened(url, wish) as answer:
            yield answer

    def read(
        self, url: str, *, max_bytes: int, headers: Mapping[str, str] = _NO_HEADERS, check_robots: bool = True
    ) -> Page:
        """The body of a page, feed or list.

        Raises:
            TooLarge: more than `max_bytes`.
            BlockedByPolicy, SourceUnavailable, TransientError: as `open`.
        """
        deadline = self._deadline(self._config.list_timeout_s)
        wish = _Wish(headers=headers, span=None, check_robots=check_robots, deadline=deadline)
        with self._opened(url, wish) as answer:
            body = _body(answer, max_bytes)
        return Page(url=answer.url, content_type=answer.content_type, body=body, opt_out=answer.opt_out)

    def download(
        self, url: str, part: Path, *, headers: Mapping[str, str] = _NO_HEADERS, chunk_bytes: int = 0
    ) -> Download:
        """The file at an address, in `part`, which is not synced.

        A `part` that an earlier call left is resumed when the server still has what it is a part of; the address
        may have changed meanwhile, as signed ones do. `<part>.json` beside it belongs to it.

        Args:
            chunk_bytes: ask for parts of this length, as some hosts want it; 0: for the whole.

        Raises:
            NotMedia: a page, an empty or a compressed file.
            TooLarge: more than `max_bytes` of the configuration.
            DiskFull: there is no room for it.
            BlockedByPolicy, SourceUnavailable, TransientError: as `open`.
        """
        wish = _Wish(headers=headers, span=None, check_robots=True, deadline=self._deadline())

        @contextmanager
        def ask(*, headers: Mapping[str, str], span: Span | None) -> Iterator[Answer]:
            with self._opened(url, replace(wish, headers={**wish.headers, **headers}, span=span)) as answer:
                yield answer

        with PartFile(part) as file:
            return complete(ask, file, chunk_bytes=chunk_bytes, config=self._config)

    def read_span(
        self, url: str, first: int, last: int, *, headers: Mapping[str, str] = _NO_HEADERS
    ) -> tuple[bytes, int]:
        """The bytes `first` to `last` of a file, both included, or up to its end; and its length.

        Raises:
            NoRanges: the server only sends the whole.
            NetworkFailure: it sent something else, or the file has changed since the last call.
            BlockedByPolicy, SourceUnavailable, TransientError: as `open`.
        """
        with self.open(url, headers=headers, span=(first, last)) as answer:
            if answer.status != 206:
                raise NoRanges(f"the server must send parts of a file, got status {answer.status} ({url})")
            try:
                part = answer.part(first, last, validator=self._validators.get(url, ""))
            except WrongPart:
                self._validators.pop(url, None)
                raise
            body = _body(answer, part.last - part.first + 1)
        if len(body) != part.last - part.first + 1:
            raise NetworkFailure(f"a part must have the length that it says, got {len(body)} bytes ({url})")
        self._validators.setdefault(url, answer.validator)
        if len(self._validators) > _MAX_VALIDATORS:
            self._validators.pop(next(iter(self._validators)), None)
        return body, part.total_bytes

    def require_allowed(self, url: str) -> None:
        """Check what the robots.txt of an address says of it, for whoever asks it by other means.

        Raises:
            BlockedByPolicy: the address is no http(s) one, or it is forbidden.
            TransientError: as `open`, for robots.txt.
        """
        self._robots(url, require_http(_clean(url)))

    def _deadline(self, timeout_s: float = math.inf) -> Deadline:
        timeout_s = min(timeout_s, self._config.timeout_s)
        return Deadline(timeout_s=timeout_s, stall_timeout_s=self._config.stall_timeout_s)

    @contextmanager
    def _opened(self, url: str, wish: _Wish) -> Iterator[Answer]:
        """The answer at the end of all redirects."""
        seen: list[str] = []
        with ExitStack() as stack, self._scrubbed():
            while True:
                parts = require_http(_clean(url))
                url = parts._replace(path=parts.path or "/", fragment="").geturl()
                if url in seen or len(seen) > _MAX_REDIRECTS:
                    hops = " -> ".join([*seen, url])
                    raise BlockedByPolicy(f"redirects must end within {_MAX_REDIRECTS}, got {hops}")
                seen.append(url)
                is_own = _origin_text(parts) == _origin_text(require_http(seen[0]))
                headers = self._headers(url, parts, wish, is_own=is_own)
                answer = stack.enter_context(self._hop(url, parts, wish, headers))
                if not _is_redirect(answer):
                    break
                stack.pop_all().close()
                url = urljoin(url, _location(answer))
            yield answer

    def _headers(self, url: str, parts: SplitResult, wish: _Wish, *, is_own: bool) -> dict[str, str]:
        """What is sent to one hop; the caller's secrets stay at the origin that he named."""
        headers = {"User-Agent": self._agent, "Accept": "*/*"}
        headers |= {name.title(): value for name, value in wish.headers.items()}
        if not is_own:
            for name in _SECRET_HEADERS:
                headers.pop(name, None)
        headers["Accept-Encoding"] = "identity"
        if wish.span:
            first, last = wish.span
            headers["Range"] = f"bytes={first}-{'' if last is None else last}"
        cookie = self._identity.cookie_header(url)
        if cookie:
            headers.setdefault("Cookie", cookie)
        credentials = self._identity.credentials(str(parts.hostname))
        if credentials:
            headers.setdefault(
                "Authorization", make_headers(basic_auth=":".join(credentials))["authorization"]
            )
        return headers

    @contextmanager
    def _hop(self, url: str, parts: SplitResult, wish: _Wish, headers: Mapping[str, str]) -> Iterator[Answer]:
        """One request in its turn; a redirect, or an answer that `wish` takes."""
        began_s = time.monotonic()
        robots_opt_out, delay_s = self._robots(url, parts) if wish.check_robots else ((), 0.0)
        proxy = self._identity.proxy()
        with self._turns.at(url, delay_s=delay_s) as turn, self._proxy_turn(proxy):
            wish.deadline.excuse(time.monotonic() - began_s)
            with self._exchanged(url, parts, wish.deadline, headers, proxy) as answer:
                refusal = refusal_of(answer)
                turn.said(said_of(answer, refusal))
                if _is_redirect(answer):
                    answer.discard()
                elif not wish.any_status:
                    if answer.status == 416 and wish.span is None:
                        refusal = NetworkFailure(f"the whole must be there, got status 416 ({url})")
                    if refusal:
                        answer.discard()
                        raise refusal
                    found = opt_out_directives(answer.headers.items(), self._agent)
                    answer.opt_out = (*robots_opt_out, *found)
                    self._require_usable(answer, wish)
                yield answer

    @contextmanager
    def _exchanged(
        self,
        url: str,
        parts: SplitResult,
        deadline: Deadline,
        headers: Mapping[str, str],
        proxy: Proxy | None,
    ) -> Iterator[Answer]:
        """The answer to one request, on a connection that is kept when the body was read to its end."""
        route = Route(*origin_of(parts), proxy)
        with network_errors_named(url, deadline):
            try:
                connection, response = self._connections.ask(route, url, headers, deadline)
            except ProxyFailure:
                self._proxy_answered(proxy, ok=False)
                raise
        self._proxy_answered(proxy, ok=response.status != 407)
        answer = Answer(response, url, deadline)
        try:
            yield answer
        finally:
            if answer.is_read:
                self._connections.keep(route, connection)
            else:
                connection.close()

    def _proxy_answered(self, proxy: Proxy | None, *, ok: bool) -> None:
        if proxy:
            self._identity.proxy_answered(proxy, ok=ok)

    @contextmanager
    def _proxy_turn(self, proxy: Proxy | None) -> Iterator[None]:
        if proxy is None:
            yield
            return
        per_s = self._config.requests_per_proxy_h / 3600
        limit = HostLimit(requests_per_s=per_s, connections=self._config.connections)
        with self._turns.wait_for(f"proxy:{proxy.name}", limit):
            yield

    def _robots(self, url: str, parts: SplitResult) -> tuple[tuple[str, ...], float]:
        """What robots.txt says of an address: an opt-out when it forbids it, and its Crawl-delay.

        Raises:
            BlockedByPolicy, NetworkFailure: it forbids it, or cannot be read, and we obey.
        """
        origin = _origin_text(parts)
        try:
            text = self._turns.robots(origin, partial(self._fetch_robots, origin))
            if self._config.obey_robots:
                require_allowed(text, url, self._agent)
                return (), crawl_delay_s(text, self._agent)
        except AvgenError as err:
            if not self._config.obey_robots:
                return (), 0.0
            if isinstance(err, NetworkFailure | FetchTimeout) and url not in str(err):
                raise type(err)(f"robots.txt must be read before {url}, but: {err}") from err
            raise
        is_forbidden = not (is_unreachable(text) or allows(text, url, self._agent))
        return ((_ROBOTS_OPT_OUT,) if is_forbidden else ()), 0.0

    def _fetch_robots(self, origin: str) -> Robots:
        deadline = self._deadline(self._config.stall_timeout_s)
        wish = _Wish(span=None, check_robots=False, any_status=True, deadline=deadline)
        with self._opened(f"{origin}/robots.txt", wish) as answer:
            return robots_of(answer.status, answer.head(_ROBOTS_MAX_BYTES))

    def _require_usable(self, answer: Answer, wish: _Wish) -> None:
        for name, usual in _CODINGS.items():
            coding = answer.headers.get(name, "identity").strip().lower()
            if coding not in ("identity", usual):
                raise NotMedia(
                    f"a server must send files as they are, got {name} {one_line(coding)} ({answer.url})"
                )
        if answer.opt_out and wish.check_robots and self._config.obey_robots:
            found = ", ".join(answer.opt_out)
            raise BlockedByPolicy(f"the server must not opt out of our use, it says {found} ({answer.url})")

    @contextmanager
    def _scrubbed(self) -> Iterator[None]:
        """Errors leave without our passwords and cookies, whoever repeated them."""
        try:
            yield
        except AvgenError as err:
            err.args = (self._identity.scrub(str(err)), *err.args[1:])
            raise


def _clean(url: str) -> str:
    """An address as it is sent: ASCII, without blanks; a Location header may hold anything."""
    return quote(url.strip(), safe=_URL_SAFE)


def _location(answer: Answer) -> str:
    """Where a redirect leads; its bytes came as Latin-1."""
    return quote(answer.headers["location"].strip().encode("latin-1", "replace"), safe=_URL_SAFE)


def _is_redirect(answer: Answer) -> bool:
    return answer.status in _REDIRECTS and bool(answer.headers.get("location"))


def _origin_text(parts: SplitResult) -> str:
    scheme, host, port = origin_of(parts)
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _body(answer: Answer, max_bytes: int) -> bytes:
    """The whole body.

    Raises:
        TooLarge: it has more than `max_bytes`.
    """
    body = bytearray()
    num_bytes = answer.num_bytes or 0
    for block in chain([b""], answer.blocks()):
        body += block
        if max(num_bytes, len(body)) > max_bytes:
            raise TooLarge(f"a body must have at most {max_bytes} bytes, this has more ({answer.url})")
    return bytes(body)
