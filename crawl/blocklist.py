"""What must never be fetched or kept: addresses, channels, videos and files that were taken down. Pure."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Literal
from urllib.parse import unquote, urlsplit

from crawl import items
from crawl.items import SourceItem
from infra.errors import BlockedByPolicy, ConfigError

_SHA256 = re.compile(r"[0-9a-f]{64}")
_HASHED = re.compile(r"sha256:[0-9a-f]{64}")
_SOURCE_ID = re.compile(r"[0-9a-f]{16}")
_VIDEO_KEY = re.compile(r"(?P<site>[^\s:/]+):(?P<id>[^\s/]\S*)")
_ADDRESS = re.compile(r"https?://", re.IGNORECASE)
# The page of a channel, also one of its tabs. What follows /c/ and /user/ on YouTube is in no record of a video.
_CHANNEL_PATH = re.compile(
    r"/(?:channel/)?(?!(?:c|channel|user)(?:/|\Z))(?P<name>[^/]+)"
    r"(?:/(?:about|featured|live|playlists|reels|shorts|streams|videos?))?/?"
)
_SAME_SITE = {"twitter.com": "x.com"}


BlockKind = Literal["url", "channel", "id", "sha256"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One entry of the block list."""

    kind: BlockKind
    """What `value` is: an address, a channel, a source or video, the bytes of a file."""
    value: str
    """Canonical when built. An address stands for all spans and all addresses of its video; a channel or uploader
    id holds on every site, the address of a channel on its own; an id is a `source_id` or an `items.video_key`.
    `sha256:` and 64 hex digits stand for a value that is not told: see `hashed`."""
    reason: str
    """Why; it is in the failure of each source that this stops."""

    def __post_init__(self) -> None:
        """Make the value canonical, and refuse one that nothing could match."""
        value = _canonical(self.kind, self.value.strip())
        if not value:
            wanted, shown = _WANTED.get(self.kind, _KINDS), items.without_credentials(self.value)
            raise ConfigError(f"a block of kind {self.kind!r} must have {wanted}, got {shown!r}")
        object.__setattr__(self, "value", value)


class Blocklist:
    """All blocks of a run. A check costs the same however many there are."""

    def __init__(self, blocks: Iterable[Block]) -> None:
        self._blocks = {name: block for block in blocks for name in _names_of_block(block)}
        self._has_hashes = any(_HASHED.fullmatch(name) for name in self._blocks)

    def check_item(self, item: SourceItem) -> None:
        """Before anything is asked.

        Raises:
            BlockedByPolicy: its id, its address, the video or the channel that the address names is blocked.
        """
        if self._blocks:
            self._refuse(item.url, [item.source_id, *_names_of_address(item.url)])

    def check_video(
        self, *, webpage_url: str, video_key: str, channel_id: str, uploader: str, uploader_id: str = ""
    ) -> None:
        """When it is known what an address shows, before it is downloaded; what is not known is empty.

        Raises:
            BlockedByPolicy: the page, the video, its channel or its uploader is blocked.
        """
        if self._blocks:
            people = {channel_id, uploader, uploader_id} - {""}
            site = _site(_canonical_address(webpage_url))
            names = [*_names_of_address(webpage_url), *_names_of_key(_canonical_key(video_key))]
            names += [name for person in people for name in (f"channel {person}", _channel(site, person))]
            self._refuse(webpage_url, names)

    def check_bytes(self, sha256: str) -> None:
        """Before a file is kept.

        Raises:
            BlockedByPolicy: these bytes are blocked.
        """
        self._refuse(f"sha256 {sha256}", [sha256.lower()])

    def _refuse(self, subject: str, names: Iterable[str]) -> None:
        for name in names:
            block = self._blocks.get(name)
            if block is None and self._has_hashes:
                block = self._blocks.get(_hash_of(name))
            if block:
                reason = " ".join(block.reason.split())
                raise BlockedByPolicy(
                    f"a source must not be on the block list, {subject} is: {block.kind} {block.value} ({reason})"
                )


def hashed(block: Block) -> list[Block]:
    """The same block as entries that hold only hashes: one for each name that it is looked up by."""
    return [replace(block, value=_hash_of(name)) for name in _names_of_block(block)]


_KINDS = "the kind url, channel, id or sha256"
_WANTED = {
    "url": "an http, https or file address without a password",
    "channel": "a channel or uploader id, or the address of a channel (on YouTube /channel/UC... or /@...)",
    "id": "a source_id of 16 hex digits or a video such as youtube:ID",
    "sha256": "64 hex digits",
}


def _canonical(kind: str, value: str) -> str:
    """The one spelling of a value; empty when it is malformed."""
    if _HASHED.fullmatch(value) and kind in _WANTED:
        return value
    match kind:
        case "url":
            value = _canonical_address(value)
        case "channel":
            value = _canonical_channel(value) if _ADDRESS.match(value) else value
        case "id":
            value = value.lower() if _SOURCE_ID.fullmatch(value.lower()) else _canonical_key(value)
        case "sha256":
            value = value.lower() if _SHA256.fullmatch(value.lower()) else ""
        case _:
            value = ""
    return value


def _canonical_channel(url: str) -> str:
    address = _canonical_address(url)
    return address if _CHANNEL_PATH.fullmatch(urlsplit(address).path) else ""


def _canonical_address(url: str) -> str:
    try:
        return items.canonical_url(url)
    except BlockedByPolicy:
        return ""


def _canonical_key(key: str) -> str:
    match = _VIDEO_KEY.fullmatch(key)
    return f"{match['site'].lower()}:{match['id'].removesuffix('/1')}" if match else ""


def _names_of_block(block: Block) -> Iterator[str]:
    """What a subject is looked up by to find this block."""
    if _HASHED.fullmatch(block.value):
        yield block.value
    elif block.kind == "url":
        yield _without_scheme(block.value)
        if key := items.video_key(block.value):
            yield key
    elif block.kind == "channel":
        match = _CHANNEL_PATH.fullmatch(urlsplit(block.value).path) if _ADDRESS.match(block.value) else None
        yield _channel(_site(block.value), match["name"]) if match else f"channel {block.value}"
    else:
        yield block.value


def _names_of_address(url: str) -> Iterator[str]:
    """Its address, its video, and the channel that its path may begin with; none for a malformed one."""
    address = _canonical_address(url)
    if address:
        yield _without_scheme(address)
        yield from _names_of_key(items.video_key(address))
        yield _channel(_site(address), urlsplit(address).path.split("/")[1])


def _names_of_key(key: str) -> Iterator[str]:
    """The video itself, and the post that it is one of several videos of."""
    yield key
    yield key.partition("/")[0]


def _hash_of(name: str) -> str:
    return f"sha256:{sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()}"


def _without_scheme(url: str) -> str:
    """What is blocked on http is blocked on https."""
    return url.removeprefix("https:").removeprefix("http:")


def _site(url: str) -> str:
    domain = ".".join((urlsplit(url).hostname or "").split(".")[-2:])
    return _SAME_SITE.get(domain, domain)


def _channel(site: str, name: str) -> str:
    """A channel of one site, by the name in its address; it has no case, and some sites write `@` before it."""
    return f"channel {site}/{unquote(name).removeprefix('@').lower()}"
