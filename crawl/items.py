"""What a source is: a canonical address, an optional span of time, and a stable id."""

import hashlib
import math
import os
import re
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path
from urllib.parse import SplitResult, quote, unquote, unquote_to_bytes, urlsplit

from crawl.object_url import canonical_object_url, is_object_url
from crawl.video_pages import video_at
from infra.errors import AvgenError, BlockedByPolicy, ConfigError

_ID_NUM_HEX = 16
_DEFAULT_PORTS = {"http": 80, "https": 443}
# What a URL may carry unquoted, and `%` of what is quoted. Source: RFC 3986, sections 2.2 to 2.4.
_URL_SAFE = "!#$%&'()*+,/:;=?@[]~"
_BARE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_QUOTED = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = re.compile(r"[0-9A-Za-z._~-]")
# Source: RFC 1035, section 2.3.4. Hosts with an underscore exist, against RFC 952.
_HOST_NAME = re.compile(r"(?=.{1,253}\Z)(?:[0-9a-z_-]{1,63}\.)*[0-9a-z_-]{1,63}")
_HOST_AND_PORT = re.compile(r"(?:\[([^][@]+)\]|([^][:@]+))(?::([0-9]{0,5}))?")
_AFTER_AUTHORITY = re.compile(r"[/?#]")
_UP_TO_LAST_AT = re.compile(r".*(?:@|%40)", re.DOTALL)
# Parameters that say where a visitor came from and never what is shown; then those of one domain.
_TRACKING = re.compile(r"utm_\w+|fbclid|gclid|dclid|msclkid|ref_src")
_TRACKING_OF_DOMAIN = {
    "bilibili.com": re.compile(r"spm_id_from|from_spmid|vd_source|share_\w+"),
    "instagram.com": re.compile(r"igsh|igshid"),
    "soundcloud.com": re.compile(r"si"),
    "spotify.com": re.compile(r"si"),
    "tiktok.com": re.compile(r"_[rt]|is_copy_url|is_from_webapp|sender_device|sender_web_id"),
    "twitter.com": re.compile(r"cxt|ref_url|s|t"),
    "x.com": re.compile(r"cxt|ref_url|s|t"),
    "youtu.be": re.compile(r"feature|pp|si"),
    "youtube.com": re.compile(r"ab_channel|feature|pp|si"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceItem:
    """One thing to fetch. Build it with `source_item`, which makes the address canonical."""

    source_id: str
    """16 hex digits; the same on every machine and in every run."""
    url: str
    """Canonical http, https, file or object address."""
    kind: str
    """The source kind that found it, by its name in the registry of kinds."""
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


def unexpanded(item: SourceItem, err: AvgenError) -> UnexpandedSource:
    """The record of what has failed for an address while it was listed."""
    return UnexpandedSource(item=item, code=err.code, message=str(err))


def source_item(
    url: str, *, kind: str, span_start_s: float = 0.0, span_end_s: float = math.inf
) -> SourceItem:
    """The item for an address.

    Raises:
        BlockedByPolicy: as `canonical_url` does.
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
    """The item of an address that may not be fetched, so that its failure has an id.

    The address is as it was written, without user and password, and with `\\ud800` for what no table can hold.
    """
    shown = without_credentials(url).encode("utf-8", "backslashreplace").decode()
    return SourceItem(source_id=_source_id(shown, 0.0, math.inf), url=shown, kind=kind)


def _source_id(canonical: str, start_s: float, end_s: float) -> str:
    identity = f"{canonical} [{start_s!r}, {end_s!r})"
    return hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()[:_ID_NUM_HEX]


def canonical_url(url: str) -> str:
    """One spelling for one address: what differs only by spelling becomes equal.

    The host in lower-case ASCII without a final dot, no default port, quoted only what must be, no `.` and `..`,
    no tracking parameters, no fragment unless it is a route (holds `/`). The addresses of one video on a site that
    `video_key` knows become the address of its page.

    Raises:
        BlockedByPolicy: the scheme is not http, https or file, the address is malformed or holds a password.
    """
    if is_object_url(url):
        return canonical_object_url(url)
    text = url.strip()
    parts = _split(text)
    if parts.scheme == "file":
        return local_path(text).as_uri()
    parts = _normal(parts, text)
    video = video_at(parts)
    return (video.page if video else "") or parts.geturl()


def video_key(url: str) -> str:
    """`youtube:ID`, `tiktok:ID` and so on, the same for every address of a video; empty for any other address.

    The second and later videos of one post have a number: `twitter:ID/2`.
    """
    text = url.strip()
    try:
        video = video_at(_normal(_split(text), text))
    except BlockedByPolicy:
        return ""
    return video.key if video else ""


def without_credentials(url: str) -> str:
    """The address with `***` for its user and password; for all up to the last `@` when the host is malformed."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return _UP_TO_LAST_AT.sub("***@", url, count=1)
    user, at, netloc = _AFTER_AUTHORITY.split(rest, maxsplit=1)[0].rpartition("@")
    try:
        if netloc:
            _netloc(netloc, 0)
    except ValueError:
        return f"{scheme}://{_UP_TO_LAST_AT.sub('***@', rest, count=1)}"
    return f"{scheme}://***@{rest[len(user) + 1 :]}" if at else url


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
        raise _refused("be an absolute path after file://", url)
    return path


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(quote(_BARE_PERCENT.sub("%25", url), safe=_URL_SAFE))
    except ValueError:  # Its text may hold a password: it is not chained, here and below.
        raise _refused("be a valid URL", url) from None


def _refused(duty: str, url: str) -> BlockedByPolicy:
    return BlockedByPolicy(f"an address must {duty}, got {without_credentials(url)!r}")


def _normal(parts: SplitResult, url: str) -> SplitResult:
    """The parts of an http(s) address in normal form; `url` is for messages."""
    if parts.scheme not in _DEFAULT_PORTS or not parts.netloc:
        raise _refused("start with http://, https:// or file://", url)
    if "@" in parts.netloc:
        raise _refused("hold no user and password (put them into fetch.netrc_path)", url)
    try:
        netloc = _netloc(parts.netloc, _DEFAULT_PORTS[parts.scheme])
    except ValueError:
        raise _refused("have a valid host and a port of 0 to 65535", url) from None
    path = _without_dots(_requoted(parts.path)) or "/"
    query = _without_tracking(_requoted(parts.query), netloc)
    fragment = _requoted(parts.fragment) if "/" in parts.fragment else ""
    return SplitResult(parts.scheme, netloc, path, query, fragment)


def _netloc(netloc: str, default_port: int) -> str:
    match = _HOST_AND_PORT.fullmatch(netloc)
    if not match:
        raise ValueError("not a host and a port")
    host = f"[{IPv6Address(match[1]).compressed}]" if match[1] else _host_name(unquote(match[2]))
    port = int(match[3] or default_port)
    if port > 65535:
        raise ValueError("no such port")
    return host if port == default_port else f"{host}:{port}"


def _host_name(name: str) -> str:
    if not name.isascii():
        import idna

        name = idna.encode(name, uts46=True).decode()
    name = name.lower().removesuffix(".")
    if not _HOST_NAME.fullmatch(name):
        raise ValueError("not a host name")
    return name


def _requoted(text: str) -> str:
    """Unreserved characters unquoted, and upper-case digits. Source: RFC 3986, section 6.2.2."""
    return _QUOTED.sub(_requoted_character, text)


def _requoted_character(quoted: re.Match[str]) -> str:
    character = chr(int(quoted[1], 16))
    return character if _UNRESERVED.fullmatch(character) else quoted[0].upper()


def _without_dots(path: str) -> str:
    """The path that clients ask for. Source: RFC 3986, section 5.2.4."""
    if "/." not in path:
        return path
    segments = path.split("/")
    if segments[-1] in {".", ".."}:
        segments.append("")
    kept: list[str] = []
    for segment in segments:
        if segment == "..":
            kept = kept[:1] + kept[1:-1]
        elif segment != ".":
            kept.append(segment)
    return "/".join(kept)


def _without_tracking(query: str, netloc: str) -> str:
    """The other parameters, as they were written and in their order."""
    of_domain = _TRACKING_OF_DOMAIN.get(".".join(netloc.split(".")[-2:]), _TRACKING)
    return "&".join(
        pair
        for pair in query.split("&")
        for name in [pair.partition("=")[0]]
        if not (_TRACKING.fullmatch(name) or of_domain.fullmatch(name))
    )
