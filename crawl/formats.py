"""What a site offers of a video -> what is downloaded of it. Pure."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

from crawl.policy import FormatPolicy
from infra.errors import AgeRestricted, BlockedByPolicy, FormatMissing, NotMedia, TooLarge

# What yt-dlp calls the ways of transport that are used: plain files, and fragments behind a manifest.
FILES = frozenset({"http", "https"})
FRAGMENTS = frozenset({"m3u8", "m3u8_native", "http_dash_segments"})

# 24000/1001 is what films are broadcast at, and sites round it to two digits.
_NTSC = 1000 / 1001
_ROUNDING_FPS = 0.01
_ADULT_AGE = 18
_UNFINISHED = {"is_live": "is a live stream", "is_upcoming": "has not begun", "post_live": "is a live stream"}
# More is not heard in the mono track that is made of it: above, the codec decides. Assumption, not measured.
_ENOUGH_AUDIO_KBPS = 96

# What yt-dlp calls an info dict and a format; their keys differ by site.
Info = Mapping[str, Any]
Span = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One thing to download: a file, or a manifest of fragments."""

    url: str
    protocol: str
    """As yt-dlp names it: `http`, `https`, `m3u8_native`, `http_dash_segments`, ..."""
    ext: str
    format_id: str
    http_headers: Mapping[str, str]
    """What the host wants to see, the cookies for this address among it."""
    has_video: bool
    has_audio: bool
    num_bytes: int = 0
    """0 when unknown."""
    chunk_bytes: int = 0
    """The host wants range requests of at most this many bytes; 0 when it does not care."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Video:
    """What an extractor knows of one video; a text is empty when unknown."""

    webpage_url: str
    video_id: str
    extractor: str
    title: str
    uploader: str
    uploader_id: str
    channel_id: str
    licence: str
    upload_date: str
    """ISO 8601 date."""
    duration_s: float
    """0 when unknown."""
    streams: tuple[Stream, ...]
    """One, or the video and then the audio."""
    tool_version: str
    """`yt-dlp 2026.10.26`."""
    file: str = ""
    """Name below `out_dir` when the streams are downloaded already, as fragments are; empty otherwise."""
    file_start_s: float = 0.0
    """Source time of the first timestamp of `file`."""
    file_end_s: float = math.inf
    """Source time up to which `file` reaches; infinity: to the end of the video."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One of the addresses behind a page, playlist, channel or feed."""

    index: int
    """Its position in the listing, from 0."""
    url: str
    kind: Literal["video", "file", "list"]
    """A page that holds a video, the address of a media file or manifest, or a list too deep to be opened."""


def is_part(spans: Sequence[Span]) -> bool:
    """Whether less than the whole of a video is wanted; no span at all is the whole."""
    return bool(spans) and hull(spans) != (0.0, math.inf)


def hull(spans: Sequence[Span]) -> Span:
    """From the first wanted moment to the last."""
    return min((start_s for start_s, _ in spans), default=0.0), max(
        (end_s for _, end_s in spans), default=math.inf
    )


# ---- may it be fetched ----


def check_video(info: Info, policy: FormatPolicy, spans: Sequence[Span]) -> None:
    """Check what a site says of a video before anything of it is downloaded; what it does not say passes.

    Raises:
        NotMedia: it is live or has not begun.
        AgeRestricted: it is for adults.
        BlockedByPolicy: its duration or date.
    """
    subject = info.get("webpage_url") or info.get("id")
    status = "is_live" if info.get("is_live") else info.get("live_status")
    if status in _UNFINISHED:
        raise NotMedia(f"the address must hold a finished video, it {_UNFINISHED[status]} ({subject})")
    if (info.get("age_limit") or 0) >= _ADULT_AGE:
        raise AgeRestricted(
            f"a video must be for all ages, this is for {info['age_limit']} and older ({subject})"
        )
    duration_s = float(info.get("duration") or 0)
    max_duration_s = math.inf if is_part(spans) else policy.max_duration_s
    if duration_s and not policy.min_duration_s <= duration_s <= max_duration_s:
        bounds = f"{policy.min_duration_s:g} to {max_duration_s:g} s"
        raise BlockedByPolicy(f"a video must last {bounds}, this lasts {duration_s:g} s ({subject})")
    uploaded = upload_date(info)
    if uploaded and not policy.uploaded_after <= uploaded < policy.uploaded_before:
        bounds = f"on or after {policy.uploaded_after} and before {policy.uploaded_before}"
        raise BlockedByPolicy(f"a video must be uploaded {bounds}, this was on {uploaded} ({subject})")


def check_bytes(formats: Sequence[Info], *, max_bytes: int, subject: str) -> None:
    """Check the known size of what would be downloaded.

    Raises:
        TooLarge: it is more than `max_bytes`.
    """
    num_bytes = sum(int(chosen.get("filesize") or 0) for chosen in formats)
    if num_bytes > max_bytes:
        raise TooLarge(f"a source must have at most {max_bytes} bytes, got {num_bytes} ({subject})")


def upload_date(info: Info) -> date | None:
    """The day of the upload, None when unknown."""
    try:
        return date.fromisoformat(str(info.get("upload_date") or ""))
    except ValueError:
        return None


# ---- which of its formats ----


def choose_streams(formats: Sequence[Info], policy: FormatPolicy) -> tuple[Info, ...]:
    """The best format that the policy allows: one with all, or one of video and then one of audio.

    Best is: what the site prefers, the original language, then size, frame rate, plain files before fragments, and
    H.264 with AAC. What a site does not say of a format passes, and ranks below what is said.

    Args:
        formats: as yt-dlp sorts them, the best last; it decides between equals.

    Raises:
        NotMedia: no format has a video.
        FormatMissing: none is allowed; the message names the best that there was, and the bound that it breaks.
    """
    videos = [known for known in formats if _transport(known) and _has_video(known)]
    if not videos:
        raise NotMedia(
            f"the address must hold a video that can be downloaded, it offers {_offered(formats)} only"
        )
    allowed = [known for known in videos if not _broken_bound(known, policy)]
    if not allowed:
        best = max(videos, key=_video_rank)
        raise FormatMissing(
            "a format must keep within the policy, the best does not:"
            f" {_shown(best)}, {_broken_bound(best, policy)}"
        )
    audios = [known for known in formats if _transport(known) and not _has_video(known) and _has_audio(known)]
    candidates = [choice for video in allowed for choice in _with_sound(video, audios, policy)]
    if not candidates:
        raise FormatMissing(
            f"a video must have sound, the best has none: {_shown(max(allowed, key=_video_rank))}"
        )
    # `max` takes the first of equals, and the best of yt-dlp comes last.
    return max(reversed(candidates), key=lambda choice: (_video_rank(choice[0]), -len(choice)))


def stream_of(chosen: Info, *, cookie: str) -> Stream:
    """A format as a thing to download.

    Args:
        cookie: what the host of its address gets as `Cookie`, empty for nothing.
    """
    headers = {str(name): str(value) for name, value in (chosen.get("http_headers") or {}).items()}
    return Stream(
        url=str(chosen["url"]),
        protocol=str(chosen["protocol"]),
        ext=str(chosen.get("ext") or ""),
        format_id=str(chosen.get("format_id") or ""),
        http_headers=headers | ({"Cookie": cookie} if cookie else {}),
        has_video=_has_video(chosen),
        has_audio=_has_audio(chosen),
        num_bytes=int(chosen.get("filesize") or 0),
        chunk_bytes=int((chosen.get("downloader_options") or {}).get("http_chunk_size") or 0),
    )


def _transport(known: Info) -> str:
    """`files`, `fragments`, or empty for what is not used: images, live protocols, what is encrypted for good."""
    protocol = known.get("protocol")
    if known.get("has_drm") is True or callable(known.get("fragments")):
        return ""
    return "files" if protocol in FILES else "fragments" if protocol in FRAGMENTS else ""


def _has_video(known: Info) -> bool:
    return known.get("vcodec") != "none"


def _has_audio(known: Info) -> bool:
    return known.get("acodec") != "none"


def _with_sound(video: Info, audios: Sequence[Info], policy: FormatPolicy) -> Iterator[tuple[Info, ...]]:
    """A video as it is, or with the best audio that travels the same way."""
    partners = [audio for audio in audios if _transport(audio) == _transport(video)]
    if _has_audio(video):
        yield (video,)
    elif partners:
        yield video, max(reversed(partners), key=_audio_rank)
    elif not policy.require_audio:
        yield (video,)


def _video_rank(known: Info) -> tuple[float, ...]:
    return (
        _number(known, "preference", -1),
        _number(known, "language_preference", -1),
        _short_side_px(known),
        _number(known, "fps", 0),
        _number(known, "quality", -1),
        known.get("protocol") in FILES,
        str(known.get("vcodec")).startswith(("avc", "h264")),
        known.get("dynamic_range") in (None, "SDR"),
        _number(known, "tbr", 0),
    )


def _audio_rank(known: Info) -> tuple[float, ...]:
    return (
        _number(known, "preference", -1),
        _number(known, "language_preference", -1),
        _number(known, "quality", -1),
        min(_number(known, "abr", 0), _ENOUGH_AUDIO_KBPS),
        str(known.get("acodec")).startswith("mp4a"),
        _number(known, "abr", 0),
    )


def _number(known: Info, name: str, unknown: float) -> float:
    value = known.get(name)
    return unknown if value is None else float(value)


def _short_side_px(known: Info) -> float:
    """The shorter side, the one side that is known, or 0."""
    return min(side for side in (known.get("width"), known.get("height")) if side) if _is_sized(known) else 0


def _is_sized(known: Info) -> bool:
    return bool(known.get("width") or known.get("height"))


def _broken_bound(known: Info, policy: FormatPolicy) -> str:
    """The bound that a format is beyond; empty when there is none."""
    side_px, frame_rate_fps = _short_side_px(known), _number(known, "fps", 0)
    low_px, high_px = policy.min_short_side_px, policy.max_short_side_px
    min_fps = float(policy.min_frame_rate_fps)
    if side_px and side_px < low_px:
        return f"its shorter side is below min_short_side_px {low_px}"
    if side_px > high_px:
        return f"its shorter side is above max_short_side_px {high_px}"
    if frame_rate_fps and frame_rate_fps < min_fps * _NTSC - _ROUNDING_FPS:
        return f"it has fewer frames than min_frame_rate_fps {min_fps:g}"
    return ""


def _shown(known: Info) -> str:
    """A format in words: `137 (1920x1080, 30 fps)`."""
    size = "x".join(f"{known.get(side) or '?'}" for side in ("width", "height"))
    return f"{known.get('format_id')} ({size}, {known.get('fps') or '?'} fps)"


def _offered(formats: Sequence[Info]) -> str:
    return (
        ", ".join(sorted({f"{known.get('ext')} by {known.get('protocol')}" for known in formats}))
        or "nothing"
    )
