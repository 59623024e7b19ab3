"""What bounds would cost: counted from stored scores, without decoding anything."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from filters.registry import Bounds
from infra.units import S_PER_H
from pipeline.catalog import Catalog
from pipeline.verdict_sql import admitted_sql, bounded, broken_sql


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """A number of spans and their length."""

    clips: int
    hours: float


@dataclass(frozen=True, slots=True, kw_only=True)
class KindChange:
    """What becomes of the measured spans of one source kind."""

    kind: str
    measured: Amount
    kept_now: Amount
    """Staged, and kept by the bounds of the latest run."""
    kept_then: Amount
    """Staged, and kept by the bounds that are asked about."""
    lost: Amount
    """Kept now and not then."""
    missing: Amount
    """Kept then as far as they were measured, but never encoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundCost:
    """What one bound does to the measured spans of one source kind."""

    filter: str
    kind: str
    broken: Amount
    """Spans whose score lies outside."""
    alone: Amount
    """Those of them that nothing else speaks against."""
    num_unmeasured: int
    """Spans that have no such score, for a cheaper one had rejected them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIf:
    """The bounds that are asked about, and what they would cost."""

    recipe_id: str
    bounds: tuple[tuple[str, str, str], ...]
    """Filter, its bound, and what it is in the latest run; both in words."""
    kinds: tuple[KindChange, ...]
    """By kind; the last is of all kinds together, and named `all`."""
    costs: tuple[BoundCost, ...]
    """Of every bound, by kind and in total (`all`)."""


ALL = "all"


def read_what_if(catalog: Catalog, *, recipe_id: str, bounds: Mapping[str, Bounds], where: str) -> WhatIf:
    """Compare bounds with those of the latest run, on all spans that were measured under a recipe.

    Args:
        where: leave out spans that do not satisfy this condition over the columns of `clips`.

    Raises:
        ConfigError: the condition is no SQL expression over these columns.
    """
    now = catalog.bounds(recipe_id)
    names = bounded(bounds)
    rows = catalog.query(_sql(now, bounds, where=catalog.condition(where)), [recipe_id]).to_pylist()
    rows.sort(key=lambda row: (row["kind"] == ALL, row["kind"]))
    shown = sorted({*names, *bounded(now)})
    return WhatIf(
        recipe_id=recipe_id,
        bounds=tuple((name, bounds[name].describe(), now[name].describe()) for name in shown),
        kinds=tuple(_kind_change(row) for row in rows),
        costs=tuple(_cost(row, name) for name in names for row in rows),
    )


def _sql(now: Mapping[str, Bounds], then: Mapping[str, Bounds], *, where: str) -> str:
    """One row a source kind, and one of all, with every amount as a number of spans and their seconds."""
    names = bounded(then)
    broken = ", ".join(f"coalesce({broken_sql(name, then[name])}, false) as {name}_broken" for name in names)
    num_broken = " + ".join(["0", *(f"{name}_broken::int" for name in names)])
    kept_now, kept_then = "staged and admitted_now", "staged and admitted_then"
    amounts = {
        "measured": "true",
        "kept_now": kept_now,
        "kept_then": kept_then,
        "lost": f"{kept_now} and not admitted_then",
        "missing": "not staged and admitted_then",
    }
    for name in names:
        amounts[f"{name}_broken"] = f"{name}_broken"
        amounts[f"{name}_alone"] = f"{name}_broken and num_broken = 1 and faults is null"
        amounts[f"{name}_unmeasured"] = f"{name} is null"
    sums = ",\n".join(
        f"count(*) filter ({test}) as {name}_clips, coalesce(sum(span_s) filter ({test}), 0) as {name}_s"
        for name, test in amounts.items()
    )
    return f"""
        with judged as (
            select source_id, faults, {", ".join([*names, "end_s - start_s as span_s"])},
                   bundle_key is not null as staged, {admitted_sql(now)} as admitted_now,
                   {admitted_sql(then)} as admitted_then{", " + broken if broken else ""}
            from clips where recipe_id = ? and ({where})
        ), counted as (
            select *, {num_broken} as num_broken from judged
        ), kinds as (select source_id, min(kind) as kind from sources group by 1)
        select coalesce(kind, '{ALL}') as kind, {sums}
        from (select coalesce(kind, '') as kind, c.* from counted c left join kinds using (source_id))
        group by grouping sets ((kind), ())
    """


def _kind_change(row: Mapping[str, Any]) -> KindChange:
    return KindChange(
        kind=row["kind"],
        measured=_amount(row, "measured"),
        kept_now=_amount(row, "kept_now"),
        kept_then=_amount(row, "kept_then"),
        lost=_amount(row, "lost"),
        missing=_amount(row, "missing"),
    )


def _cost(row: Mapping[str, Any], name: str) -> BoundCost:
    return BoundCost(
        filter=name,
        kind=row["kind"],
        broken=_amount(row, f"{name}_broken"),
        alone=_amount(row, f"{name}_alone"),
        num_unmeasured=row[f"{name}_unmeasured_clips"],
    )


def _amount(row: Mapping[str, Any], name: str) -> Amount:
    return Amount(clips=row[f"{name}_clips"], hours=row[f"{name}_s"] / S_PER_H)
