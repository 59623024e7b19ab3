"""What a dataset would hold, for a terminal and as JSON: the plan, before anything is written. Pure."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from infra.units import S_PER_H
from pipeline.select_clips import Selection, ShareCount
from pipeline.selection_sql import RULES


def selection_tree(selection: Selection) -> dict[str, Any]:
    """Everything, for `--json`."""
    counts = asdict(selection)
    return counts | {"splits": counts.pop("counts"), "num_clips": selection.steps[-1].num_clips}


def selection_tables(selection: Selection) -> list[RenderableType]:
    """Rules, splits, kinds, channels and licences for a terminal."""
    return [
        _titled(f"Selection (recipe {selection.recipe_id})", _rules_table(selection)),
        _titled("Splits", _splits_table(selection)),
        _titled("Mixture by source kind", _share_table("kind", selection.kinds, selection)),
        _titled("Largest channels", _share_table("channel", selection.channels, selection)),
        _titled("Licences", _share_table("licence", selection.licences, selection)),
        Text(models_line(selection)),
    ]


def selection_line(selection: Selection) -> str:
    """What would be packed, in a line."""
    last = selection.steps[-1]
    num_sources = sum(count.num_sources for count in selection.counts)
    return f"{last.num_clips:,} clips of {num_sources:,} sources selected, {_hours(last.duration_s)} h"


def models_line(selection: Selection) -> str:
    """The models whose embeddings the clips have, with their weights."""
    models = selection.models
    return f"embeddings: {models.clip_model} ({models.clip_weights}), {models.clap_model} ({models.clap_weights})"


def _rules_table(selection: Selection) -> Table:
    table = _table("rule", "clips out", "hours out", "clips left", "hours left")
    for step in selection.steps:
        out = (
            (f"{step.num_clips_out:,}", _hours(step.duration_out_s)) if step.rule != "measured" else ("", "")
        )
        table.add_row(RULES[step.rule], *out, f"{step.num_clips:,}", _hours(step.duration_s))
    return table


def _splits_table(selection: Selection) -> Table:
    shares = [
        ShareCount(name=c.split, num_clips=c.num_clips, num_sources=c.num_sources, duration_s=c.duration_s)
        for c in selection.counts
    ]
    return _share_table("split", shares, selection)


def _share_table(what: str, shares: Sequence[ShareCount], selection: Selection) -> Table:
    table = _table(what, "clips", "sources", "hours", "share")
    total_s = selection.steps[-1].duration_s
    for share in shares:
        ratio = f"{share.duration_s / total_s:.1%}" if total_s else ""
        table.add_row(
            Text(share.name),
            f"{share.num_clips:,}",
            f"{share.num_sources:,}",
            _hours(share.duration_s),
            ratio,
        )
    return table


def _table(first: str, *numbers: str) -> Table:
    table = Table()
    table.add_column(first)
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _hours(duration_s: float) -> str:
    return f"{duration_s / S_PER_H:,.3f}"


def _titled(title: str, table: Table) -> Group:
    """A table under a line of its own: a title inside would be folded to the table's width."""
    return Group(Text(title, style="italic"), table)
