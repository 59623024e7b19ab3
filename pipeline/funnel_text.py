"""The funnel as a table for a terminal, as Markdown, and as JSON rows. Pure."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from crawl.politeness import HostPause
from infra.units import S_PER_H
from pipeline.funnel import Funnel

_MAX_HOSTS = 20
_COLUMNS = ("stage", "unit", "in", "kept", "rejected", "failed", "pending")


def funnel_rows(funnel: Funnel) -> list[dict[str, Any]]:
    """A row a stage."""
    return [
        dict(
            zip(
                _COLUMNS,
                (
                    count.stage,
                    count.unit,
                    count.num_in,
                    count.num_kept,
                    count.num_rejected,
                    count.num_failed,
                    count.num_pending,
                ),
                strict=True,
            )
        )
        for count in funnel.stages
    ]


def funnel_tree(funnel: Funnel) -> dict[str, Any]:
    """Everything, for `--json`."""
    return asdict(funnel) | {
        "stages": funnel_rows(funnel),
        "reasons": dict(funnel.reasons),
        "failures": [
            {"stage": stage, "code": code, "sources": number} for stage, code, number in funnel.failures
        ],
        "failed_hosts": [
            asdict(failed)
            | {"next_retry_at": failed.next_retry_at.isoformat() if failed.next_retry_at else None}
            for failed in funnel.failed_hosts
        ],
    }


def funnel_tables(funnel: Funnel) -> list[RenderableType]:
    """Stages, reasons and failures for a terminal."""
    stages = Table()
    for column in _COLUMNS:
        stages.add_column(column, justify="left" if column in ("stage", "unit") else "right")
    for row in funnel_rows(funnel):
        stages.add_row(*(str(value) for value in row.values()))
    tables: list[RenderableType] = [_titled(f"Funnel (recipe {funnel.recipe_id})", stages)]
    if funnel.reasons:
        reasons = Table()
        reasons.add_column("reason")
        reasons.add_column("spans", justify="right")
        for reason, number in funnel.reasons:
            reasons.add_row(reason, str(number))
        tables.append(_titled("Rejected, by reason (a span may have several)", reasons))
    return tables + _failure_tables(funnel)


def _failure_tables(funnel: Funnel) -> list[RenderableType]:
    """Failures by class, and by host where that says more."""
    if not funnel.failures:
        return []
    classes = Table()
    for column in ("stage", "class"):
        classes.add_column(column)
    classes.add_column("sources", justify="right")
    for stage, code, number in funnel.failures:
        classes.add_row(stage, code, str(number))
    tables: list[RenderableType] = [_titled("Failed, by class", classes)]
    hosts = Table()
    for column in ("host", "class"):
        hosts.add_column(column)
    for column in ("sources", "to be tried again", "not before"):
        hosts.add_column(column, justify="right")
    for failed in funnel.failed_hosts[:_MAX_HOSTS]:
        due = f"{failed.next_retry_at:%Y-%m-%d %H:%M:%S}" if failed.next_retry_at else ""
        hosts.add_row(failed.host, failed.code, str(failed.num_sources), str(failed.num_to_retry), due)
    num_more = len(funnel.failed_hosts) - _MAX_HOSTS
    more = f"; {num_more} more lines with --json" if num_more > 0 else ""
    if hosts.row_count > len(funnel.failures) or any(failed.num_to_retry for failed in funnel.failed_hosts):
        tables.append(_titled(f"Failed, by host (UTC{more})", hosts))
    return tables


def pause_lines(pauses: Sequence[HostPause]) -> list[str]:
    """A line for each host that is left alone."""
    return [
        f"{pause.host} is left alone until {datetime.fromtimestamp(pause.until_s, UTC):%Y-%m-%d %H:%M:%S} UTC"
        f" ({pause.code}: {pause.reason})"
        for pause in pauses
    ]


def _titled(title: str, table: Table) -> Group:
    """A table under a line of its own: a title inside would be folded to the table's width."""
    return Group(Text(title, style="italic"), table)


def kept_line(funnel: Funnel) -> str:
    """What a dataset can be packed from, and what of it would have to be made first."""
    kept = f"{funnel.kept_clips} clips kept, {funnel.kept_duration_s / S_PER_H:.3f} h"
    missing = funnel.missing
    if not missing.num_spans:
        return kept
    spans = (
        f"{missing.num_spans} spans ({missing.duration_s / S_PER_H:.3f} h) of {missing.num_sources} sources"
    )
    return (
        f"{kept}\n{spans} may be kept under these bounds and were never encoded;"
        " `avgen run --only-missing` makes them"
    )


def funnel_markdown(funnel: Funnel) -> str:
    """The stages, the reasons and the failures as Markdown lists."""
    lines = [f"# Funnel, recipe {funnel.recipe_id}", "", kept_line(funnel), ""]
    lines += [
        f"- {c.stage}: {c.num_in} {c.unit} in = {c.num_kept} kept + {c.num_rejected} rejected"
        f" + {c.num_failed} failed + {c.num_pending} pending"
        for c in funnel.stages
    ]
    lines += [f"- rejected for {reason}: {number}" for reason, number in funnel.reasons]
    lines += [f"- failed at {stage}, {code}: {number}" for stage, code, number in funnel.failures]
    return "\n".join(lines)
