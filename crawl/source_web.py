"""An http(s) address: one video, or a page, playlist, channel or feed that lists several."""

from collections.abc import Iterator

from crawl.items import SourceItem, UnexpandedSource, refused_item, source_item
from crawl.policy import FetchConfig
from crawl.ytdlp import list_entries
from infra.errors import AvgenError, BlockedByPolicy, ConfigError, MediaError, NotMedia, TransientError


def expand_web(spec: str, config: FetchConfig) -> Iterator[SourceItem | UnexpandedSource]:
    """Items for the videos behind the address, as yt-dlp lists them without opening each.

    Raises:
        ConfigError: the address is malformed. Whatever the network says becomes an `UnexpandedSource`.
    """
    try:
        seed = source_item(spec, kind="web")
    except BlockedByPolicy as err:
        raise ConfigError(str(err)) from err
    return _entries(seed, config)


def _entries(seed: SourceItem, config: FetchConfig) -> Iterator[SourceItem | UnexpandedSource]:
    num_entries = 0
    try:
        for url in list_entries(seed.url, config=config):
            num_entries += 1
            yield _entry(url, seed)
        if num_entries == 0:
            raise NotMedia(f"the address must list at least one video, got an empty list ({seed.url})")
    except (MediaError, TransientError) as err:
        yield _failure(seed, err)


def _entry(url: str, seed: SourceItem) -> SourceItem | UnexpandedSource:
    """The item of one entry; an entry of a web page must be on the web, never a file of this machine."""
    try:
        if not url.lower().startswith(("http://", "https://")):
            raise BlockedByPolicy(f"an entry must be an http(s) address, got {url!r} (listed by {seed.url})")
        return source_item(url, kind="web")
    except BlockedByPolicy as err:
        return _failure(refused_item(url, kind="web"), err)


def _failure(item: SourceItem, err: AvgenError) -> UnexpandedSource:
    return UnexpandedSource(item=item, code=err.code, message=str(err))
