"""`audioset:FILE`: the segments of AudioSet, in the CSV files that its authors publish.

`eval_segments.csv`, `balanced_train_segments.csv` and `unbalanced_train_segments.csv` begin with three lines
of comment (`#`); then each line has a YouTube id, the seconds at which the segment begins and ends, and labels,
with a blank after each comma. The temporally strong labels are another format and are not read.
Source: https://research.google.com/audioset/download.html.
"""

from collections.abc import Iterator

from crawl.rows import Table, numbered_rows
from crawl.youtube import Clip, clip_of


def audioset_clips(table: Table) -> Iterator[Clip]:
    """The segments that the file names.

    Raises:
        ConfigError: while it is iterated: a line without a YouTube id and two seconds.
    """
    for row in numbered_rows(table, ("YTID", "start_seconds", "end_seconds"), comment="#"):
        yield clip_of(row, row.text("YTID"), row.seconds("start_seconds"), row.seconds("end_seconds"))
