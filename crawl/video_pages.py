"""Which video an address shows, on the sites where one video has several addresses. Pure.

A site is a function from the host, the path and the query of an address in normal form (`items.canonical_url`)
to the video that is meant, or None. To add one: such a function, its hosts in `_SITES`, and rows in the tables
of `tests/crawl/test_video_pages.py`, near misses first.
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import SplitResult, parse_qsl

# What is all of the path on a host of short links.
_ONLY_SEGMENT = re.compile(r"/([^/]+)/?")
# What the patterns below accept follows the `_VALID_URL` of each site. Source: yt-dlp 2026.10.26,
# yt_dlp/extractor/{youtube/_video,tiktok,vimeo,dailymotion,twitter,bilibili,instagram}.py.
_YOUTUBE_ID = re.compile(r"[0-9A-Za-z_-]{11}")
_YOUTUBE_PATH = re.compile(r"/(?:shorts|embed|live|v|e)/(?!(?:videoseries|live_stream)/?\Z)([^/]+)/?")
_YOUTUBE_WATCH_PATHS = frozenset({"/watch", "/watch/", "/watch_popup"})
_TIKTOK_PATH = re.compile(
    r"/(?:(?:@|%40)(?P<user>[0-9A-Za-z_.-]*)/video|embed(?:/v[0-9])?|player/v1|share/video|v)"
    r"/(?P<id>[0-9]{1,25})(?:\.html)?/?"
)
_VIMEO_PATH = re.compile(
    r"/(?P<list>(?:album|showcase)/[^/]+/video/|[^/]+/review/)?(?:channels/[^/]+/|groups/[^/]+/videos/|videos?/)?"
    r"(?P<id>[0-9]{1,20})(?:/(?P<hash>[0-9a-f]{10}))?/?"
)
_VIMEO_HASH = re.compile(r"[0-9a-f]{10}|")
_DAILYMOTION_PATH = re.compile(r"/(?:(?:embed|crawler|swf)/)?video/([0-9A-Za-z]+)(?:_[^/]*)?/?")
_DAILYMOTION_PLAYER_PATH = re.compile(r"/player(?:/[0-9a-z]+)?\.html")
_DAILYMOTION_ID = re.compile(r"[0-9A-Za-z]+")
_POST_PATH = re.compile(
    r"/(?:i/web/status|(?P<user>[0-9A-Za-z_]+)/status(?:es)?|statuses)/(?P<id>[0-9]{1,25})"
    r"(?:/(?:video|photo)/(?P<part>[1-9][0-9]?))?/?"
)
_BILIBILI_PATH = re.compile(r"/video/([^/]+)/?")
_BILIBILI_ID = re.compile(r"[Bb][Vv](?P<bv>1[1-9A-HJ-NP-Za-km-z]{9})|[Aa][Vv](?P<av>[1-9][0-9]{0,14})")
_INSTAGRAM_PATH = re.compile(
    r"/(?:(?!share/|stories/)[^/]+/)?(?:p|tv|reels?)/(?!audio/?\Z)([0-9A-Za-z_-]+)(?:/embed(?:/captioned)?)?/?"
)
_PART = re.compile(r"[1-9][0-9]{0,3}|")

# Source: SocialSisterYi/bilibili-API-collect, docs/misc/bvid_desc.md; checked with pairs of yt-dlp's tests.
_BV_ALPHABET = "FcwAPNKTMug3GV5Lj7EJnHpWsx4tb8haYeviqBz6rkCy12mUSDQX9RdoZf"
_BV_MASK = 23442827791579
_BV_MAX = 1 << 51


class Video(NamedTuple):
    """What an address shows."""

    key: str
    """`site:ID`, and `/N` for the second and later videos of one post."""
    page: str
    """Its canonical address; empty when the one that was asked about must stay as it is."""


def video_at(parts: SplitResult) -> Video | None:
    """The one video that an address in normal form shows, on a site that is known here."""
    site = _SITES.get(parts.netloc)
    if site is None:
        return None
    query: dict[str, str] = {}
    for name, value in parse_qsl(parts.query):
        query.setdefault(name, value)
    return site(parts.netloc, parts.path, query)


_Query = Mapping[str, str]
"""The first value of each parameter."""


def _key(site: str, video_id: str, part: str = "") -> str:
    return f"{site}:{video_id}" if part in {"", "1"} else f"{site}:{video_id}/{part}"


def _youtube(host: str, path: str, query: _Query) -> Video | None:
    """A list, a start time and who shared it say nothing of the video."""
    pattern = _ONLY_SEGMENT if host.endswith("youtu.be") else _YOUTUBE_PATH
    match = pattern.fullmatch(path)
    is_watch = pattern is _YOUTUBE_PATH and path in _YOUTUBE_WATCH_PATHS
    video_id = query.get("v", "") if is_watch else match[1] if match else ""
    if not _YOUTUBE_ID.fullmatch(video_id):
        return None
    return Video(_key("youtube", video_id), f"https://www.youtube.com/watch?v={video_id}")


def _tiktok(host: str, path: str, query: _Query) -> Video | None:
    match = _TIKTOK_PATH.fullmatch(path)
    if not match:
        return None
    user = (match["user"] or "_").lower()
    return Video(_key("tiktok", match["id"]), f"https://www.tiktok.com/@{user}/video/{match['id']}")


def _vimeo(host: str, path: str, query: _Query) -> Video | None:
    """An unlisted video is let in by its hash, and a player or a showcase by what its own page refuses."""
    match = _VIMEO_PATH.fullmatch(path)
    video_hash = (match and match["hash"]) or query.get("h", "")
    if not match or not _VIMEO_HASH.fullmatch(video_hash):
        return None
    key, video_id = _key("vimeo", match["id"]), match["id"]
    if match["list"]:
        return Video(key, "")
    if host == "player.vimeo.com":
        suffix = f"?h={video_hash}" if video_hash else ""
        return Video(key, f"https://player.vimeo.com/video/{video_id}{suffix}")
    return Video(key, f"https://vimeo.com/{video_id}" + (f"/{video_hash}" if video_hash else ""))


def _dailymotion(host: str, path: str, query: _Query) -> Video | None:
    pattern = _ONLY_SEGMENT if host == "dai.ly" else _DAILYMOTION_PATH
    match = pattern.fullmatch(path)
    is_player = _DAILYMOTION_PLAYER_PATH.fullmatch(path)
    video_id = query.get("video", "") if is_player else match[1] if match else ""
    if not _DAILYMOTION_ID.fullmatch(video_id):
        return None
    return Video(_key("dailymotion", video_id), f"https://www.dailymotion.com/video/{video_id}")


def _twitter(host: str, path: str, query: _Query) -> Video | None:
    match = _POST_PATH.fullmatch(path)
    if not match:
        return None
    page = f"https://x.com/{(match['user'] or 'i').lower()}/status/{match['id']}"
    part = match["part"] or ""
    return Video(_key("twitter", match["id"], part), f"{page}/video/{part}" if part else page)


def _bilibili(host: str, path: str, query: _Query) -> Video | None:
    match = (_ONLY_SEGMENT if host == "b23.tv" else _BILIBILI_PATH).fullmatch(path)
    if host == "player.bilibili.com" and path == "/player.html":
        video_id = query.get("bvid") or f"av{query.get('aid', '')}"
        part = query.get("p") or query.get("page", "")
    else:
        video_id, part = match[1] if match else "", query.get("p", "")
    found = _BILIBILI_ID.fullmatch(video_id)
    if not found or not _PART.fullmatch(part):
        return None
    bvid = f"BV{found['bv'] or _bv_of(int(found['av']))}"
    page = f"https://www.bilibili.com/video/{bvid}"
    return Video(_key("bilibili", bvid, part), f"{page}?p={part}" if part else page)


def _bv_of(av_number: int) -> str:
    """The newer id of a video that has the number `av_number`, without its `BV`."""
    rest = (_BV_MAX | av_number) ^ _BV_MASK
    digits = ""
    while rest:
        rest, digit = divmod(rest, len(_BV_ALPHABET))
        digits = _BV_ALPHABET[digit] + digits
    swapped = list("1" + digits)
    swapped[1], swapped[7] = swapped[7], swapped[1]
    swapped[2], swapped[5] = swapped[5], swapped[2]
    return "".join(swapped)


def _instagram(host: str, path: str, query: _Query) -> Video | None:
    match = _INSTAGRAM_PATH.fullmatch(path)
    part = query.get("img_index", "")
    if not match or not _PART.fullmatch(part):
        return None
    page = f"https://www.instagram.com/p/{match[1]}/"
    return Video(_key("instagram", match[1], part), f"{page}?img_index={part}" if part else page)


_Site = Callable[[str, str, _Query], Video | None]


def _hosts(site: _Site, names: str) -> dict[str, _Site]:
    return dict.fromkeys(names.split(), site)


_SITES: Mapping[str, _Site] = {
    **_hosts(_youtube, "youtube.com www.youtube.com m.youtube.com music.youtube.com gaming.youtube.com"),
    **_hosts(
        _youtube, "youtube-nocookie.com www.youtube-nocookie.com www.youtubekids.com youtu.be www.youtu.be"
    ),
    **_hosts(_tiktok, "tiktok.com www.tiktok.com m.tiktok.com"),
    **_hosts(_vimeo, "vimeo.com www.vimeo.com player.vimeo.com"),
    **_hosts(
        _dailymotion, "dailymotion.com www.dailymotion.com touch.dailymotion.com geo.dailymotion.com dai.ly"
    ),
    **_hosts(_twitter, "x.com www.x.com mobile.x.com"),
    **_hosts(_twitter, "twitter.com www.twitter.com m.twitter.com mobile.twitter.com"),
    **_hosts(_bilibili, "bilibili.com www.bilibili.com m.bilibili.com player.bilibili.com b23.tv"),
    **_hosts(_instagram, "instagram.com www.instagram.com m.instagram.com"),
}
