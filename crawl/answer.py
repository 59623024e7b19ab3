"""One answer of a web server: what its status means, which part of a file it holds, and its body."""

import http.client
import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from urllib3.exceptions import HTTPError, ReadTimeoutError
from urllib3.exceptions import TimeoutError as UrllibTimeoutError
from urllib3.response import HTTPResponse

from crawl.classify import STATUS_CLASSES
from crawl.http_pool import Deadline
from crawl.politeness import Said
from infra.errors import (
    AvgenError,
    BotCheck,
    FetchTimeout,
    NetworkFailure,
    NotMedia,
    RateLimited,
)

_BLOCK_BYTES = 256 * 1024
_DISCARD_BYTES = 64 * 1024
_BOT_STATUSES = (403, 503)
_BOT_WORDS = re.compile(
    rb"captcha|not a (?:ro)?bot|cdn-cgi/challenge-platform|unusual traffic|verify (?:that )?you are (?:a )?human",
    re.IGNORECASE,
)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
# The tags by which a browser knows a page. Source: WHATWG MIME Sniffing, section 7.1, without `<!--` alone.
_HTML = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*|<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|script|iframe|h1|div|font"
    rb"|table|a|style|title|b|body|br|p)[\s>]",
    re.IGNORECASE | re.DOTALL,
)


class BodyBroken(NetworkFailure):
    """The body ended before its length, or the connection broke within it: the rest may be asked for."""


class BodyStalled(FetchTimeout):
    """The host said nothing more within the body: the rest may be asked for on another connection."""


class WrongPart(NetworkFailure):
    """The server sent something else than the part that was asked for; nothing of it was used."""


class Part(NamedTuple):
    """A Content-Range: the bytes `first` to `last`, both included, of a file of `total_bytes`."""

    first: int
    last: int
    total_bytes: int


class Answer:
    """Status 200, 206 or 416 and headers; `blocks` reads the body."""

    def __init__(self, response: HTTPResponse, url: str, deadline: Deadline) -> None:
        self.url = url
        self.status = response.status
        self.reason = one_line(response.reason or "")
        self.headers: Mapping[str, str] = response.headers
        self.opt_out: tuple[str, ...] = ()
        """See `crawl.robots.opt_out_directives`; `robots.txt` is one more."""
        self.is_read = False
        """Whether the body was read to its end."""
        self._response = response
        self._deadline = deadline

    @property
    def content_type(self) -> str:
        """`video/mp4`: lower case, without parameters; empty when the server does not say."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def num_bytes(self) -> int | None:
        """Length of the body; None when the server does not say."""
        return _length(self._response)

    @property
    def validator(self) -> str:
        """What tells this content from any other: a strong ETag, or else a Last-Modified that is not too fresh.

        A file may change twice within the second that Last-Modified counts. Source: RFC 9110, section 8.8.2.2.
        """
        etag = self.headers.get("etag", "")
        if etag.startswith('"'):
            return etag
        modified = self.headers.get("last-modified", "")
        is_old = _unix_time(modified) + 1 < _unix_time(self.headers.get("date", ""))
        return modified if is_old else ""

    def part(self, first: int, last: int | None, *, total_bytes: int = 0, validator: str = "") -> Part:
        """The part that a 206 holds: the one asked for, of the file known as `total_bytes` and `validator`.

        Raises:
            WrongPart: the headers say something else, or contradict each other.
        """
        said = self.headers.get("content-range", "")
        match = _CONTENT_RANGE.fullmatch(said)
        part = Part(*map(int, match.groups())) if match else Part(0, -1, 0)
        expected_last = part.total_bytes - 1 if last is None else min(last, part.total_bytes - 1)
        is_asked = (part.first, part.last) == (first, expected_last) and first <= part.last
        is_whole = self.num_bytes in (None, part.last - part.first + 1)
        if not (is_asked and is_whole) or total_bytes not in (0, part.total_bytes):
            asked = f"bytes {first}-{'' if last is None else last}/{total_bytes or '*'}"
            found = f"{said or 'no Content-Range'} and {self.num_bytes} bytes"
            raise WrongPart(f"a 206 must be the part asked for, {asked}, got {found} ({self.url})")
        if validator and not self._is_same(validator):
            raise WrongPart(f"all parts must be of the file with {validator}, got another ({self.url})")
        return part

    def _is_same(self, validator: str) -> bool:
        """A 206 repeats the ETag; it may leave out Last-Modified. Source: RFC 9110, section 15.3.7."""
        if validator.startswith('"'):
            return self.headers.get("etag") == validator
        return self.headers.get("last-modified", validator) == validator

    def blocks(self) -> Iterator[bytes]:
        """The body as it comes.

        Raises:
            BodyBroken, BodyStalled: the rest may be asked for.
            FetchTimeout: the time is up.
        """
        num_read, total = 0, self.num_bytes
        while True:
            try:
                with network_errors_named(self.url, self._deadline):
                    block = self._response.read1(_BLOCK_BYTES)
            except NetworkFailure as err:
                more = "more" if total is None else f"{total - num_read} more"
                raise BodyBroken(f"{num_read} bytes read, {more} expected: {err}") from err
            except FetchTimeout as err:
                if self._deadline.is_over:
                    raise
                raise BodyStalled(f"{num_read} bytes read, then silence: {err}") from err
            if not block:
                self.is_read = True
                return
            num_read += len(block)
            yield block

    def head(self, num_bytes: int) -> bytes:
        """At most so many of the first bytes of the body.

        Raises:
            BodyBroken, BodyStalled, FetchTimeout: as `blocks`.
        """
        head = b""
        for block in self.blocks():
            head += block
            if len(head) >= num_bytes:
                break
        return head[:num_bytes]

    def discard(self) -> bytes:
        """Read a short body to its end so that its connection can be used again; what could be read of it."""
        try:
            return self.head(_DISCARD_BYTES)
        except (NetworkFailure, FetchTimeout):
            return b""


@contextmanager
def network_errors_named(url: str, deadline: Deadline) -> Iterator[None]:
    """What the network raises becomes a NetworkFailure or FetchTimeout that names the address."""
    try:
        yield
    except (TimeoutError, UrllibTimeoutError, ReadTimeoutError) as err:
        if deadline.is_over:
            raise FetchTimeout(f"a fetch must finish within {deadline.timeout_s:g} s ({url})") from err
        raise FetchTimeout(
            f"a host must answer within {deadline.stall_timeout_s:g} s, it timed out ({url})"
        ) from err
    except socket.gaierror as err:
        raise NetworkFailure(f"the host must have an address, got {err.strerror} ({url})") from err
    except (OSError, http.client.HTTPException, HTTPError) as err:
        raise NetworkFailure(
            f"the connection must hold, got {one_line(str(err) or repr(err))} ({url})"
        ) from err


def one_line(text: str) -> str:
    """What a server said, without line breaks and unprintable characters, at most 200 characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:200]


def refusal_of(answer: Answer) -> AvgenError | None:
    """The error that a status stands for; None for 200, 206 and 416."""
    status = answer.status
    if status in (200, 203, 206, 416):
        return None
    words = f"{status} {answer.reason}".strip()
    if is_bot_check(answer):
        return BotCheck(
            f"the host must let us in, got {words} and a page that asks for a human ({answer.url})"
        )
    error_class = NetworkFailure if status >= 500 else STATUS_CLASSES.get(status, NotMedia)
    retry_after = answer.headers.get("retry-after", "")
    after = f", Retry-After: {one_line(retry_after)}" if retry_after else ""
    return error_class(f"the server must answer 200, got {words}{after} ({answer.url})")


def is_bot_check(answer: Answer) -> bool:
    """Whether a refusal is a page that only lets humans pass; reads the start of it."""
    if answer.headers.get("cf-mitigated") == "challenge":
        return True
    return answer.status in _BOT_STATUSES and asks_for_human(answer.discard())


def asks_for_human(page: bytes) -> bool:
    """Whether a page that comes with a refusal only lets humans pass."""
    return _BOT_WORDS.search(page) is not None


def said_of(answer: Answer, refusal: AvgenError | None) -> Said:
    """What the gate shall know of an answer."""
    if refusal is None or answer.status in (401, 402, 404, 410, 451):
        return Said("ok")
    after_s = retry_after_s(answer.headers)
    if isinstance(refusal, BotCheck):
        return Said("bot_check", after_s, str(refusal))
    return Said("rate_limited" if isinstance(refusal, RateLimited) else "failed", after_s, str(refusal))


def is_html(head: bytes) -> bool:
    """Whether a file that begins like this is a page."""
    return _HTML.match(head) is not None


def _length(response: HTTPResponse) -> int | None:
    text = response.headers.get("content-length", "")
    return None if response.chunked or not text.isdecimal() else int(text)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds of a Retry-After, by the server's own clock where it tells the time."""
    text = headers.get("retry-after", "").strip()
    if text.isdecimal():
        return float(text)
    until_s = _unix_time(text)
    now_s = _unix_time(headers.get("date", "")) or time.time()
    return max(0.0, until_s - now_s) if until_s else None


def _unix_time(text: str) -> float:
    """Seconds of an HTTP date; 0 when it is none."""
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return 0.0
