"""What is asked to be forgotten, and what of a root that is: sources, clips, files, samples."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any
from urllib.parse import quote

from crawl.blocklist import Block, Blocklist, hashed
from crawl.fetch import part_name
from crawl.items import video_key
from infra.errors import BlockedByPolicy, ConfigError
from infra.store import Store
from pipeline.catalog import Catalog
from pipeline.forget_intent import AuditEntry, Intent
from pipeline.forget_shards import held_samples
from shards.schema import source_of

REASON = "forgotten"
"""Of the blocks that stay."""
KINDS = ("url", "source_id", "channel", "clip_id")
_MIN_LETTERS = 6
"""Of a name that is a word of letters only. Assumption, not measured."""
_SOURCE_ID = re.compile(r"[0-9a-f]{16}")
_CLIP_ID = re.compile(r"[0-9a-f]{16}-[0-9]{8,}-[0-9]{8,}")
_WANTED = {"source_id": (_SOURCE_ID, "16 hex digits"), "clip_id": (_CLIP_ID, "SOURCE_ID-START_MS-END_MS")}

# A row for each way in which a source is known; a page and a video may be known by another address.
_NAMES = """
with names as (
    select source_id, url as page, '' as video_id, '' as channel_id, '' as uploader from sources
    union select source_id, url, coalesce(video_id, ''), coalesce(channel_id, ''), coalesce(uploader, '')
    from fetches
    union select source_id, coalesce(nullif(webpage_url, ''), url), coalesce(video_id, ''),
                 coalesce(channel_id, ''), coalesce(uploader, '') from fetches
)
select * from names
where contains(lower(concat_ws(' ', page, video_id, channel_id, uploader)), lower(?))
   or contains(lower(page), lower(?))
"""
_CLIPS = "select distinct clip_id from raw.clips where {condition} order by 1"
_OWN = """
select distinct {column} from fetches where source_id in (select unnest(?)) and coalesce({column}, '') != ''
and {column} not in (
    select {column} from fetches where source_id not in (select unnest(?)) and {column} is not null
)"""
_OWN_COLUMNS = ("url", "webpage_url", "video_id", "channel_id", "uploader")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One thing that is to be forgotten."""

    kind: str
    """One of `KINDS`."""
    value: str
    """Canonical when built."""

    def __post_init__(self) -> None:
        """Make the value canonical, and refuse one that nothing could match."""
        value = self.value.strip()
        if self.kind in _WANTED:
            form, wanted = _WANTED[self.kind]
            value = value.lower()
            if form.fullmatch(value) is None:
                raise ConfigError(f"--{self.kind.replace('_', '-')} must be {wanted}, got {self.value!r}")
        else:
            value = self.block.value
        object.__setattr__(self, "value", value)

    @property
    def block(self) -> Block:
        """What keeps it from being fetched again; of a clip, its source."""
        match self.kind:
            case "url" | "channel" as kind:
                return Block(kind=kind, value=self.value, reason=REASON)
            case _:
                return Block(kind="id", value=self.value[:16], reason=REASON)

    @property
    def sha256(self) -> str:
        """Of the value."""
        return sha256(self.value.encode("utf-8", "surrogateescape")).hexdigest()


def targets_of(**values: Sequence[str]) -> tuple[Target, ...]:
    """The targets, each once.

    Args:
        values: kind -> values.

    Raises:
        ConfigError: nothing is named, or a value is not one of its kind.
    """
    targets = [Target(kind=kind, value=value) for kind in KINDS for value in values.get(kind, ())]
    if not targets:
        raise ConfigError(
            "something to forget must be named, got nothing; give --url, --source-id, --channel or --clip-id"
        )
    return tuple(dict.fromkeys(targets))


def intent_of(
    targets: Sequence[Target], catalog: Catalog, root: Store, *, run_id: str, now_iso: str
) -> Intent:
    """All that must go for these targets, as the root is now. Nothing is changed."""
    found = [_Found(target, catalog) for target in targets]
    sources = sorted({source_id for one in found for source_id in one.source_ids})
    lone = sorted({one.clip_id for one in found if one.clip_id and source_of(one.clip_id) not in sources})
    clip_ids = _column(catalog, _CLIPS.format(condition="source_id in (select unnest(?))"), [sources])
    # What holds a clip that goes cannot stay, whatever else it holds.
    holders = sorted({*sources, *map(source_of, lone)})
    own = {
        column: _column(catalog, _OWN.format(column=column), [sources, sources]) for column in _OWN_COLUMNS
    }
    media = {
        column: _column(catalog, _OWN.format(column=column), [holders, holders])
        for column in ("sha256", "media_key")
    }
    urls = _own_urls(catalog, sources)
    bundles, cut = _bundles(catalog, sources, lone)
    blocks = [block for target in targets for block in hashed(target.block)]
    blocks += _blocks(sources=holders, urls=urls + own["url"] + own["webpage_url"], own=own, media=media)
    names = {target.value for target in targets}.union(own["channel_id"], own["uploader"])
    words = {*sources, *clip_ids, *lone, *urls}.union(
        *(own[column] for column in ("webpage_url", "video_id"))
    )
    partial = sorted({part_name(url) for url in urls})
    draft = Intent(
        run_id=run_id,
        forgotten_at=now_iso,
        entries=tuple(one.entry() for one in found),
        source_ids=tuple(sources),
        clip_ids=tuple(sorted({*clip_ids, *lone})),
        names=tuple(sorted(name for name in names if _is_telling(name))),
        words=tuple(sorted(words)),
        media_keys=tuple(sorted(media["media_key"])),
        bundle_keys=tuple(bundles),
        cut_keys=tuple(cut),
        partial_names=tuple(partial),
        blocks=tuple(sorted({(block.kind, block.value) for block in blocks})),
        plain_blocks=tuple(_plain_blocks(catalog, blocks)),
        versions=(),
        num_files=0,
        num_samples=0,
    )
    return _counted(draft, root)


class _Found:
    """What a target stands for."""

    def __init__(self, target: Target, catalog: Catalog) -> None:
        self._target, self._catalog = target, catalog
        self.clip_id = target.value if target.kind == "clip_id" else ""
        match target.kind:
            case "source_id":
                self.source_ids = {target.value}
            case "clip_id":
                self.source_ids = set()
            case _:
                self.source_ids = set(_matching_sources(target.block, catalog))

    def entry(self) -> AuditEntry:
        """What is kept of it."""
        condition, value = "source_id in (select unnest(?))", sorted(self.source_ids)
        known = "(select source_id from sources union select source_id from fetches)"
        sources = _column(self._catalog, f"select source_id from {known} where {condition}", [value])
        if self.clip_id:
            clips = _column(self._catalog, _CLIPS.format(condition="clip_id = ?"), [self.clip_id])
        else:
            clips = _column(self._catalog, _CLIPS.format(condition=condition), [value])
        return AuditEntry(
            kind=self._target.kind,
            sha256=self._target.sha256,
            num_sources=len(sources),
            num_clips=len(clips),
        )


def _matching_sources(block: Block, catalog: Catalog) -> Iterator[str]:
    """Sources that the block stops, and listings of it."""
    needle = _needle(block)
    blocklist = Blocklist([block])
    for source_id, page, key, channel_id, uploader in catalog.rows(_NAMES, [needle, quote(needle)]):
        try:
            blocklist.check_video(webpage_url=page, video_key=key, channel_id=channel_id, uploader=uploader)
        except BlockedByPolicy:
            yield source_id
    specs = "select distinct source_id from listings where contains(lower(spec), lower(?))"
    yield from _column(catalog, specs, [needle])


def _needle(block: Block) -> str:
    """What every name of what is blocked contains."""
    if block.kind == "url":
        key = video_key(block.value)
        return key.partition(":")[2] if key else block.value.partition(":")[2]
    is_address = "://" in block.value
    name = block.value.rstrip("/").split("/")
    # The page of a channel, or one of its tabs.
    return _channel_name(name) if is_address else block.value


def _channel_name(parts: Sequence[str]) -> str:
    path = parts[3:]
    return (path[1] if path[0] == "channel" else path[0]).removeprefix("@")


def _own_urls(catalog: Catalog, sources: Sequence[str]) -> list[str]:
    """Addresses that only these sources have."""
    sql = """select distinct url from sources where source_id in (select unnest(?)) and url not in (
                 select url from sources where source_id not in (select unnest(?)))"""
    return _column(catalog, sql, [sources, sources])


def _bundles(catalog: Catalog, sources: Sequence[str], lone: Sequence[str]) -> tuple[list[str], list[str]]:
    """Bundles that go, and those that stay without some clips."""
    keys = """select distinct unnest([bundle_key, embedding_key]) as key from raw.clips
              where {} in (select unnest(?))"""
    some = "select key from ({}) where coalesce(key, '') != '' order by 1"
    whole = _column(catalog, some.format(keys.format("source_id")), [sources])
    cut = _column(catalog, some.format(keys.format("clip_id")), [lone])
    return whole, [key for key in cut if key not in whole]


def _blocks(
    *, sources: Sequence[str], urls: Iterable[str], own: dict[str, list[str]], media: dict[str, list[str]]
) -> Iterator[Block]:
    """What keeps the sources from being fetched again, also from elsewhere."""
    wanted = [("id", source_id) for source_id in sources]
    wanted += [("url", url) for url in urls]
    wanted += [("id", key) for key in own["video_id"]] + [("sha256", value) for value in media["sha256"]]
    for kind, value in wanted:
        try:
            yield from hashed(Block(kind=kind, value=value, reason=REASON))  # type: ignore[arg-type]
        except ConfigError:  # An address that could not be fetched in the first place.
            continue


def _plain_blocks(catalog: Catalog, blocks: Iterable[Block]) -> list[tuple[str, str]]:
    """Entries of the block list that say openly what the blocks hide."""
    hidden = {block.value for block in blocks}
    return [
        (block.kind, block.value)
        for block in catalog.blocks()
        if block.value not in hidden and any(entry.value in hidden for entry in hashed(block))
    ]


def _is_telling(name: str) -> bool:
    """Whether a name may be taken out of texts: one that is an everyday word stays in them."""
    return len(name) >= _MIN_LETTERS or not name.isalpha()


def _counted(draft: Intent, root: Store) -> Intent:
    held = held_samples(root, draft)
    keys = [*draft.media_keys, *draft.bundle_keys, *draft.cut_keys]
    return replace(
        draft,
        versions=tuple((one.dataset, one.version) for one in held),
        num_files=sum(root.size_bytes(key) is not None for key in keys),
        num_samples=sum(one.num_samples for one in held),
    )


def _column(catalog: Catalog, sql: str, parameters: Sequence[Any]) -> list[Any]:
    return [row[0] for row in catalog.rows(sql, list(parameters))]
