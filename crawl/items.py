"""What a source is: a canonical address, an optional span of time, and a stable id."""

import hashlib
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, parse_qsl, quote, unquote_to_bytes, urlencode, urlsplit

from infra.errors import BlockedByPolicy, ConfigError

_ID_NUM_HEX = 16
_DEFAULT_PORTS = {"http": 80, "https": 443}
# What a URL may carry unquoted, and `%` of what is quoted. Source: RFC 3986, sections 2.2 to 2.4.
_URL_SAFE = "!#$%&'()*+,/:;=?@[]~"
_BARE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
# Parameters that say where a visitor came from and never what is shown.
_TRACKING_PARAMETER = re.compile(r"utm_\w+|fbclid|gclid")
_YOUTUBE_HOSTS = frozenset(
    {"youtube.com", "www.youtube.com", "m.youtube.com", "music.youtube.com", "www.youtube-nocookie.com"}
)
# Source: yt-dlp, yt_dlp/extractor/youtube/_video.py, _VALID_URL: 11 of these characters.
_YOUTUBE_ID = re.compile(r"[0-9A-Za-z_-]{11}")
_YOUTUBE_VIDEO_PATH = re.compile(r"/(?:shorts|embed|live|v)/([0-9A-Za-z_-]{11})/?")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceItem:
    """One thing to fetch. Build it with `source_item`, which makes the address canonical."""

    source_id: str
    """16 hex digits; the same on every machine and in every run."""
    url: str
    """Canonical http, https or file address."""
    kind: str
    """The source kind that found it: "dir", "web" or "list"."""
    span_start_s: float = 0.0
    span_end_s: float = math.inf
    """The wanted part is `[span_start_s, span_end_s)`; 0 to infinity is the whole source."""

    def __post_init__(self) -> None:
        """Refuse an empty or negative span, and an id that is not that of the address."""
        if not 0.0 <= self.span_start_s < self.span_end_s:
            span = f"{self.span_start_s} to {self.span_end_s}"
            raise ConfigError(f"a span must satisfy 0 <= start_s < end_s, got {span} ({self.url})")
        expected_id = _source_id(self.url, self.span_start_s, self.span_end_s)
        if self.source_id != expected_id:
            raise ValueError(f"source_id must be {expected_id}, got {self.source_id} ({self.url})")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnexpandedSource:
    """A source whose items could not be listed, or not all of them: it becomes one row of `failures`."""

    item: SourceItem
    """The address that failed, as an item, so that it has an id and can be retried."""
    code: str
    """The `code` of the class of `infra.errors` that says why."""
    message: str


def source_item(
    url: str, *, kind: str, span_start_s: float = 0.0, span_end_s: float = math.inf
) -> SourceItem:
    """The item for an address.

    Raises:
        BlockedByPolicy: the scheme is not http, https or file.
        ConfigError: the span is empty or negative.
    """
    canonical = canonical_url(url)
    start_s, end_s = float(span_start_s), float(span_end_s)
    return SourceItem(
        source_id=_source_id(canonical, start_s, end_s),
        url=canonical,
        kind=kind,
        span_start_s=start_s,
        span_end_s=end_s,
    )


def refused_item(url: str, *, kind: str) -> SourceItem:
    """The item of an address that may not be fetched: as it was written, so that its failure has an id."""
    return SourceItem(source_id=_source_id(url, 0.0, math.inf), url=url, kind=kind)


def _source_id(canonical: str, start_s: float, end_s: float) -> str:
    identity = f"{canonical} [{start_s!r}, {end_s!r})"
    return hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()[:_ID_NUM_HEX]


def canonical_url(url: str) -> str:
    """One spelling for one address: what differs only by spelling becomes equal.

    Lower-case scheme and host, no default port, unsafe characters quoted, no tracking parameters, no fragment
    unless it is a route (holds `/`), and the several addresses of a YouTube video become its watch page.

    Raises:
        BlockedByPolicy: the scheme is not http, https or file, or the address is malformed.
    """
    try:
        parts = urlsplit(quote(_BARE_PERCENT.sub("%25", url.strip()), safe=_URL_SAFE))
    except ValueError as err:
        raise BlockedByPolicy(f"an address must be a valid URL, got {url.strip()!r}: {err}") from err
    if parts.scheme == "file":
        return local_path(url.strip()).as_uri()
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise BlockedByPolicy(f"an address must start with http://, https:// or file://, got {url.strip()!r}")
    video_id = _youtube_id(parts)
    if video_id:
        return f"https://www.youtube.com/watch?v={video_id}"
    fragment = parts.fragment if "/" in parts.fragment else ""
    canonical = parts._replace(
        netloc=_canonical_netloc(parts, url), path=parts.path or "/", query=_without_tracking(parts.query)
    )
    return canonical._replace(fragment=fragment).geturl()


def file_url(path: Path) -> str:
    """The file address of a path, absolute, symbolic links resolved.

    Raises:
        BlockedByPolicy: the system cannot follow the path: a loop of links, a NUL in a name.
    """
    try:
        return path.resolve().as_uri()
    except (OSError, RuntimeError, ValueError) as err:
        raise BlockedByPolicy(
            f"a path must be one that the system can follow, got {str(path)!r}: {err}"
        ) from err


def local_path(url: str) -> Path:
    """The path that a file address names, any byte sequence included."""
    path_text = re.sub(r"^file://(localhost)?", "", url, count=1, flags=re.IGNORECASE)
    path = Path(os.fsdecode(unquote_to_bytes(path_text)))
    if not path.is_absolute():
        raise BlockedByPolicy(f"a file address must be file:// and an absolute path, got {url!r}")
    return path


def _canonical_netloc(parts: SplitResult, url: str) -> str:
    try:
        port = parts.port
    except ValueError as err:
        raise BlockedByPolicy(f"the port of an address must be 0 to 65535, got {url!r}") from err
    user = parts.netloc.rpartition("@")[0]
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else f"{parts.hostname}"
    port_text = "" if port in (None, _DEFAULT_PORTS[parts.scheme]) else f":{port}"
    return f"{user}@{host}{port_text}" if user else f"{host}{port_text}"


def _without_tracking(query: str) -> str:
    """The query with its other parameters as they were, or untouched when there is nothing to drop."""
    pairs = parse_qsl(query, keep_blank_values=True)
    kept = [pair for pair in pairs if not _TRACKING_PARAMETER.fullmatch(pair[0])]
    return query if len(kept) == len(pairs) else urlencode(kept)


def _youtube_id(parts: SplitResult) -> str:
    """The id of a YouTube video, empty when the address is anything else."""
    if parts.hostname == "youtu.be":
        candidate = parts.path.strip("/")
    elif parts.hostname in _YOUTUBE_HOSTS and parts.path == "/watch":
        candidate = parse_qs(parts.query).get("v", [""])[0]
    elif parts.hostname in _YOUTUBE_HOSTS:
        match = _YOUTUBE_VIDEO_PATH.fullmatch(parts.path)
        candidate = match.group(1) if match else ""
    else:
        candidate = ""
    return candidate if _YOUTUBE_ID.fullmatch(candidate) else ""
