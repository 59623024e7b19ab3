"""Questions about a root, answered by DuckDB over the lake's live files: a view for every table.

A source's outcome follows from its rows: it has clips (then it is kept or rejected) or only failures.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from infra.errors import (
    ChildKilled,
    ConfigError,
    FetchTimeout,
    IntegrityError,
    NetworkFailure,
    RateLimited,
    StorageUnavailable,
)
from pipeline.lake import lake_files

RETRIED_CODES = (
    ChildKilled.code,
    NetworkFailure.code,
    FetchTimeout.code,
    RateLimited.code,
    StorageUnavailable.code,
)
"""Failures that the same command tries again: the world may have changed. All others are final."""

# A feed or playlist that could not be listed is a source that failed; once a later run has listed it, its entries
# are the sources and it is none itself.
_OUTCOMES = """
create view listed as
select source_id from (select source_id, max(listed_at) as listed_at from listings group by 1)
left join (select subject_id as source_id, max(failed_at) as failed_at from failures group by 1)
using (source_id) where failed_at is null or listed_at > failed_at;
create view outcomes as
with judged as (
    select source_id, recipe_id, bool_or(kept) as any_kept from clips group by all
), latest_failures as (
    select subject_id as source_id, recipe_id, arg_max(stage, failed_at) as stage,
           arg_max(code, failed_at) as code, arg_max(message, failed_at) as message
    from failures where subject_id not in (select source_id from listed) group by all
)
select source_id, recipe_id,
       case when judged.any_kept then 'kept' when judged.any_kept = false then 'rejected' else 'failed' end
           as outcome,
       if(judged.any_kept is null, latest_failures.stage, null) as stage,
       if(judged.any_kept is null, latest_failures.code, null) as code,
       if(judged.any_kept is null, latest_failures.message, null) as message
from judged full join latest_failures using (source_id, recipe_id)
"""


# `current_date` and its like are written without parentheses and parsed as columns.
_UNSTABLE_FUNCTIONS = """
with parsed as (select json_serialize_sql('select ' || ?::varchar) as tree),
named as (
    select unnest(json_extract_string(tree, '$..function_name')) as name from parsed
    union select unnest(json_extract_string(tree, '$..column_names[0]')) from parsed
)
select distinct name from named join duckdb_functions() on function_name in (name, 'get_' || name)
where stability != 'CONSISTENT' order by 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCount:
    """One line of the funnel; `num_in` is the sum of the others."""

    stage: str
    unit: str
    num_in: int
    num_kept: int
    num_rejected: int
    num_failed: int
    num_pending: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Funnel:
    """What became of everything that was put in, under one recipe."""

    recipe_id: str
    stages: tuple[StageCount, ...]
    reasons: tuple[tuple[str, int], ...]
    """Reject reason -> spans that have it, most frequent first; a span may have several."""
    failures: tuple[tuple[str, str, int], ...]
    """Stage, code -> sources."""
    kept_clips: int
    kept_duration_s: float


class Catalog:
    """A read-only DuckDB connection with the lake as it is now."""

    def __init__(self, root: Path) -> None:
        self._connection = duckdb.connect()
        for name, (schema, uris) in lake_files(root).items():
            self._create_view(name, schema, uris)
        self._connection.execute(_OUTCOMES)

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        """The result of a query.

        Raises:
            ConfigError: DuckDB refuses it.
        """
        try:
            relation = self._connection.sql(sql, params=list(parameters))
            table = relation.to_arrow_table() if relation is not None else None
        except duckdb.Error as err:
            first_line = str(err).strip().splitlines()[0]
            tables = ", ".join(self.tables())
            raise ConfigError(
                f"the query must be DuckDB SQL over {tables}; DuckDB says: {first_line}"
            ) from err
        if table is None:
            raise ConfigError(
                f"the query must return rows, this one does not: {sql.strip() or 'it is empty'}"
            )
        return table

    def condition(self, where: str) -> str:
        """`where` as DuckDB writes it: one expression, which selects the same rows whenever it is asked.

        Raises:
            ConfigError: it is no expression, or calls a function that answers differently every time.
        """
        try:
            condition = str(duckdb.SQLExpression(where))
        except duckdb.Error as err:
            first_line = str(err).strip().splitlines()[0]
            raise ConfigError(
                f"--where must be one SQL condition over the columns of clips, got {where!r};"
                f" DuckDB says: {first_line}"
            ) from err
        unstable = self._rows(_UNSTABLE_FUNCTIONS, [condition])
        if unstable:
            raise ConfigError(
                f"--where must select the same clips every time, {unstable[0][0]}() does not;"
                " for a random share use hash(clip_id) % 100 < 10"
            )
        return condition

    def tables(self) -> list[str]:
        """Names of everything that can be queried: the lake's tables, `listed` and `outcomes`."""
        return [row[0] for row in self._rows("select name from (show tables)")]

    def latest_recipe_id(self) -> str:
        """The recipe of the most recent ingest run that came to its end, or else of one that did not.

        Raises:
            ConfigError: nothing was ingested yet.
        """
        sql = """select recipe_id from runs where command = 'ingest'
                 order by state = 'done' desc, recorded_at desc limit 1"""
        rows = self._rows(sql)
        if not rows:
            raise ConfigError(
                "a root must hold at least one ingest run, this one has none; run `avgen run` first"
            )
        return rows[0][0]

    def meant_recipe_id(self, recipe_id: str | None) -> str:
        """The recipe that is named, or else the latest.

        Raises:
            ConfigError: no run had it, or nothing was ingested yet.
        """
        if recipe_id is None:
            return self.latest_recipe_id()
        known = [row[0] for row in self._rows("select distinct recipe_id from runs where command = 'ingest'")]
        if recipe_id not in known:
            raise ConfigError(
                f"--recipe-id must be that of an ingest run, got {recipe_id}; known: {', '.join(known)}"
            )
        return recipe_id

    def finished_source_ids(self, recipe_id: str) -> set[str]:
        """Sources that need no more work under a recipe."""
        sql = """select source_id from outcomes
                 where recipe_id = ? and (outcome != 'failed' or code not in (select unnest(?)))"""
        return {row[0] for row in self._rows(sql, [recipe_id, list(RETRIED_CODES)])}

    def unlisted_source_ids(self) -> set[str]:
        """Sources that failed when they were to be listed, and were not listed since."""
        return {row[0] for row in self._rows("select source_id from outcomes where stage = 'expand'")}

    def dropped_media_keys(self) -> list[str]:
        """Files of the store that no run which keeps its sources has fetched."""
        rows = self._rows(
            """select media_key from fetches join (
                   select run_id, bool_or((recipe_json->>'$.media.keep_sources')::bool) as keeps
                   from runs where command = 'ingest' group by 1
               ) using (run_id) group by 1 having not bool_or(keeps) order by 1"""
        )
        return [row[0] for row in rows]

    def known_source_ids(self) -> set[str]:
        """Every source that was ever put in."""
        return {row[0] for row in self._rows("select source_id from sources")}

    def funnel(self, recipe_id: str) -> Funnel:
        """Counts per stage; for each, inputs = kept + rejected + failed + pending."""
        stages = (self._fetch_count(recipe_id), *self._later_counts(recipe_id))
        rows = self._rows(
            "select unnest(reject_reasons) as reason, count(*) from clips where recipe_id = ? group by 1"
            " order by 2 desc, 1",
            [recipe_id],
        )
        failures = self._rows(
            "select stage, code, count(*) from outcomes where recipe_id = ? and outcome = 'failed'"
            " group by 1, 2 order by 3 desc, 1, 2",
            [recipe_id],
        )
        kept_clips, kept_s = self._one(
            "select count(*), coalesce(sum(end_s - start_s), 0) from clips where recipe_id = ? and kept",
            [recipe_id],
        )
        return Funnel(
            recipe_id=recipe_id,
            stages=stages,
            reasons=tuple(rows),
            failures=tuple(failures),
            kept_clips=kept_clips,
            kept_duration_s=kept_s,
        )

    def _fetch_count(self, recipe_id: str) -> StageCount:
        num_in, num_failed, num_pending = self._one(
            """select count(*), count(*) filter (stage in ('expand', 'fetch')),
                      count(*) filter (outcome is null)
               from (select source_id from sources except select source_id from listed)
               left join (from outcomes where recipe_id = ?) using (source_id)""",
            [recipe_id],
        )
        return StageCount(
            stage="fetch",
            unit="sources",
            num_in=num_in,
            num_kept=num_in - num_failed - num_pending,
            num_rejected=0,
            num_failed=num_failed,
            num_pending=num_pending,
        )

    def _later_counts(self, recipe_id: str) -> tuple[StageCount, ...]:
        curated, kept, rejected, failed = self._one(
            """select count(*), count(*) filter (outcome = 'kept'), count(*) filter (outcome = 'rejected'),
                      count(*) filter (outcome = 'failed')
               from outcomes where recipe_id = ? and coalesce(stage, '') not in ('expand', 'fetch')""",
            [recipe_id],
        )
        spans, kept_spans, rejected_spans = self._one(
            """select count(*), count(*) filter (kept), count(*) filter (not kept)
               from clips where recipe_id = ?""",
            [recipe_id],
        )
        (embedded,) = self._one(
            """select count(*) from (select clip_id from embeddings where recipe_id = ?
               group by 1 having count(distinct model_kind) = 2)""",
            [recipe_id],
        )
        return (
            _count("curate", "sources", curated, kept, rejected, failed),
            _count("measure", "spans", spans, kept_spans, rejected_spans, 0),
            _count("embed", "clips", kept_spans, embedded, 0, 0),
        )

    def _one(self, sql: str, parameters: Sequence[Any]) -> tuple[Any, ...]:
        (row,) = self._rows(sql, parameters)
        return row

    def _rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._connection.sql(sql, params=list(parameters)).fetchall()

    def _create_view(self, name: str, schema: pa.Schema, uris: Sequence[str]) -> None:
        """A view over Parquet files, or over an empty table where there is none yet."""
        if uris:
            files = ", ".join("'" + uri.replace("'", "''") + "'" for uri in uris)
            self._connection.execute(
                f"create view {name} as select * from read_parquet([{files}], union_by_name = true)"
            )
            return
        self._connection.register("no_rows", schema.empty_table())
        self._connection.execute(f"create table {name} as select * from no_rows")
        self._connection.unregister("no_rows")


def _count(
    stage: str, unit: str, num_in: int, num_kept: int, num_rejected: int, num_failed: int
) -> StageCount:
    return StageCount(
        stage=stage,
        unit=unit,
        num_in=num_in,
        num_kept=num_kept,
        num_rejected=num_rejected,
        num_failed=num_failed,
        num_pending=0,
    )


def require_complete(funnel: Funnel) -> None:
    """Check the promise that nothing is unaccounted for.

    Raises:
        IntegrityError: a stage lost or invented something.
    """
    fetch, curate, measure, embed = funnel.stages
    if (fetch.num_kept, measure.num_kept) != (curate.num_in, embed.num_in):
        raise IntegrityError(
            f"what one stage keeps must enter the next, got {fetch.num_kept} fetched and {curate.num_in} curated"
            f" sources, {measure.num_kept} kept and {embed.num_in} embedded clips (recipe {funnel.recipe_id})"
        )
    for count in funnel.stages:
        total = count.num_kept + count.num_rejected + count.num_failed + count.num_pending
        if count.num_in != total:
            raise IntegrityError(
                f"inputs must equal kept + rejected + failed at stage {count.stage},"
                f" got {count.num_in} and {total} (recipe {funnel.recipe_id})"
            )
