"""Caps, weights, strata and a number of clips as SQL. Pure.

Wherever some clips must go, those that the dataset's last version has stay before others, and among equals a
hash of seed and clip id decides. Hours are counted in whole milliseconds: their sums are exact in any order.
"""

from collections.abc import Mapping

from infra.units import MS_PER_S, S_PER_H
from pipeline.mixture import DatasetConfig, StratifyConfig

_ORDER = "packed desc, draw, clip_id"


def sql_string(text: str) -> str:
    """A text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def sql_number(number: float) -> str:
    """A number as an SQL literal of the same double; without an exponent it would be a decimal."""
    digits = repr(float(number))
    return digits if "e" in digits else f"{digits}e0"


def draw_sql(seed: int) -> str:
    """An integer that orders clips like `shards.plan.hash_order` does, as an expression over `clip_id`."""
    return f"('0x' || sha256('{seed}/' || clip_id)[1:16])::ubigint"


def capped_sql(before: str, config: DatasetConfig) -> str:
    """The clips of `before` that the caps of channels leave."""
    caps = []
    if config.max_clips_per_channel is not None:
        caps.append(f"row_number() over so_far <= {config.max_clips_per_channel}")
    if config.max_hours_per_channel is not None:
        caps.append(
            f"sum(duration_ms) over so_far <= {round(config.max_hours_per_channel * S_PER_H * MS_PER_S)}"
        )
    return f"""
    from {before} window so_far as (partition by channel order by {_ORDER} rows unbounded preceding)
    qualify {" and ".join(caps)}"""


def weighted_sql(before: str, weights: Mapping[str, float]) -> dict[str, str]:
    """Common table expressions, the last of which has clips of `before` with hours per kind like the weights."""
    values = ", ".join(
        f"({sql_string(kind)}, {sql_number(weight)})" for kind, weight in sorted(weights.items())
    )
    return {
        "budgets": f"""
    select kind, round(weight * min(sum(duration_ms) / weight) over ()) as budget_ms
    from {before} join (values {values}) as weights(kind, weight) using (kind) where weight > 0
    group by kind, weight""",
        "weighted": f"""
    select c.* from {before} c join budgets using (kind)
    qualify sum(duration_ms) over (partition by kind order by {_ORDER} rows unbounded preceding) <= budget_ms""",
    }


def drawn_sql(before: str, config: DatasetConfig, *, is_number: bool) -> dict[str, str]:
    """Common table expressions, the last of which has `max_clips` clips of `before`.

    Strata give a clip in turn until there are enough. With weights every kind gives the same part of what it has,
    so that the weights still hold.

    Args:
        before: has the column of the strata as `stratum_value`.
        is_number: whether that column is cut into bins.
    """
    tables: dict[str, str] = {}
    order, by_kind = _ORDER, "kind, " if config.weights else ""
    if config.stratify.column:
        tables |= _turns_sql(before, config.stratify, by_kind=by_kind, is_number=is_number)
        before, order = "turns", f"turn, {order}"
    if config.weights:
        tables["places"] = f"""
    select *, row_number() over (partition by kind order by {order}) / count(*) over (partition by kind) as place
    from {before}"""
        before, order = "places", f"place, kind, {order}"
    return tables | {"drawn": f"from {before} order by {order} limit {config.max_clips}"}


def _turns_sql(before: str, config: StratifyConfig, *, by_kind: str, is_number: bool) -> dict[str, str]:
    stratum = "stratum_value::varchar"
    edges = {}
    if is_number:
        edges = {"edges": f"select {_edges_sql(config)} as edges from {before}"}
        stratum = "len(list_filter((select edges from edges), lambda edge: edge < stratum_value))"
        stratum = f"if(stratum_value is null, null, {stratum})"
    return edges | {
        "turns": f"""
    select *, row_number() over (partition by {by_kind}{stratum} order by {_ORDER}) as turn from {before}"""
    }


def _edges_sql(config: StratifyConfig) -> str:
    """The inner edges of the bins, ascending."""
    steps = range(1, config.bins)
    if config.edges == "quantile":
        return f"quantile_disc(stratum_value, [{', '.join(sql_number(k / config.bins) for k in steps)}])"
    lowest, highest = (f"quantile_disc(stratum_value::double, {share})" for share in ("0.01", "0.99"))
    edge = f"{lowest} + ({highest} - {lowest}) * k / {config.bins}"
    return f"list_transform(range(1, {config.bins}), lambda k: {edge})"
