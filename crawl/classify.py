"""What yt-dlp, HTTP or the operating system said -> the error class that says who must act. Pure."""

import errno
import re
from collections.abc import Iterator, Mapping

from infra import errors
from infra.errors import (
    AgeRestricted,
    AvgenError,
    BotCheck,
    Deferred,
    DiskFull,
    ExtractorBug,
    FetchTimeout,
    FormatMissing,
    GeoBlocked,
    Gone,
    MediaTooLarge,
    NetworkFailure,
    NotMedia,
    Private,
    RateLimited,
    StorageUnavailable,
    TooLarge,
)

_MESSAGE_MAX_CHARS = 500
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_ERROR_PREFIX = re.compile(r"^(?:ERROR:\s*|\[download\] Got error:\s*)+")
_BOILERPLATE = re.compile(
    r"[;.,]?\s*(?:please report this issue on|Confirm you are on the latest version using"
    r"|You might want to use a VPN|See\s+https://github\.com/yt-dlp).*",
    re.IGNORECASE | re.DOTALL,
)
# "[extractor] id: ": the id comes from the address and may hold any words.
_EXTRACTOR_PREFIX = re.compile(r"^\[[^\]]+\] (?:\S+: )?")
# An address may hold any words, too.
_ADDRESS = re.compile(r"https?://\S+")
_HTTP_STATUS = re.compile(r"HTTP Error (\d{3})")

# First match wins: the words of a site say more than its HTTP status.
# Source: the messages of yt-dlp 2026.10.26, yt_dlp/extractor/**, YoutubeDL.py and downloader/.
_WORDS: tuple[tuple[re.Pattern[str], type[AvgenError]], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), error_class)
    for pattern, error_class in (
        (
            r"^Unsupported URL|no video formats|no video could be found|no media found|no valid video url",
            NotMedia,
        ),
        (r"no suitable extractor|is not a valid URL|unusual and will be skipped for safety", NotMedia),
        (r"did not get any data blocks|downloaded file is empty", NotMedia),
        (r"no video in this post|is not a video|not have any videos|can.t find any video", NotMedia),
        (
            r"not (?:currently )?live\b|live event will begin|premieres in|is scheduled for|is processing",
            NotMedia,
        ),
        (
            r"not (?:yet )?started|not downloadable yet|not yet available|not been made available to any",
            NotMedia,
        ),
        (r"confirm you.{0,3}re not a bot|anti-bot challenge|JS challenge|captcha|unusual traffic", BotCheck),
        (r"your IP is likely being blocked|IP address is (?:blocked|unable)|TLS fingerprint", BotCheck),
        (r"(?:blocked|rejected) by server \((?:352|412)\)", BotCheck),
        (r"rate.?limit|too many requests|blocked by server \(401\)", RateLimited),
        (
            r"confirm your age|age.?restricted|inappropriate for some users|sensitive content|\bNSFW\b",
            AgeRestricted,
        ),
        (r"(?:not|n't).{0,40}available.{0,40}(?:your|this) (?:country|location|region)", GeoBlocked),
        (r"in your country|geo.?restrict|geo.?block|blocked by decision of", GeoBlocked),
        (
            r"private (?:video|playlist|subreddit)|(?:is|set to) private|members.only|channel.s members|supporter",
            Private,
        ),
        (r"join this channel|(?:need to |not )?logged.?in|(?:need to|redirected to the) log.?in", Private),
        (r"log.?in (?:required|details are needed)|sign(?:ed)? in|registered users|not authorized", Private),
        (r"requires? (?:authentication|payment|purchase)|need to purchase", Private),
        (r"protected (?:by|with) (?:a )?password", Private),
        (r"authentication is required|account that has (?:opted in|been approved)|video password", Private),
        (r"DRM.protected|requested format is not available", FormatMissing),
        (r"(?:video|event|content|tweet|#\d+).{0,12} (?:is )?unavailable", Gone),
        (r"(?:video|recording) (?:is )?not available", Gone),
        (
            r"has been removed|no longer (?:available|exists)|been terminated|been deleted|content is unreachable",
            Gone,
        ),
        (
            r"removed by the (?:user|uploader)|does(?: not|n't) exist|content isn't available|not archived",
            Gone,
        ),
        (
            r"(?:channel|space|video|user|playlist)\b.{0,60} not found|livestream has ended|replay is disabled",
            Gone,
        ),
        (r"no space left on device|disk quota exceeded", DiskFull),
        (
            r"temporarily unavailable|network error|disconnected at|incomplete .{0,20}data received",
            NetworkFailure,
        ),
    )
)
STATUS_CLASSES: Mapping[int, type[AvgenError]] = {
    401: Private,
    402: Private,
    403: Private,
    404: Gone,
    407: NetworkFailure,
    408: FetchTimeout,
    410: Gone,
    413: TooLarge,
    425: RateLimited,
    429: RateLimited,
    451: GeoBlocked,
}
_TIMEOUT = re.compile(r"timed? ?out", re.IGNORECASE)
_NETWORK = re.compile(
    r"connection (?:refused|reset|aborted|broken)|remote end closed|failed to resolve"
    r"|name or service not known|name resolution|network is unreachable|no route to host"
    r"|more expected|incompleteread|downloaded \d+ bytes, expected|broken pipe|unable to connect"
    r"|max retries exceeded|\bssl\b|\bproxy\b",
    re.IGNORECASE,
)
_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})
_DISK_ERRNOS = frozenset({errno.EIO, errno.EROFS})
_CLASS_BY_CODE: dict[str, type[AvgenError]] = {
    value.code: value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, AvgenError)
}
_GEO_CLASS = "GeoRestrictedError"


def error_named(code: str, message: str, until_s: float) -> AvgenError:
    """The error of a class that another process names by its `code`."""
    error_class = _CLASS_BY_CODE[code]
    return Deferred(message, until_s) if error_class is Deferred else error_class(message)


def classify(err: BaseException) -> AvgenError:
    """The project's error for what yt-dlp raised, with the first error's own message on one line.

    An `AvgenError` anywhere in the chain is returned as it is: our own hooks raise them inside yt-dlp.
    """
    chain = tuple(_chain(err))
    for link in chain:
        if isinstance(link, AvgenError):
            return link
    return _error_class(chain)(clean_message(str(err)))


def clean_message(text: str) -> str:
    """`text` on one line, without colour codes, `ERROR:` and requests to report an issue."""
    without_codes = _ANSI.sub("", text).strip()
    shortened = _BOILERPLATE.sub("", _ERROR_PREFIX.sub("", without_codes))
    return " ".join(shortened.split())[:_MESSAGE_MAX_CHARS] or "no message"


def _chain(err: BaseException) -> Iterator[BaseException]:
    """The error and all that caused it, outermost first; yt-dlp keeps causes in `exc_info` and `cause`."""
    pending, seen = [err], set[int]()
    while pending:
        link = pending.pop(0)
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        exc_info = getattr(link, "exc_info", None) or (None, None, None)
        causes = (exc_info[1], getattr(link, "cause", None), link.__cause__, link.__context__)
        pending.extend(cause for cause in causes if isinstance(cause, BaseException))


def _error_class(chain: tuple[BaseException, ...]) -> type[AvgenError]:
    said = "\n".join(_said(link) for link in chain)
    for link in chain:
        if isinstance(link, MemoryError):
            return MediaTooLarge
        if isinstance(link, OSError) and link.errno in _FULL_ERRNOS:
            return DiskFull
        if isinstance(link, OSError) and link.errno in _DISK_ERRNOS:
            return StorageUnavailable
        if type(link).__name__ == _GEO_CLASS:
            return GeoBlocked
    for pattern, error_class in _WORDS:
        if any(pattern.search(_said(link)) for link in chain):
            return error_class
    return _http_class(said) or _transport_class(chain, said)


def _said(link: BaseException) -> str:
    """The words of one error without the address or id that it is about."""
    text = getattr(link, "orig_msg", None) or str(link)
    said = _EXTRACTOR_PREFIX.sub("", _ERROR_PREFIX.sub("", _ANSI.sub("", text).strip()))
    return _ADDRESS.sub("", said)


def _http_class(said: str) -> type[AvgenError] | None:
    match = _HTTP_STATUS.search(said)
    if match is None:
        return None
    status = int(match.group(1))
    return NetworkFailure if status >= 500 else STATUS_CLASSES.get(status)


def _transport_class(chain: tuple[BaseException, ...], said: str) -> type[AvgenError]:
    if any(isinstance(link, TimeoutError) for link in chain) or _TIMEOUT.search(said):
        return FetchTimeout
    if any(isinstance(link, ConnectionError) for link in chain) or _NETWORK.search(said):
        return NetworkFailure
    return ExtractorBug
