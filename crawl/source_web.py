"""An http(s) address: a media file or manifest, or a page, playlist, channel or feed that lists several videos.

An address that ends like a media file is one item, and the network is not asked; all others are listed by an
extractor when the iterator is advanced.
"""

import re
from collections.abc import Iterator

from crawl.formats import Entry
from crawl.items import SourceItem, UnexpandedSource, refused_item, source_item, unexpanded
from crawl.source_dir import MEDIA_SUFFIXES
from crawl.web import Web
from infra.errors import BlockedByPolicy, ConfigError, MediaError, NotMedia, TransientError

VIDEO_SUFFIXES = tuple(sorted(MEDIA_SUFFIXES))
HLS_SUFFIXES = (".m3u8",)
DASH_SUFFIXES = (".mpd",)


def expand_web(spec: str, web: Web, first_index: int) -> Iterator[SourceItem | UnexpandedSource]:
    """Items for the videos behind the address, as they are listed without opening each.

    Raises:
        ConfigError: the address is malformed. Whatever the network says becomes an `UnexpandedSource`.
    """
    return listed(address_item(spec, kind="web"), web, first_index)


def expand_media(spec: str, web: Web, first_index: int, *, kind: str) -> Iterator[SourceItem]:
    """The one item of the address of a media file or manifest.

    Raises:
        ConfigError: the address is malformed.
    """
    return iter((address_item(spec, kind=kind),)[first_index:])


def is_plain_media(url: str) -> bool:
    """Whether an address ends like a media file, which can be read without an extractor."""
    return has_suffix(url, VIDEO_SUFFIXES)


def has_suffix(url: str, suffixes: tuple[str, ...]) -> bool:
    """Whether the path of an address ends so; `https://example.mov` has no path."""
    path = re.split(r"[?#]", url, maxsplit=1)[0].partition("://")[2].partition("/")[2]
    return path.lower().endswith(suffixes)


def address_item(url: str, *, kind: str) -> SourceItem:
    """The item of an address that the operator wrote.

    Raises:
        ConfigError: it is malformed.
    """
    try:
        return source_item(url, kind=kind)
    except BlockedByPolicy as err:
        raise ConfigError(str(err)) from err


def listed(seed: SourceItem, web: Web, first_index: int) -> Iterator[SourceItem | UnexpandedSource]:
    """What an extractor lists behind an address, from one entry on, as items of the kind of `seed`.

    A failure of the listing is one of the seed, and comes last.
    """
    num_entries = 0
    try:
        for entry in web.extractors.entries(seed.url, first_index=first_index):
            num_entries += 1
            yield _source(entry, seed)
        if num_entries == first_index == 0:
            raise NotMedia(f"the address must list at least one video, got an empty list ({seed.url})")
    except (MediaError, TransientError) as err:
        yield unexpanded(seed, err)


def _source(entry: Entry, seed: SourceItem) -> SourceItem | UnexpandedSource:
    """The item of one entry; an entry of a web page must be on the web, never a file of this machine."""
    try:
        if not entry.url.lower().startswith(("http://", "https://")):
            raise BlockedByPolicy(
                f"an entry must be an http(s) address, got {entry.url!r} (listed by {seed.url})"
            )
        if entry.kind == "list":
            raise NotMedia(
                f"a list in a list must be a source of its own; give it as one (listed by {seed.url})"
            )
        return source_item(entry.url, kind=seed.kind)
    except (BlockedByPolicy, NotMedia) as err:
        return unexpanded(refused_item(entry.url, kind=seed.kind), err)
