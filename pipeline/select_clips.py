"""Which clips a dataset holds, and in which split: one query, checked against the lake, with its counts."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from filters.registry import Bounds
from infra.config import did_you_mean
from infra.errors import ConfigError, IntegrityError
from infra.units import MS_PER_S
from pipeline.catalog import Catalog
from pipeline.dedup_config import DedupConfig
from pipeline.mixture import DatasetConfig
from pipeline.selection_sql import (
    ORIGIN_COLUMNS,
    RULES,
    SelectionRules,
    counts_sql,
    rules_of,
    selection_sql,
    selection_tables,
)
from pipeline.splits import SPLITS
from shards.schema import EmbeddingModels

_ADVICE = {
    "measured": "see `avgen status`",
    "in_bounds": "loosen filters; `avgen what-if` says what each bound costs",
    "staged": "these clips were outside the bounds of the run; encode them with `avgen run --only-missing`",
    "wanted": "loosen --where",
}
"""What to do when a rule leaves nothing."""
_LATER_ADVICE = "loosen the settings of dataset"

_NUMBER_TYPES = {"DOUBLE", "FLOAT", "INTEGER", "BIGINT"}
"""Types of the columns of numbers that `lake_tables` has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCount:
    """What one rule left of what came before it."""

    rule: str
    """A key of `selection_sql.RULES`."""
    num_clips_out: int
    duration_out_s: float
    num_clips: int
    """Those that are left."""
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitCount:
    """What a split has."""

    split: str
    num_clips: int
    num_sources: int
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareCount:
    """What a dataset has of one source kind, channel or licence."""

    name: str
    num_clips: int
    num_sources: int
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The clips of a dataset: the query for them, and what they are in numbers."""

    recipe_id: str
    sql: str
    """Columns `clip_id, split`; it reads views of the catalog and nothing else."""
    models: EmbeddingModels
    counts: tuple[SplitCount, ...]
    """Of the splits that have clips: train, val, test."""
    steps: tuple[StepCount, ...]
    """The first is what was measured, the last has the clips of the dataset."""
    kinds: tuple[ShareCount, ...]
    """Most hours first, as the others."""
    channels: tuple[ShareCount, ...]
    """The largest ones."""
    licences: tuple[ShareCount, ...]


def select_clips(  # noqa: PLR0913 - each is a part of one request
    catalog: Catalog,
    *,
    recipe_id: str,
    bounds: Mapping[str, Bounds],
    where: str,
    config: DatasetConfig,
    dedup: DedupConfig,
    dataset: str,
    seed: int,
) -> Selection:
    """The clips that a dataset would hold now.

    Args:
        bounds: of the scores, by filter; they need not be those of the run that measured.
        where: a condition over the columns of `clips`.
        dataset: clips of its last version stay before others wherever some must go.

    Raises:
        ConfigError: nothing is selected, a setting does not fit the clips, or some clips were not compared for
            duplicates.
        IntegrityError: the embeddings come from several models.
    """
    _check_order(catalog, dedup.keep)
    rules = SelectionRules(
        recipe_id=recipe_id,
        bounds=bounds,
        condition=_condition(catalog, where),
        config=config,
        keep=dedup.keep,
        has_groups=_has_groups(catalog, recipe_id, config),
        dataset=dataset,
        last_version=_last_version(catalog, dataset),
        seed=seed,
        stratum_is_number=_is_number(catalog, config.stratify.column),
    )
    tables = selection_tables(rules)
    counts: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in catalog.query(counts_sql(rules, tables)).to_pylist():
        counts[row["what"]].append(row)
    steps = _steps(counts["rule"], rules_of(tables))
    _check_weights(config.weights, counts["weighable"])
    _check_steps(steps, recipe_id=recipe_id, where=where)
    _check_compared(counts["uncompared"])
    splits = sorted(counts["split"], key=lambda row: SPLITS.index(row["name"]))
    return Selection(
        recipe_id=recipe_id,
        sql=selection_sql(tables),
        models=_models(catalog, recipe_id),
        counts=tuple(SplitCount(split=row["name"], **_numbers(row)) for row in splits),
        steps=steps,
        kinds=_shares(counts["kind"]),
        channels=_shares(counts["channel"]),
        licences=_shares(counts["licence"]),
    )


def _condition(catalog: Catalog, where: str) -> str:
    condition = catalog.condition(where)
    try:
        catalog.query(f"select 1 from clips where {condition} limit 0")
    except ConfigError as err:
        raise ConfigError(f"--where must fit the columns of clips, got {where!r}: {err}") from err
    return condition


def _check_order(catalog: Catalog, keep: Sequence[str]) -> None:
    for term in keep:
        try:
            catalog.query(f"select 1 from clips order by {term} limit 0")
        except ConfigError as err:
            raise ConfigError(
                f"dedup.keep must be terms of an order over clips, got {term!r}: {err}"
            ) from err


def _has_groups(catalog: Catalog, recipe_id: str, config: DatasetConfig) -> bool:
    found = catalog.rows("select 1 from raw.duplicates where recipe_id = ? limit 1", [recipe_id])
    if config.dedup == "on" and not found:
        raise ConfigError(
            f"dataset.dedup is on, but no clip of recipe {recipe_id} was compared with others; run `avgen dedup`"
        )
    return bool(found)


def _last_version(catalog: Catalog, dataset: str) -> int:
    rows = catalog.rows("select coalesce(max(version), 0) from datasets where dataset = ?", [dataset])
    return rows[0][0]


def _is_number(catalog: Catalog, column: str) -> bool:
    """Whether strata are bins of the column."""
    if not column:
        return False
    types = dict(catalog.rows("select column_name, column_type from (describe clips)"))
    types |= dict.fromkeys(ORIGIN_COLUMNS, "VARCHAR")
    if column not in types:
        raise ConfigError(
            f"dataset.stratify.column must be a column of clips or one of {', '.join(ORIGIN_COLUMNS)},"
            f" got {column!r}{did_you_mean(column, types)}"
        )
    return types[column] in _NUMBER_TYPES


def _models(catalog: Catalog, recipe_id: str) -> EmbeddingModels:
    rows = catalog.rows(
        "select distinct model_kind, model, weights from embeddings where recipe_id = ? order by all",
        [recipe_id],
    )
    names = {kind: {f"{kind}_model": model, f"{kind}_weights": weights} for kind, model, weights in rows}
    if len(rows) != len(names) or set(names) != {"clip", "clap"}:
        raise IntegrityError(
            f"the embeddings of a recipe must come from one pair of models, got {rows} (recipe {recipe_id})"
        )
    return EmbeddingModels(**names["clip"], **names["clap"])


def _numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "num_clips": int(row["num_clips"]),
        "num_sources": int(row["num_sources"]),
        "duration_s": int(row["duration_ms"]) / MS_PER_S,
    }


def _shares(rows: Sequence[Mapping[str, Any]]) -> tuple[ShareCount, ...]:
    largest_first = sorted(rows, key=lambda row: (-row["duration_ms"], row["name"]))
    return tuple(ShareCount(name=row["name"], **_numbers(row)) for row in largest_first)


def _steps(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> tuple[StepCount, ...]:
    left = {row["name"]: (int(row["num_clips"]), int(row["duration_ms"])) for row in rows}
    before = [left[names[0]], *(left[name] for name in names)]
    return tuple(
        StepCount(
            rule=name,
            num_clips_out=num_before - left[name][0],
            duration_out_s=(ms_before - left[name][1]) / MS_PER_S,
            num_clips=left[name][0],
            duration_s=left[name][1] / MS_PER_S,
        )
        for name, (num_before, ms_before) in zip(names, before, strict=False)
    )


def _check_weights(weights: Mapping[str, float], rows: Sequence[Mapping[str, Any]]) -> None:
    """Raises `ConfigError` unless weights and clips are of the same kinds."""
    found = {row["name"]: row["num_clips"] for row in rows}
    if not found:
        return
    for kind in sorted(found.keys() - weights.keys()):
        raise ConfigError(
            f"dataset.weights must name every source kind that has clips, {kind} ({found[kind]} clips) is missing;"
            f" add dataset.weights.{kind}, 0 to leave it out"
        )
    for kind in sorted(kind for kind in weights.keys() - found.keys() if weights[kind]):
        raise ConfigError(
            f"dataset.weights must name source kinds that have clips, {kind} has none{did_you_mean(kind, found)}"
        )


def _check_steps(steps: Sequence[StepCount], *, recipe_id: str, where: str) -> None:
    empty = next((step for step in steps if not step.num_clips), None)
    if empty is None:
        return
    rule = f"--where {where}" if empty.rule == "wanted" else RULES[empty.rule]
    took = f"{rule} took out all {empty.num_clips_out}" if empty.num_clips_out else "none was measured"
    advice = _ADVICE.get(empty.rule, _LATER_ADVICE)
    raise ConfigError(f"a dataset must hold at least one clip, {took} (recipe {recipe_id}); {advice}")


def _check_compared(rows: Sequence[Mapping[str, Any]]) -> None:
    for row in rows:
        if row["num_clips"]:
            raise ConfigError(
                f"every clip must be compared for duplicates, {row['num_clips']} were not, first {row['name']};"
                " run `avgen dedup`, or set dataset.dedup=off"
            )
