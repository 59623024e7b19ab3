"""The query that a dataset is, as SQL over the views of the catalog, and what each of its rules takes out. Pure.

    measured -> in_bounds -> staged -> wanted (--where) -> candidates -> distinct_clips -> apart (no leaks)
             -> capped -> weighted -> drawn (max_clips)

Every rule is a common table expression; rules that are not asked for are not in the text. The text says all that
it depends on (bounds, seed, version of the dataset), so that it selects the same clips from the same lake.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from filters.registry import Bounds
from infra.units import MS_PER_S
from pipeline.mixture import DatasetConfig
from pipeline.mixture_sql import capped_sql, draw_sql, drawn_sql, sql_string, weighted_sql
from pipeline.splits import apart_sql, origins_sql
from pipeline.verdict_sql import admitted_sql

ORIGIN_COLUMNS = ("kind", "channel", "uploader", "licence")
"""What the query knows of a clip's source."""

RULES = {
    "measured": "measured",
    "in_bounds": "bounds of the filters",
    "staged": "not staged",
    "wanted": "--where",
    "distinct_clips": "duplicates",
    "apart": "leaks between splits",
    "capped": "caps of channels",
    "weighted": "weights of kinds",
    "drawn": "max_clips",
}
"""Table expressions of which the plan says how many rows they have, in their order, and names of what they do."""

MAX_CHANNELS = 10
"""Channels that the counts name, the largest first."""

_WIDE = ("measured", "in_bounds", "staged", "wanted")
"""Table expressions with all columns of `clips`."""
_KIND = "coalesce(kind, 'unknown')"
_CHANNEL_NAME = """
           case when channel is null then source_id when uploader in ('', channel) or uploader is null then channel
           else uploader || ' (' || channel || ')' end"""
_DURATION_MS = f"round({MS_PER_S} * (end_s - start_s))::bigint"


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionRules:
    """What the query follows from."""

    recipe_id: str
    bounds: Mapping[str, Bounds]
    condition: str
    """Over the columns of `clips`, as `Catalog.condition` returns it."""
    config: DatasetConfig
    keep: Sequence[str]
    """Which member of a duplicate group stays: terms of an SQL order."""
    has_groups: bool
    """Clips of the recipe were compared for duplicates."""
    dataset: str
    last_version: int
    """0 while the dataset has none."""
    seed: int
    stratum_is_number: bool = False

    @property
    def dedup(self) -> bool:
        """Whether one clip of each duplicate group stays."""
        return self.config.dedup == "on" or (self.config.dedup == "auto" and self.has_groups)


def selection_tables(rules: SelectionRules) -> dict[str, str]:
    """The common table expressions of the query, in their order; the last one has the selected clips."""
    config = rules.config
    tables = _wanted(rules) | _candidates(rules)
    if rules.dedup:
        tables |= _distinct_clips(rules.keep)
    if config.split.val or config.split.test:
        tables |= apart_sql(_last(tables), by_group=rules.has_groups and not rules.dedup)
    if config.max_clips_per_channel is not None or config.max_hours_per_channel is not None:
        tables["capped"] = capped_sql(_last(tables), config)
    if config.weights:
        tables |= weighted_sql(_last(tables), config.weights)
    if config.max_clips is not None:
        tables |= drawn_sql(_last(tables), config, is_number=rules.stratum_is_number)
    return tables


def rules_of(tables: Mapping[str, str]) -> list[str]:
    """The rules that are asked for, in their order."""
    return [name for name in RULES if name in tables]


def selection_sql(tables: Mapping[str, str]) -> str:
    """The query itself: `clip_id, split`."""
    return f"{_with(tables)}\nselect clip_id, split from {_last(tables)}"


def counts_sql(rules: SelectionRules, tables: Mapping[str, str]) -> str:
    """Rows `what, name, num_clips, num_sources, duration_ms`, counted in the same table expressions.

    `what` is `rule`, `split`, `kind`, `channel`, `licence`, `weighable` (a kind before it is weighted) or
    `uncompared` (with the id of a clip).
    """
    names = rules_of(tables)
    counts = [_rule_count(name) for name in names] + [_share(what) for what in ("split", "kind", "licence")]
    counts.append(f"(from ({_share('channel')}) order by duration_ms desc, name limit {MAX_CHANNELS})")
    if rules.dedup:
        counts.append(
            "select 'uncompared', min(clip_id), count(*), 0, 0"
            " from candidates anti join (select clip_id from compared) using (clip_id)"
        )
    if "weighted" in tables:
        before = names[names.index("weighted") - 1]
        before = "candidates" if before in _WIDE else before
        counts.append(f"select 'weighable', kind, count(*), 0, 0 from {before} group by kind")
    per_source = {
        "per_source": f"""
    select source_id, split, count(*) as num_clips, sum(duration_ms) as duration_ms from {_last(tables)}
    group by source_id, split""",
        "described": f"""
    select p.source_id, split, num_clips, duration_ms, {_KIND} as kind,
           coalesce(nullif(licence, ''), 'not stated') as licence, {_CHANNEL_NAME} as channel
    from per_source p left join (select * exclude (split) from origins) using (source_id)""",
    }
    return f"{_with({**tables, **per_source})}\n" + "\nunion all ".join(counts)


def _wanted(rules: SelectionRules) -> dict[str, str]:
    return {
        "measured": f"from clips where recipe_id = {sql_string(rules.recipe_id)}",
        "in_bounds": f"from measured where {admitted_sql(rules.bounds)}",
        "staged": "from in_bounds where bundle_key is not null and embedding_key != ''",
        "wanted": f"from staged where {rules.condition}",
    }


def _candidates(rules: SelectionRules) -> dict[str, str]:
    """What the later rules look at, of every wanted clip."""
    tables = {"origins": origins_sql(rules.config.split)}
    columns, joins = "", ""
    if rules.last_version:
        tables["last_version"] = (
            f"select clip_id from samples where dataset = {sql_string(rules.dataset)}"
            f" and version = {rules.last_version}"
        )
    if rules.has_groups:
        # A group is named by one of its clips. The view `duplicates` would find the latest row of every clip; most
        # were always alone, and are passed over here.
        tables["compared"] = (
            "select clip_id, group_id, found_at from raw.duplicates"
            f" where recipe_id = {sql_string(rules.recipe_id)}"
        )
        tables["members"] = """
    select clip_id, max_by(group_id, found_at) as group_id from compared
    where clip_id in (select clip_id from compared where clip_id != group_id)
    group by clip_id having clip_id != max_by(group_id, found_at)"""
        tables["groups"] = "from members union all select distinct group_id, group_id from members"
        columns += ", group_id"
        joins += "\n    left join groups using (clip_id)"
    if rules.config.stratify.column:
        columns += f", {rules.config.stratify.column} as stratum_value"
    packed = "clip_id in (from last_version)" if rules.last_version else "false"
    tables["candidates"] = f"""
    select clip_id, source_id, coalesce(split, 'train') as split, {_KIND} as kind,
           coalesce(channel, source_id) as channel,
           {_DURATION_MS} as duration_ms, {packed} as packed, {draw_sql(rules.seed)} as draw{columns}
    from wanted left join origins using (source_id){joins}"""
    return tables


def _distinct_clips(keep: Sequence[str]) -> dict[str, str]:
    order = ", ".join(("packed desc", *keep, "clip_id"))
    return {
        "copies": f"""
    select clip_id from candidates join wanted using (clip_id, source_id) where group_id is not null
    qualify row_number() over (partition by group_id order by {order}) > 1""",
        "distinct_clips": "from candidates anti join copies using (clip_id)",
    }


def _rule_count(name: str) -> str:
    duration_ms = _DURATION_MS if name in _WIDE else "duration_ms"
    return (
        f"select 'rule' as what, '{name}' as name, count(*) as num_clips, 0 as num_sources,"
        f" coalesce(sum({duration_ms}), 0) as duration_ms from {name}"
    )


def _share(what: str) -> str:
    return (
        f"select '{what}' as what, {what} as name, sum(num_clips), count(distinct source_id),"
        f" sum(duration_ms) as duration_ms from described group by {what}"
    )


def _last(tables: Mapping[str, str]) -> str:
    return list(tables)[-1]


def _with(tables: Mapping[str, str]) -> str:
    return "with " + ",\n".join(f"{name} as ({sql.strip()})" for name, sql in tables.items())
