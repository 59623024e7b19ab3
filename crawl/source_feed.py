"""`feed:URL`: the entries of an RSS, Media RSS, Atom or JSON feed and of its further pages.

An entry is one source: its video enclosure, else one of unknown type, else one of sound, else its page. The index
of an entry is its place in the feed, counted over all pages; a feed that has grown at its head since an earlier
call yields some entries twice and loses none. Only the bytes that `Http` has read are parsed, from the root
element on, without a document type: there are no entities to expand and nothing more is opened.
"""

import codecs
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urljoin
from xml.parsers import expat

from crawl.answer import one_line
from crawl.http import Page
from crawl.items import SourceItem, UnexpandedSource, refused_item, source_item, unexpanded
from crawl.source_dir import is_media_name
from crawl.web import Web
from infra.errors import (
    BlockedByPolicy,
    ConfigError,
    MediaError,
    NotMedia,
    TooLarge,
    TransientError,
)

# Some 30,000 entries.
_PAGE_MAX_BYTES = 8 * 1024**2
_MAX_PAGES = 1000
# What would take feedparser, a parser in Python, hours: of deep trees and of tags with very many attributes its
# time grows with the square, and what is malformed it reads ten times as slowly. Source: measured on feedparser
# 6.0.14, 2026-11-23: 1.1 s a MiB; 68 s for 57,000 attributes; 40 s for 25,000 levels with an `xml:base` each.
_MAX_LEVELS = 200
_MAX_ATTRIBUTES = 200
_MALFORMED_MAX_BYTES = 1024**2
_BASE = re.compile(rb"[\s\"'](?:xml:)?base\s*=", re.IGNORECASE)
_ACCEPT = "application/rss+xml, application/atom+xml, application/feed+json, application/xml;q=0.9, */*;q=0.8"
_ROOT = re.compile(r"<(?:\w+:)?(?:rss|feed|rdf|channel)[\s>]", re.IGNORECASE)
_DECLARED_CHARSET = re.compile(rb"<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([A-Za-z0-9._-]{1,40})")
# Codecs that are no character sets of feeds, or whose time grows with the square of the length.
_ODD_CODECS = frozenset({"idna", "punycode", "raw-unicode-escape", "unicode-escape", "utf-7"})
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
# Source: RFC 5005, sections 3 and 4.
_NEXT_RELS = ("next", "prev-archive")
_MANIFEST_TYPES = ("application/vnd.apple.mpegurl", "application/x-mpegurl", "application/dash+xml")
# feedparser says text/html of a link without a type.
_UNKNOWN_TYPES = ("", "application/octet-stream", "binary/octet-stream", "text/html")


class _Enclosure(NamedTuple):
    url: str
    content_type: str
    is_default: bool = False


class _Entry(NamedTuple):
    name: str
    """What the feed calls it, for messages."""
    enclosures: list[_Enclosure]
    page_url: str


class _FeedPage(NamedTuple):
    entries: list[_Entry]
    next_url: str
    """Empty on the last page."""


def expand_feed(spec: str, web: Web, first_index: int) -> Iterator[SourceItem | UnexpandedSource]:
    """Items for the entries of the feed, in its order; a failure of a page is one of the feed and comes last.

    Raises:
        ConfigError: the address is malformed. Whatever the network says becomes an `UnexpandedSource`.
    """
    return _listed(feed_seed(spec), web, first_index)


def feed_seed(spec: str) -> SourceItem:
    """The address of the feed as an item.

    Raises:
        ConfigError: it is malformed.
    """
    url = spec[len("feed:") :].strip()
    try:
        _require_web(url, "feed:")
        return source_item(url, kind="feed")
    except BlockedByPolicy as err:
        raise ConfigError(str(err)) from err


def _listed(seed: SourceItem, web: Web, first_index: int) -> Iterator[SourceItem | UnexpandedSource]:
    num_entries = 0
    try:
        for entry, address in _addresses(seed.url, web):
            num_entries += 1
            if num_entries > first_index:
                yield _source(entry, address, seed)
        if num_entries == 0:
            raise NotMedia(f"a feed must have at least one entry, this has none ({seed.url})")
    except (MediaError, TransientError) as err:
        yield unexpanded(seed, err)


def _addresses(first_url: str, web: Web) -> Iterator[tuple[_Entry, str]]:
    """The entries of all pages, each with the address that stands for it, empty when it has none.

    A page on which every address was met before ends the feed: it is a loop, or the last page again and again.
    """
    url, met = first_url, set[int]()
    for _ in range(_MAX_PAGES):
        answer = web.http.read(url, max_bytes=_PAGE_MAX_BYTES, headers={"Accept": _ACCEPT})
        page = _parsed(answer)
        found = [(entry, _joined(answer.url, _address(entry))) for entry in page.entries]
        keys = {hash(address or entry.name) for entry, address in found}
        if keys <= met:
            return
        met |= keys
        yield from found
        if not page.next_url:
            return
        url = _joined(answer.url, page.next_url)
        _require_web(url, "the next page of a feed")
    raise TooLarge(f"a feed must have at most {_MAX_PAGES} pages, this goes on ({url})")


def _source(entry: _Entry, address: str, seed: SourceItem) -> SourceItem | UnexpandedSource:
    try:
        if not address:
            raise NotMedia(
                f"an entry must have an enclosure or a page, got none ({entry.name!r} of {seed.url})"
            )
        _require_web(address, f"an entry of {seed.url}")
        return source_item(address, kind=seed.kind)
    except (BlockedByPolicy, NotMedia) as err:
        return unexpanded(refused_item(address or f"{seed.url}#{entry.name}", kind=seed.kind), err)


def _require_web(url: str, what: str) -> None:
    if not url.lower().startswith(("http://", "https://")):
        raise BlockedByPolicy(f"{what} must be an http(s) address, got {url!r}")


def _joined(base: str, url: str) -> str:
    """A relative address made absolute; one that is none stays as it is, to be refused."""
    try:
        return urljoin(base, url) if url else ""
    except ValueError:
        return url


def _address(entry: _Entry) -> str:
    ranked = [(_rank(enclosure), not enclosure.is_default, enclosure.url) for enclosure in entry.enclosures]
    media = sorted((found for found in ranked if found[0] is not None and found[2]), key=lambda it: it[:2])
    return media[0][2] if media else entry.page_url


def _rank(enclosure: _Enclosure) -> int | None:
    """0 for a video, 1 for what may be one, 2 for sound, None for a picture, a text, a torrent."""
    content_type = enclosure.content_type.partition(";")[0].strip().lower()
    if content_type.startswith("video") or content_type in _MANIFEST_TYPES:
        return 0
    if content_type in _UNKNOWN_TYPES:
        return 0 if is_media_name(enclosure.url.partition("?")[0]) else 1
    return 2 if content_type.startswith("audio") else None


def _parsed(answer: Page) -> _FeedPage:
    """The entries of one page.

    Raises:
        NotMedia: it is no feed.
    """
    text = _text(answer.body)
    if text.lstrip().startswith("{"):
        return _of_json(text, answer.url)
    root = _ROOT.search(text)
    if root is None:
        raise NotMedia(f"a feed must be RSS, Atom or JSON Feed, got {answer.content_type} ({answer.url})")
    content = text[root.start() :].encode("utf-8", "replace")
    return _of_xml(_quick(content, answer.url), answer.url)


def _text(body: bytes) -> str:
    """The body as text, by its byte order mark or XML declaration, else UTF-8."""
    for mark, codec in _BOMS:
        if body.startswith(mark):
            return body.decode(codec, "replace")
    declared = _DECLARED_CHARSET.match(body)
    name = declared[1].decode() if declared else ""
    return body.decode(name if _is_charset(name) else "utf-8", "replace")


def _is_charset(name: str) -> bool:
    try:
        return codecs.lookup(name).name not in _ODD_CODECS and bool(b"a".decode(name))
    except (LookupError, ValueError):
        return False


def _quick(content: bytes, url: str) -> bytes:
    """The XML, without bases where it is malformed.

    Raises:
        NotMedia: feedparser would take long for it.
    """
    parser, num_levels = expat.ParserCreate("utf-8"), 0

    def begin(name: str, attributes: Mapping[str, str]) -> None:
        nonlocal num_levels
        num_levels += 1
        if num_levels > _MAX_LEVELS or len(attributes) > _MAX_ATTRIBUTES:
            found = f"{num_levels} levels and {len(attributes)} attributes"
            raise NotMedia(f"a feed must be made of simple elements, got {found} ({url})")

    def end(name: str) -> None:
        nonlocal num_levels
        num_levels -= 1

    parser.StartElementHandler, parser.EndElementHandler = begin, end
    try:
        parser.Parse(content, True)
    except expat.ExpatError as err:
        if len(content) > _MALFORMED_MAX_BYTES:
            raise NotMedia(f"a feed so large must be well-formed, got {err} ({url})") from err
        return _BASE.sub(b" no-base=", content)  # How deep they are nested is not known.
    return content


def _of_xml(content: bytes, url: str) -> _FeedPage:
    parsed = _read_by_feedparser(content, url)
    if not parsed.entries and parsed.bozo:
        raise NotMedia(f"a feed must be well-formed, got {one_line(str(parsed.bozo_exception))} ({url})")
    links = {link.get("rel"): link.get("href", "") for link in reversed(parsed.feed.get("links", []))}
    next_url = next((links[rel] for rel in _NEXT_RELS if links.get(rel)), "")
    return _FeedPage([_of_xml_entry(entry) for entry in parsed.entries], next_url)


def _read_by_feedparser(content: bytes, url: str) -> Any:
    import feedparser

    headers = {"content-type": "application/xml; charset=utf-8", "content-location": url}
    # Of text or an address it would open what that names; a stream it only reads.
    stream = io.BytesIO(content)
    try:
        return feedparser.parse(
            stream, response_headers=headers, sanitize_html=False, resolve_relative_uris=False
        )
    except Exception as err:  # noqa: BLE001 - what a hostile feed may do to this parser is not known
        return feedparser.FeedParserDict(entries=[], feed={}, bozo=True, bozo_exception=err)


def _of_xml_entry(entry: Mapping[str, Any]) -> _Entry:
    links = [link for link in entry.get("links", ()) if link.get("rel") == "enclosure"]
    enclosures = [_Enclosure(link.get("href") or "", link.get("type") or "") for link in links]
    for media in entry.get("media_content", ()):
        content_type = media.get("type") or media.get("medium") or ""
        is_default = media.get("isdefault") == "true"
        enclosures.append(_Enclosure(media.get("url") or "", content_type, is_default))
    for content in entry.get("content", ()):  # Atom keeps it elsewhere.
        enclosures.append(_Enclosure(content.get("src") or "", content.get("type") or ""))
    return _Entry(entry.get("id") or entry.get("title") or "", enclosures, entry.get("link") or "")


def _of_json(text: str, url: str) -> _FeedPage:
    """Source: JSON Feed version 1.1, jsonfeed.org."""
    try:
        feed = json.loads(text)
    except (ValueError, RecursionError) as err:
        raise NotMedia(f"a JSON feed must be JSON, got {err} ({url})") from err
    items = feed.get("items")
    if not isinstance(items, list):
        raise NotMedia(f"a JSON feed must have items, got none ({url})")
    return _FeedPage([_of_json_item(item) for item in _objects(items)], _string(feed.get("next_url")))


def _of_json_item(item: Mapping[str, object]) -> _Entry:
    attachments = [
        _Enclosure(_string(attachment.get("url")), _string(attachment.get("mime_type")))
        for attachment in _objects(item.get("attachments"))
    ]
    page_url = _string(item.get("url")) or _string(item.get("external_url"))
    return _Entry(_string(item.get("id")) or _string(item.get("title")), attachments, page_url)


def _objects(values: object) -> Iterable[Mapping[str, object]]:
    """The objects of a JSON array; what else stands there is an object that says nothing."""
    return [value if isinstance(value, dict) else {} for value in values] if isinstance(values, list) else []


def _string(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""
