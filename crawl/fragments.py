"""Which fragments of a DASH or HLS stream cover a span of time. Pure."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from crawl.formats import Span
from infra.errors import NotMedia, TooShort

_DURATION = re.compile(r"#EXTINF:\s*(\d+(?:\.\d+)?)")
_BYTE_RANGE = re.compile(r"#EXT-X-BYTERANGE:\s*(\d+)(?:@(\d+))?")
_VERSION = re.compile(r"#EXT-X-VERSION:\s*(\d+)")
_SEQUENCE = re.compile(r"#EXT-X-MEDIA-SEQUENCE:\s*(\d+)")
_VOD = re.compile(r"#EXT-X-PLAYLIST-TYPE:\s*VOD")
_END = "#EXT-X-ENDLIST"
# From this version on durations have decimals. Source: RFC 8216, section 4.3.2.1.
_DECIMALS_VERSION = 3
# They hold for the segments after them.
_LASTING = ("#EXT-X-MAP", "#EXT-X-KEY")
# Tags of playlists with ads among the segments, which yt-dlp leaves out.
_ADS = ("#ANVATO-SEGMENT-INFO", "#UPLYNK-SEGMENT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """The fragments `first_index` to `last_index`, both included, and the time in the source that they cover."""

    first_index: int
    last_index: int
    start_s: float
    end_s: float
    """Infinity: the last fragment of all is among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Segment:
    duration_s: float | None
    lines: tuple[str, ...]
    """Its own lines of the playlist, a byte range with its offset."""
    lasting: Mapping[str, str]
    """The `_LASTING` lines that hold for it."""


def cut_of(durations_s: Sequence[float | None], span: Span) -> Cut | None:
    """The fragments that overlap `span`; None when all do, or when a duration is unknown.

    Raises:
        TooShort: the stream ends before the span begins.
    """
    known_s = [duration_s for duration_s in durations_s if duration_s]
    if not known_s or len(known_s) != len(durations_s):
        return None
    starts_s = list(accumulate(known_s, initial=0.0))
    start_s, end_s = span
    if starts_s[-1] <= start_s:
        raise TooShort(
            f"a video must reach into the wanted span from {start_s:g} s, it lasts {starts_s[-1]:g} s"
        )
    last = len(known_s) - 1
    wanted = [index for index in range(last + 1) if starts_s[index + 1] > start_s and starts_s[index] < end_s]
    if len(wanted) == len(known_s):
        return None
    return Cut(
        first_index=wanted[0],
        last_index=wanted[-1],
        start_s=starts_s[wanted[0]],
        end_s=math.inf if wanted[-1] == last else starts_s[wanted[-1] + 1],
    )


def cut_dash(
    fragments: Sequence[Mapping[str, Any]], span: Span
) -> tuple[Sequence[Mapping[str, Any]], Cut | None]:
    """The fragments of a DASH format of yt-dlp that `span` needs, and which they are; None for all.

    A fragment without a duration before all others initialises the stream, and stays. One among the others begins
    another period; then all stay.
    """
    num_initial = next((index for index, part in enumerate(fragments) if part.get("duration")), 0)
    initial, media = fragments[:num_initial], fragments[num_initial:]
    cut = cut_of([part.get("duration") for part in media], span)
    if cut is None:
        return fragments, None
    return [*initial, *media[cut.first_index : cut.last_index + 1]], cut


def cut_playlist(text: str, span: Span) -> tuple[str, Cut | None]:
    """An HLS media playlist with the segments only that `span` needs, and which they are; None for all.

    All stay where durations are whole seconds, whose sum drifts away from the truth, and where ads are among them.

    Raises:
        TooShort: the stream ends before the span begins.
    """
    if any(tag in text for tag in _ADS) or _first_number(_VERSION, text) < _DECIMALS_VERSION:
        return text, None
    head, segments = _parse(text)
    cut = cut_of([segment.duration_s for segment in segments], span)
    if cut is None:
        return text, None
    # A key without a vector of its own takes the number of the segment.
    lines = [*head, f"#EXT-X-MEDIA-SEQUENCE:{_first_number(_SEQUENCE, text) + cut.first_index}"]
    lasting: Mapping[str, str] = {}
    for segment in segments[cut.first_index : cut.last_index + 1]:
        lines += [line for tag, line in segment.lasting.items() if lasting.get(tag) != line]
        lines += segment.lines
        lasting = segment.lasting
    return "\n".join([*lines, _END, ""]), cut


def require_finished(text: str, url: str) -> None:
    """Check that an HLS media playlist will not grow.

    Raises:
        NotMedia: it is that of a live stream.
    """
    if _END not in text and not _VOD.search(text):
        raise NotMedia(
            f"the address must hold a finished video, its playlist is that of a live stream ({url})"
        )


def _first_number(pattern: re.Pattern[str], text: str) -> int:
    match = pattern.search(text)
    return int(match.group(1)) if match else 0


def _parse(text: str) -> tuple[list[str], list[_Segment]]:
    """The tags that hold for all, and the segments."""
    head: list[str] = []
    segments: list[_Segment] = []
    lasting: dict[str, str] = {}
    own: list[str] = []
    duration_s: float | None = None
    offset = 0
    for line in filter(None, map(str.strip, text.splitlines())):
        tag = line.partition(":")[0]
        if not line.startswith("#"):
            segments.append(_Segment(duration_s=duration_s, lines=(*own, line), lasting=dict(lasting)))
            own, duration_s = [], None
        elif match := _DURATION.match(line):
            duration_s = float(match.group(1))
            own.append(line)
        elif match := _BYTE_RANGE.match(line):
            first = int(match.group(2) or offset)
            offset = first + int(match.group(1))
            own.append(f"#EXT-X-BYTERANGE:{match.group(1)}@{first}")
        elif tag in _LASTING:
            lasting[tag] = line
        elif segments or own:
            own.append(line)
        elif not _SEQUENCE.match(line):
            head.append(line)
    return head, segments
