"""Which fragments of an HLS or DASH stream a span needs. Pure, but for the reading of a playlist."""

import math
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urljoin

Span = tuple[float, float]
_WHOLE: Span = (0.0, math.inf)
_SECONDS = "#EXTINF:"
_NUMBER = "#EXT-X-MEDIA-SEQUENCE:"
# Tags that hold for the segments after them, which a cut must not lose.
_LASTING = ("#EXT-X-MAP:", "#EXT-X-KEY:")


def cut_fragments(formats: Sequence[dict[str, Any]], span: Span, *, read: Callable[[str], str]) -> Span:
    """Leave only the fragments that overlap a span in yt-dlp's formats, and say what time they cover.

    All fragments stay where a format does not say how long each is, or two formats would begin at different times.

    Args:
        formats: changed in place.
        read: the text at an address, for HLS playlists.
    """
    if span == _WHOLE:
        return _WHOLE
    cuts = [_cut(known, span, read) for known in formats]
    covered = [cut[0] for cut in cuts if cut]
    if len(covered) < len(formats) or len({start_s for start_s, _ in covered}) > 1:
        return _WHOLE
    for known, cut in zip(formats, cuts, strict=True):
        assert cut
        known.update(cut[1])
    return covered[0][0], min(end_s for _, end_s in covered)


def _cut(known: dict[str, Any], span: Span, read: Callable[[str], str]) -> tuple[Span, dict[str, Any]] | None:
    """The time that the needed fragments of one format cover, and what to change in it."""
    if known.get("protocol") == "m3u8_native" and not known.get("hls_media_playlist_data"):
        found = cut_playlist(read(known["url"]), span, base_url=known["url"])
        return found and (found[0], {"hls_media_playlist_data": found[1]})
    fragments = known.get("fragments")
    if known.get("protocol") == "http_dash_segments" and isinstance(fragments, list):
        lengths_s = [fragment.get("duration") for fragment in fragments]
        # Without a duration is the initialisation at the beginning, and nothing else.
        num_first = next((index for index, length_s in enumerate(lengths_s) if length_s), len(lengths_s))
        if not lengths_s or not all(lengths_s[num_first:]):
            return None
        chosen, covered = needed([float(length_s) for length_s in lengths_s[num_first:]], span)
        kept = fragments[:num_first] + [fragments[num_first + index] for index in chosen]
        return covered, {"fragments": kept}
    return None


def needed(lengths_s: Sequence[float], span: Span) -> tuple[range, Span]:
    """The pieces of a row, each so long, that overlap a span, and the time that they cover; at least one piece."""
    start_s, end_s = span
    edges_s = [0.0]
    for length_s in lengths_s:
        edges_s.append(edges_s[-1] + length_s)
    first = max((index for index in range(len(lengths_s)) if edges_s[index] <= start_s), default=0)
    last = max((index for index in range(len(lengths_s)) if edges_s[index] < end_s), default=0)
    last = max(first, last)
    reaches_s = math.inf if last == len(lengths_s) - 1 else edges_s[last + 1]
    return range(first, last + 1), (edges_s[first], reaches_s)


def cut_playlist(text: str, span: Span, *, base_url: str) -> tuple[Span, str] | None:
    """An HLS media playlist with the needed segments only, its addresses whole; `None` for one that is no such.

    Source: RFC 8216, sections 4.3 and 6.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    head: list[str] = []
    segments: list[tuple[float, list[str]]] = []  # Seconds, and its lines with what lasts before it.
    lasting: dict[str, str] = {}
    pending: list[str] = []
    seconds, number = 0.0, 0
    for line in lines:
        if line.startswith(_SECONDS):
            seconds = float(line.removeprefix(_SECONDS).partition(",")[0])
            pending.append(line)
        elif line.startswith(_NUMBER):
            number = int(line.removeprefix(_NUMBER))
        elif line.startswith(_LASTING):
            lasting[line.partition(":")[0]] = line
        elif line.startswith(("#EXT-X-BYTERANGE", "#EXT-X-I-FRAMES-ONLY", "#EXT-X-STREAM-INF")):
            return None  # Ranges refer to the segment before; the others are no media playlists.
        elif line.startswith("#EXT-X-ENDLIST"):
            continue
        elif line.startswith("#"):
            (pending if segments or pending else head).append(line)
        else:
            segments.append((seconds, [*lasting.values(), *pending, urljoin(base_url, line)]))
            pending = []
    if "#EXT-X-ENDLIST" not in text or not segments or not all(length_s for length_s, _ in segments):
        return None
    chosen, covered = needed([length_s for length_s, _ in segments], span)
    kept = [line for index in chosen for line in segments[index][1]]
    first = number + chosen.start  # An AES key without a vector of its own takes the number of the segment.
    return covered, "\n".join([*head, f"{_NUMBER}{first}", *kept, "#EXT-X-ENDLIST", ""])
