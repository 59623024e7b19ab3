"""`hdvila:FILE`, `panda70m:FILE`, `acav:FILE`, `openvid:FILE`: clips of other sets, in their published files.

| set | file | a row |
|---|---|---|
| HD-VILA-100M | `hdvila_part*.jsonl` | `video_id`, `clip`: `[{"span": ["00:00:17.759", "00:00:23.279"]}, ...]` |
| Panda-70M | `panda70m_*.csv` | `videoID` and `timestamp`: `[['0:00:08.875', '0:00:15.349'], ...]` |
| ACAV100M | `.csv` or `.tsv` | YouTube id, seconds of begin and end; a first line of names is skipped |
| OpenVid-1M | `OpenVid-1M.csv` | `video`: the name of a clip that was unpacked into a folder `video` |

The clips of the first three are sections of YouTube videos. Those of OpenVid are files of their own, which its
archives hold: `video` lies beside the CSV file or, as its own script leaves it, beside the `data/train` that the
CSV file is in. Sources: microsoft/XPretrain, hd-vila-100m/README.md; snap-research/Panda-70M,
dataset_dataloading/README.md; the card of nkp37/OpenVid-1M; iejMac/video2dataset, dataset_examples/ACAV.md. That
ACAV100M's file has no other columns before these is an assumption: the site that serves it was not read.
"""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from crawl.items import (
    SourceItem,
    UnexpandedSource,
    file_url,
    local_path,
    refused_item,
    source_item,
    unexpanded,
)
from crawl.rows import Row, Table, clock_s, named_rows, numbered_rows, read_twice, shown, table_of
from crawl.web import Web
from crawl.youtube import Clip, clip_of
from infra.errors import BlockedByPolicy, ConfigError


def hdvila_clips(table: Table) -> Iterator[Clip]:
    """The clips of HD-VILA-100M.

    Raises:
        ConfigError: while it is iterated: a line without an id and a list of spans.
    """
    for row in named_rows(table, ("video_id", "clip")):
        clips = row.cells.get("clip")
        if not isinstance(clips, list) or not all(isinstance(clip, dict) for clip in clips):
            raise row.refused("clip must be a list of objects with a span", shown(clips))
        yield from _timed(row, row.text("video_id"), [clip.get("span") for clip in clips])


def panda70m_clips(table: Table) -> Iterator[Clip]:
    """The clips of Panda-70M.

    Raises:
        ConfigError: while it is iterated: a row without an id and a list of times.
    """
    for row in named_rows(table, ("videoID", "timestamp")):
        text = row.text("timestamp")
        try:
            spans = json.loads(text.replace("'", '"'))
        except (ValueError, RecursionError) as err:
            raise row.refused("timestamp must be a list of pairs of times", shown(text)) from err
        yield from _timed(row, row.text("videoID"), spans)


def acav_clips(table: Table) -> Iterator[Clip]:
    """The clips of ACAV100M.

    Raises:
        ConfigError: while it is iterated: a row without an id and two seconds.
    """
    columns = ("youtube_id", "start", "end")
    for index, row in enumerate(numbered_rows(table, columns)):
        if index == 0 and not row.text("start").replace(".", "", 1).isdecimal():
            continue
        yield clip_of(row, row.text("youtube_id"), row.seconds("start"), row.seconds("end"))


def expand_openvid(spec: str, web: Web, first_index: int) -> Iterator[SourceItem | UnexpandedSource]:
    """Items for the files of OpenVid-1M; one that was not unpacked fails when it is fetched.

    Raises:
        ConfigError: no such file, no folder `video`, no row, or one without a name.
    """
    table = table_of(spec, "openvid:")
    folder = _openvid_folder(table)
    names = islice(read_twice(table, _openvid_names), first_index, None)
    return (_openvid_item(folder, name) for name in names)


def _timed(row: Row, video_id: str, spans: object) -> Iterator[Clip]:
    """The clips of one video from its pairs of times of day."""
    if not isinstance(spans, list):
        raise row.refused("the spans must be a list", shown(spans))
    for span in spans:
        try:
            start, end = span
            start_s, end_s = clock_s(start), clock_s(end)
        except (TypeError, ValueError) as err:
            raise row.refused("a span must be two times like 0:00:08.875", shown(span)) from err
        yield clip_of(row, video_id, start_s, end_s)


def _openvid_folder(table: Table) -> Path:
    here = table.path.resolve().parent
    for folder in (here / "video", here.parent.parent / "video"):
        if folder.is_dir():
            return folder.resolve()
    raise ConfigError(
        f"openvid: the clips must be in {str(here / 'video')!r}, found no such folder; unpack the archives there"
    )


def _openvid_names(table: Table) -> Iterator[str]:
    return (row.text("video") for row in named_rows(table, ("video",)))


def _openvid_item(folder: Path, name: str) -> SourceItem | UnexpandedSource:
    try:
        url = file_url(folder / name)
        if local_path(url).parent != folder:
            raise BlockedByPolicy(
                f"a video must be a file in {str(folder)!r}, got {name!r}, which leads out of it"
            )
        return source_item(url, kind="openvid")
    except BlockedByPolicy as err:
        return unexpanded(refused_item(name, kind="openvid"), err)
