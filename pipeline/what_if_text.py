"""What bounds would cost, as tables for a terminal and as JSON. Pure."""

from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.what_if import ALL, Amount, BoundCost, WhatIf


def what_if_tree(answer: WhatIf) -> dict[str, Any]:
    """Everything, for `--json`."""
    bounds = [{"filter": name, "bound": then, "bound_now": now} for name, then, now in answer.bounds]
    return asdict(answer) | {"bounds": bounds}


def what_if_tables(answer: WhatIf) -> list[RenderableType]:
    """What changes by source kind, then what each bound costs."""
    return [_titled(f"Measured spans (recipe {answer.recipe_id})", _kinds(answer)), *_costs(answer)]


def what_if_lines(answer: WhatIf) -> list[str]:
    """What to know and do next."""
    total = answer.kinds[-1]
    lines = [f"{name}: {then}, now {now}" for name, then, now in answer.bounds if then != now] or [
        "these are the bounds of the latest run"
    ]
    if total.missing.clips:
        lines.append(
            f"{_text(total.missing)} may be kept under these bounds and were never encoded;"
            " `avgen run --only-missing` with the same --set makes them"
        )
    return lines


def _kinds(answer: WhatIf) -> Table:
    table = Table()
    table.add_column("source kind")
    for column in ("measured", "kept now", "kept then", "lost", "to be made"):
        table.add_column(column, justify="right")
    one_kind = len(answer.kinds) == 2
    for row in answer.kinds[1:] if one_kind else answer.kinds:
        amounts = (row.measured, row.kept_now, row.kept_then, row.lost, row.missing)
        table.add_row(row.kind or "unknown", *map(_text, amounts))
    return table


def _costs(answer: WhatIf) -> list[RenderableType]:
    """Dearest first: what would be won without the bound."""
    totals = [cost for cost in answer.costs if cost.kind == ALL]
    if not totals:
        return []
    kinds = [row.kind for row in answer.kinds if row.kind != ALL]
    table = Table()
    table.add_column("bound")
    for column in ("breaks it", "it alone", "not measured"):
        table.add_column(column, justify="right")
    for kind in kinds if len(kinds) > 1 else ():
        table.add_column(f"it alone, {kind or 'unknown'}", justify="right")
    described = {name: f"{name} {then}" for name, then, _ in answer.bounds}
    by_key = {(cost.filter, cost.kind): cost for cost in answer.costs}
    for cost in sorted(totals, key=lambda cost: (-cost.alone.hours, -cost.broken.hours, cost.filter)):
        by_kind = [_text(by_key[cost.filter, kind].alone) for kind in kinds] if len(kinds) > 1 else []
        table.add_row(described[cost.filter], *_cells(cost), *by_kind)
    return [
        _titled(
            "What each bound costs: spans that break it, and those that nothing else speaks against", table
        )
    ]


def _cells(cost: BoundCost) -> tuple[str, str, str]:
    return _text(cost.broken), _text(cost.alone), f"{cost.num_unmeasured:,}"


def _text(amount: Amount) -> str:
    return f"{amount.clips:,} ({amount.hours:,.3f} h)"


def _titled(title: str, table: Table) -> Group:
    return Group(Text(title, style="italic"), table)
