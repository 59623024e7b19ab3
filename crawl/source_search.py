"""`search:[SITE:][N:]QUERY` and `hashtag:[N:]TAG`: the first N videos that a site finds.

SITE is `youtube` when left out; a site shows some hundreds of hits, whatever N is (assumption, not measured). Hits
change from day to day; ids make a video that is found again one source. The page with the hits is what is listed,
and robots.txt is heeded for it as for any other: published copies of YouTube's forbid `/results`, so that a search
there is `blocked_by_policy` unless the operator sets `fetch.obey_robots=false`. Its hashtags are not forbidden.
"""

import re
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple
from urllib.parse import quote

from crawl.items import SourceItem, UnexpandedSource, source_item
from crawl.source_web import listed
from crawl.web import Web
from infra.errors import ConfigError

_DEFAULT_NUM_ENTRIES = 50
_MAX_NUM_ENTRIES = 10_000
_NUMBER = re.compile(r"\d{1,9}", re.ASCII)
_SITE = re.compile(r"[A-Za-z]\w*", re.ASCII)
_TAG = re.compile(r"\w+")

# Pages with hits that yt-dlp lists. `sp` asks for videos only, no channels.
# Source: yt-dlp 2026.10.26, yt_dlp/extractor/youtube/_search.py, _SEARCH_PARAMS, and niconico.py.
_PAGES = {
    "youtube": "https://www.youtube.com/results?search_query={}&sp=EgIQAfABAQ%3D%3D",
    "niconico": "https://www.nicovideo.jp/search/{}",
}
_HASHTAG_PAGE = "https://www.youtube.com/hashtag/{}"


class Search(NamedTuple):
    """What a spec asks for."""

    page: str
    """The address with the hits."""
    num_entries: int


def expand_search(spec: str, web: Web, first_index: int) -> Iterator[SourceItem | UnexpandedSource]:
    """Items for what a site finds.

    Raises:
        ConfigError: no query, a number out of bounds, or a site that cannot be searched.
    """
    return hits(search_of(spec), web, kind="search", first_index=first_index)


def expand_hashtag(spec: str, web: Web, first_index: int) -> Iterator[SourceItem | UnexpandedSource]:
    """Items for the videos that YouTube shows for a hashtag.

    Raises:
        ConfigError: that is no tag, or a number out of bounds.
    """
    return hits(hashtag_of(spec), web, kind="hashtag", first_index=first_index)


def search_seed(spec: str) -> SourceItem:
    """The page that shows what a `search:` finds, as an item."""
    return source_item(search_of(spec).page, kind="search")


def hashtag_seed(spec: str) -> SourceItem:
    """The page of a hashtag, as an item."""
    return source_item(hashtag_of(spec).page, kind="hashtag")


def search_of(spec: str) -> Search:
    """What a `search:` asks for.

    Raises:
        ConfigError: no query, a number out of bounds, or a site that cannot be searched.
    """
    words = spec.partition(":")[2]
    name, has_colon, rest = words.partition(":")
    if not has_colon or not _SITE.fullmatch(name):
        name, rest = "youtube", words
    page = _PAGES.get(name.lower())
    if page is None:
        sites = ", ".join(_PAGES)
        raise ConfigError(
            f"search: the site must be one of {sites}, got {name!r}; search:youtube:{words} finds the words"
        )
    num_entries, query = _numbered(spec, rest)
    if not query:
        raise ConfigError(f"search: must have a query, as in search:200:rain on a tin roof, got {spec!r}")
    return Search(page.format(quote(query, safe="")), num_entries)


def hashtag_of(spec: str) -> Search:
    """What a `hashtag:` asks for.

    Raises:
        ConfigError: that is no tag, or a number out of bounds.
    """
    num_entries, text = _numbered(spec, spec.partition(":")[2])
    tag = text.removeprefix("#")
    if not _TAG.fullmatch(tag):
        raise ConfigError(f"hashtag: must be one word of letters, digits and _, got {spec!r}")
    return Search(_HASHTAG_PAGE.format(quote(tag, safe="")), num_entries)


def hits(search: Search, web: Web, *, kind: str, first_index: int) -> Iterator[SourceItem | UnexpandedSource]:
    """What the page lists, up to the number that is asked for."""
    found = listed(source_item(search.page, kind=kind), web, first_index)
    return islice(found, max(0, search.num_entries - first_index))


def _numbered(spec: str, text: str) -> tuple[int, str]:
    """The number before the colon, or the default, and the text after it."""
    number, has_colon, rest = text.partition(":")
    if not has_colon or not _NUMBER.fullmatch(number):
        return _DEFAULT_NUM_ENTRIES, text.strip()
    if not 1 <= int(number) <= _MAX_NUM_ENTRIES:
        raise ConfigError(f"the number of entries must be 1 to {_MAX_NUM_ENTRIES}, got {number} in {spec!r}")
    return int(number), rest.strip()
