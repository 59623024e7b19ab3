"""Clips of YouTube videos, as the published data sets name them: an id of 11 characters and a span."""

import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

from crawl.items import SourceItem, source_item
from crawl.rows import Row, Table, read_twice, table_of
from crawl.web import Web

# What YouTube says of a video that is not under a Creative Commons licence, which the page of a video names.
LICENCE = "Standard YouTube License"

# Source: yt-dlp 2026.10.26, yt_dlp/extractor/youtube/_video.py, _VALID_URL.
_VIDEO_ID = re.compile(r"[0-9A-Za-z_-]{11}")


class Clip(NamedTuple):
    """What a row names."""

    video_id: str
    start_s: float
    end_s: float


def clip_of(row: Row, video_id: str, start_s: float, end_s: float) -> Clip:
    """The clip that a row names.

    Raises:
        ConfigError: that is no id, or the span is empty or negative.
    """
    if not _VIDEO_ID.fullmatch(video_id):
        raise row.refused("a YouTube id must have 11 letters, digits, - or _", repr(video_id))
    row.check_span(start_s, end_s)
    return Clip(video_id, start_s, end_s)


def expand_clips(
    spec: str, web: Web, first_index: int, *, read: Callable[[Table], Iterator[Clip]], kind: str
) -> Iterator[SourceItem]:
    """Items for the clips that `read` finds in the file that the spec names.

    Raises:
        ConfigError: no such file, a malformed row, or no row.
    """
    clips = islice(read_twice(table_of(spec, f"{kind}:"), read), first_index, None)
    return (youtube_item(clip, kind=kind) for clip in clips)


def youtube_item(clip: Clip, *, kind: str) -> SourceItem:
    """The item of a clip."""
    url = f"https://www.youtube.com/watch?v={clip.video_id}"
    return source_item(url, kind=kind, span_start_s=clip.start_s, span_end_s=clip.end_s)
