"""`vggsound:FILE`: the clips of VGGSound, in the CSV file that its authors publish.

`vggsound.csv` has no line of names: a YouTube id, the second at which ten seconds begin, a label, the split.
Source: https://www.robots.ox.ac.uk/~vgg/data/vggsound/, the file of 2020.
"""

from collections.abc import Iterator

from crawl.rows import Table, numbered_rows
from crawl.youtube import Clip, clip_of

# Source: Chen et al. 2020, arXiv 2004.14368, section 1.
_CLIP_S = 10.0


def vggsound_clips(table: Table) -> Iterator[Clip]:
    """The clips that the file names.

    Raises:
        ConfigError: while it is iterated: a line without a YouTube id and a second.
    """
    for row in numbered_rows(table, ("youtube_id", "start_seconds")):
        start_s = row.seconds("start_seconds")
        yield clip_of(row, row.text("youtube_id"), start_s, start_s + _CLIP_S)
