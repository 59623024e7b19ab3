"""Every kind of source, in one table: what a spec looks like, what it stands for, and its defaults.

A module of a kind imports `Web` from `crawl/web.py`, never this one.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from pydantic import ValidationError

from crawl import source_bucket, source_dir, source_feed, source_list, source_search, source_web
from crawl.items import SourceItem, UnexpandedSource, refused_item
from crawl.object_url import object_name
from crawl.policy import FetchConfig, FormatChange, FormatPolicy
from crawl.rows import Table
from crawl.source_audioset import audioset_clips
from crawl.source_clip_list import acav_clips, expand_openvid, hdvila_clips, panda70m_clips
from crawl.source_vggsound import vggsound_clips
from crawl.web import Web
from crawl.youtube import LICENCE, Clip, expand_clips
from infra.errors import ConfigError

__all__ = ["KINDS", "Expander", "Kind", "Web", "check_kinds", "format_policy", "kind_of", "licence_of"]

# The whole spec, how to ask the web, and how many of its entries are passed over, because an earlier call yielded
# them. An expander checks what the operator wrote when it is called (ConfigError) and returns a lazy iterator that
# raises nothing for the network's sake.
Expander = Callable[[str, Web, int], Iterator[SourceItem | UnexpandedSource]]

_UNKNOWN = "unknown"
_UNCHANGED = FormatChange()
# What a search turns up is unseen: hours of loops and live recordings among it. Assumption, not measured.
_FOUND_BY_WORDS = FormatChange(max_duration_s=3600.0)


def _no_seed(spec: str) -> None:
    """For kinds whose specs name a file, a folder or a video itself."""


def _bucket_seed(spec: str) -> SourceItem:
    """A prefix is no address of an object, so that it has no canonical form but its own."""
    name = object_name(spec)
    return refused_item(f"{name.scheme}://{name.bucket}/{name.key}", kind=name.scheme)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of source."""

    name: str
    """What column `sources.kind` and `fetch.kinds` of a recipe call it."""
    prefix: str
    """How its specs begin; `https://` stands for `http://` too."""
    suffixes: tuple[str, ...] = ()
    """How the path of its addresses ends; empty: in any way."""
    example: str
    summary: str
    """What a spec stands for, in one line."""
    expand: Expander
    seed: Callable[[str], SourceItem | None] = _no_seed
    """The item of the address that a spec lists the entries of, which a failure of the listing is about."""
    licence: str = _UNKNOWN
    """The licence of its media where neither the page nor a file beside it says one."""
    formats: FormatChange = _UNCHANGED
    """What it changes of the format policy; a recipe may change it again."""


def _clip_set(name: str, file: str, summary: str, read: Callable[[Table], Iterator[Clip]]) -> Kind:
    """A published set of clips of YouTube videos."""
    return Kind(
        name=name,
        prefix=f"{name}:",
        example=f"{name}:{file}",
        summary=summary,
        expand=partial(expand_clips, read=read, kind=name),
        licence=LICENCE,
    )


# The first kind that a spec fits is its kind.
KINDS: tuple[Kind, ...] = (
    Kind(
        name="dir",
        prefix="dir:",
        example="dir:videos",
        summary="every media file below a folder",
        expand=source_dir.expand_dir,
    ),
    Kind(
        name="films",
        prefix="films:",
        example="films:/media/films",
        summary="every media file below a folder of films and episodes, with what files beside it say",
        expand=source_dir.expand_films,
    ),
    Kind(
        name="games",
        prefix="games:",
        example="games:/media/games",
        summary="every media file below a folder of recorded games",
        expand=source_dir.expand_games,
    ),
    Kind(
        name="list",
        prefix="list:",
        example="list:videos.csv",
        summary="rows with `url[,start_s,end_s]` in a csv, tsv, jsonl or Parquet file, or lines of a txt file",
        expand=source_list.expand_list,
    ),
    Kind(
        name="s3",
        prefix="s3://",
        example="s3://footage/2026/",
        summary="every object below a prefix that is named like a media file",
        expand=source_bucket.expand_bucket,
        seed=_bucket_seed,
    ),
    Kind(
        name="gs",
        prefix="gs://",
        example="gs://footage/2026/",
        summary="the same in Google Cloud Storage",
        expand=source_bucket.expand_bucket,
        seed=_bucket_seed,
    ),
    Kind(
        name="az",
        prefix="az://",
        example="az://footage/2026/",
        summary="the same in Azure Blob Storage",
        expand=source_bucket.expand_bucket,
        seed=_bucket_seed,
    ),
    Kind(
        name="video",
        prefix="https://",
        suffixes=source_web.VIDEO_SUFFIXES,
        example="https://example.org/rain.mp4",
        summary="a media file on the web",
        expand=partial(source_web.expand_media, kind="video"),
    ),
    Kind(
        name="hls",
        prefix="https://",
        suffixes=source_web.HLS_SUFFIXES,
        example="https://example.org/rain/index.m3u8",
        summary="an HLS playlist",
        expand=partial(source_web.expand_media, kind="hls"),
    ),
    Kind(
        name="dash",
        prefix="https://",
        suffixes=source_web.DASH_SUFFIXES,
        example="https://example.org/rain/manifest.mpd",
        summary="a DASH manifest",
        expand=partial(source_web.expand_media, kind="dash"),
    ),
    Kind(
        name="web",
        prefix="https://",
        example="https://www.youtube.com/@NASA/videos",
        summary="a video, or a page, playlist, channel or feed that lists several",
        expand=source_web.expand_web,
        seed=partial(source_web.address_item, kind="web"),
    ),
    Kind(
        name="feed",
        prefix="feed:",
        example="feed:https://example.org/podcast.xml",
        summary="the entries of an RSS, Atom or JSON feed and of its further pages, read without an extractor",
        expand=source_feed.expand_feed,
        seed=source_feed.feed_seed,
    ),
    Kind(
        name="search",
        prefix="search:",
        example="search:200:rain on a tin roof",
        summary="what YouTube or niconico finds: `search:[SITE:][N:]QUERY`",
        expand=source_search.expand_search,
        seed=source_search.search_seed,
        formats=_FOUND_BY_WORDS,
    ),
    Kind(
        name="hashtag",
        prefix="hashtag:",
        example="hashtag:200:fieldrecording",
        summary="the videos that YouTube shows for a hashtag: `hashtag:[N:]TAG`",
        expand=source_search.expand_hashtag,
        seed=source_search.hashtag_seed,
        licence=LICENCE,
        formats=_FOUND_BY_WORDS,
    ),
    _clip_set("vggsound", "vggsound.csv", "VGGSound, clips of 10 s", vggsound_clips),
    _clip_set("audioset", "eval_segments.csv", "AudioSet, its segments", audioset_clips),
    _clip_set("hdvila", "hdvila_part0.jsonl", "HD-VILA-100M, its clips", hdvila_clips),
    _clip_set("panda70m", "panda70m_training_2m.csv", "Panda-70M, its clips", panda70m_clips),
    _clip_set("acav", "acav100m.csv", "ACAV100M, its clips", acav_clips),
    Kind(
        name="openvid",
        prefix="openvid:",
        example="openvid:OpenVid-1M.csv",
        summary="OpenVid-1M, its clips unpacked into a folder `video`",
        expand=expand_openvid,
        licence="CC-BY-4.0",
    ),
)


def kind_of(spec: str) -> Kind:
    """The kind of a spec.

    Raises:
        ConfigError: it begins like none.
    """
    text = spec.lower()
    if text.startswith("http://"):
        text = text.replace("http", "https", 1)
    for kind in KINDS:
        if text.startswith(kind.prefix) and (not kind.suffixes or source_web.has_suffix(text, kind.suffixes)):
            return kind
    prefixes = ", ".join(dict.fromkeys(kind.prefix for kind in KINDS))
    raise ConfigError(f"a source must start with one of {prefixes}, got {spec!r}")


def licence_of(name: str) -> str:
    """The default licence of a kind; that of a kind which is not known any more is unknown, too."""
    return next((kind.licence for kind in KINDS if kind.name == name), _UNKNOWN)


def format_policy(name: str, config: FetchConfig) -> FormatPolicy:
    """What is fetched of the items of a kind: its own changes, the recipe's for all kinds, those for this one."""
    default = next((kind.formats for kind in KINDS if kind.name == name), _UNCHANGED)
    policy = config.formats.over(default.over(FormatPolicy()))
    return config.kinds[name].over(policy) if name in config.kinds else policy


def check_kinds(config: FetchConfig, specs: Iterable[str]) -> None:
    """Check what the settings say of kinds, as far as it matters for these sources.

    Raises:
        ConfigError: `fetch.kinds` names what is no kind, or changes of a format policy contradict each other.
    """
    names = [kind.name for kind in KINDS]
    for name in config.kinds:
        if name not in names:
            raise ConfigError(f"fetch.kinds must name kinds of sources ({', '.join(names)}), got {name!r}")
    for name in {kind_of(spec).name for spec in specs}:
        try:
            format_policy(name, config)
        except ValidationError as err:
            problem = err.errors()[0]["msg"].removeprefix("Value error, ")
            raise ConfigError(f"the format policy of kind {name} contradicts itself: {problem}") from err
