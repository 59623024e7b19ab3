"""What `avgen dedup` found, as tables for a terminal. Pure."""

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from infra.units import S_PER_H
from pipeline.find_duplicates import DedupSummary


def dedup_tables(summary: DedupSummary) -> list[RenderableType]:
    """What each way of comparing found, the largest groups, and what packing leaves out."""
    methods = Table()
    methods.add_column("compared by")
    for column in ("pairs", "new", "codes compared", "left out as too common"):
        methods.add_column(column, justify="right")
    methods.add_column("")
    for method in summary.methods:
        counts = (method.num_pairs, method.num_new_pairs, method.num_compared, method.num_left_out)
        methods.add_row(method.method, *(f"{count:,}" for count in counts), method.skipped)
    tables: list[RenderableType] = [methods]
    if summary.largest:
        groups = Table()
        groups.add_column("largest groups")
        groups.add_column("clips", justify="right")
        for group_id, number in summary.largest:
            groups.add_row(group_id, f"{number:,}")
        tables.append(groups)
    return [*tables, Text(_total_line(summary))]


def _total_line(summary: DedupSummary) -> str:
    return (
        f"{summary.num_clips:,} clips compared ({summary.num_new_clips:,} new): {summary.num_groups:,} groups;"
        f" packing leaves out {summary.num_removed:,} clips, {summary.removed_s / S_PER_H:,.3f} h"
    )
