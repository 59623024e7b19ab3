"""Questions about a root, answered by DuckDB over the lake's live files: a view for every table.

What was measured lies in the lake; what follows from it is computed here, by the bounds of the latest run of a
recipe: which clips are kept, and so what became of their sources. The tables as they are lie in the schema `raw`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from crawl.blocklist import Block
from crawl.items import SourceItem
from crawl.politeness import HostPause
from filters.registry import Bounds
from infra.errors import ConfigError
from infra.root import Root
from pipeline.catalog_views import DUPLICATES, OUTCOMES, bounds_table, clips_view
from pipeline.id_set import IdSet
from pipeline.lake_mirror import readable_tables
from pipeline.recipe import bounds_with, recorded_bounds

_DERIVED = {"clips", "duplicates"}
"""Tables that nobody asks as they lie: a view of their name says what follows from them."""

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
_ITEM_COLUMNS = ("source_id", "url", "kind", "span_start_s", "span_end_s")
_ITEMS = f"select distinct {', '.join(_ITEM_COLUMNS)} from sources"

# Handing DuckDB an empty Arrow table instead would import pandas: a second of each `avgen status`.
_SQL_TYPES = {
    "string": "varchar",
    "string_view": "varchar",
    "double": "double",
    "int32": "integer",
    "int64": "bigint",
    "bool": "boolean",
    "binary": "blob",
    "binary_view": "blob",
    "timestamp[us, tz=UTC]": "timestamptz",
    "list<item: string>": "varchar[]",
    "list<element: string>": "varchar[]",
}


class Catalog:
    """A read-only DuckDB connection with the lake as it is now."""

    def __init__(self, root: Root | Path, *, memory_mib: int | None = None) -> None:
        """Argument: memory that queries may take before they use the disk; most of the machine's if not given."""
        home = Root.of(root)
        self._connection = duckdb.connect(config={"temp_directory": str(home.spill_dir())})
        if memory_mib is not None:
            self._connection.execute(f"set memory_limit = '{memory_mib}MiB'")
        self._connection.execute("create schema raw")
        tables = readable_tables(home)
        self.versions: Mapping[str, int] = {name: table.version for name, table in tables.items()}
        """Table -> its version in the lake, as all questions here see it."""
        for name, table in tables.items():
            self._create_source(f"raw.{name}", table.schema, table.files)
            if name not in _DERIVED:
                self._connection.execute(f"create view {name} as from raw.{name}")
        self._bounds = self._recorded_bounds()
        ((self._has_later_passes,),) = self.rows("select coalesce(max(pass_index) > 0, false) from raw.clips")
        self._create_verdicts()
        self._connection.execute(DUPLICATES)
        self._connection.execute(OUTCOMES)

    def judge_by(self, recipe_id: str, bounds: Mapping[str, Bounds]) -> None:
        """Let the views judge the clips of a recipe by these bounds, instead of those of its latest run."""
        self._bounds = {**self._bounds, recipe_id: bounds}
        self._create_verdicts()

    def _create_verdicts(self) -> None:
        self._connection.execute(bounds_table(self._bounds))
        self._connection.execute(clips_view(self._bounds, has_later_passes=self._has_later_passes))

    def _recorded_bounds(self) -> dict[str, Mapping[str, Bounds]]:
        """Of every recipe the bounds that its latest ingest run had."""
        rows = self.rows(
            """select recipe_id, max_by(recipe_json, recorded_at) from runs where command = 'ingest'
               group by 1 order by 1"""
        )
        return {recipe_id: recorded_bounds(recipe_json) for recipe_id, recipe_json in rows}

    def bounds(self, recipe_id: str) -> Mapping[str, Bounds]:
        """The bounds by which clips of a recipe are judged in the views; the filters' own if it was never run."""
        return self._bounds.get(recipe_id) or bounds_with({})

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

    def write_parquet(self, sql: str, path: Path, *, row_group_rows: int) -> None:
        """The result of a query of ours as a Parquet file, of any size: sorting goes on on disk."""
        target = str(path).replace("'", "''")
        self._connection.execute(
            f"copy ({sql}) to '{target}' (format parquet, row_group_size {row_group_rows}, compression zstd)"
        )

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
        unstable = self.rows(_UNSTABLE_FUNCTIONS, [condition])
        if unstable:
            raise ConfigError(
                f"--where must select the same clips every time, {unstable[0][0]}() does not;"
                " for a random share use hash(clip_id) % 100 < 10"
            )
        return condition

    def tables(self) -> list[str]:
        """Names of everything that can be queried: the lake's tables, `bounds`, `listed` and `outcomes`."""
        return [row[0] for row in self.rows("select name from (show tables) order by 1")]

    def latest_recipe_id(self) -> str:
        """The recipe of the most recent ingest run that came to its end, or else of one that did not.

        Raises:
            ConfigError: nothing was ingested yet.
        """
        sql = """select recipe_id from runs where command = 'ingest'
                 order by state = 'done' desc, recorded_at desc limit 1"""
        rows = self.rows(sql)
        if not rows:
            raise ConfigError(
                "a root must hold at least one ingest run, this one has none; run `avgen run` first"
            )
        return rows[0][0]

    def recipe_json(self, recipe_id: str) -> str:
        """The settings of the latest ingest run with this recipe."""
        sql = (
            """select max_by(recipe_json, recorded_at) from runs where command = 'ingest' and recipe_id = ?"""
        )
        return self.rows(sql, [recipe_id])[0][0]

    def meant_recipe_id(self, recipe_id: str | None) -> str:
        """The recipe that is named, or else the latest.

        Raises:
            ConfigError: no run had it, or nothing was ingested yet.
        """
        if recipe_id is None:
            return self.latest_recipe_id()
        known = self.recipe_ids()
        if recipe_id not in known:
            raise ConfigError(
                f"--recipe-id must be that of an ingest run, got {recipe_id}; known: {', '.join(known)}"
            )
        return recipe_id

    def recipe_ids(self) -> list[str]:
        """The recipes of all ingest runs."""
        return [
            row[0]
            for row in self.rows("select distinct recipe_id from runs where command = 'ingest' order by 1")
        ]

    def missing_items(self, recipe_id: str) -> list[SourceItem]:
        """Sources with clips that the bounds admit and that were never encoded."""
        rows = self.rows(
            f"""{_ITEMS} where source_id in (select source_id from clips where recipe_id = ? and missing)
                order by source_id""",
            [recipe_id],
        )
        return [_item(row) for row in rows]

    def finished_sources(self, recipe_id: str) -> IdSet:
        """Sources that need no more work under a recipe: all with an outcome that no other attempt may change."""
        sql = """select source_id from outcomes
                 where recipe_id = ? and next_retry_at is null and coalesce(stage, '') != 'expand'"""
        return self._ids(sql, [recipe_id])

    def known_sources(self) -> IdSet:
        """Every source that was ever put in."""
        return self._ids("select source_id from sources")

    def retries(self, recipe_id: str) -> dict[str, tuple[int, float]]:
        """Sources that failed and are to be tried again -> how often they did, and from which Unix time on."""
        rows = self.rows(
            """select source_id, attempt, epoch(next_retry_at) from outcomes
               where recipe_id = ? and next_retry_at is not null""",
            [recipe_id],
        )
        return {source_id: (attempt, due_s) for source_id, attempt, due_s in rows}

    def open_urls(self, recipe_id: str) -> list[str]:
        """Addresses that are yet to be fetched: for the first time, or again."""
        rows = self.rows(
            """select distinct url from sources left join (from outcomes where recipe_id = ?) using (source_id)
               where outcome is null or next_retry_at is not null""",
            [recipe_id],
        )
        return [row[0] for row in rows]

    def failed_items(self, recipe_id: str, code: str) -> tuple[list[SourceItem], list[str]]:
        """What failed with a code: sources that were to be fetched, and specs that were to be listed.

        Raises:
            ConfigError: nothing did.
        """
        rows = self.rows(
            f"""{_ITEMS} join outcomes using (source_id)
                where recipe_id = ? and code = ? and stage != 'expand' order by source_id""",
            [recipe_id, code],
        )
        specs = self.rows(
            """select distinct spec from listings join outcomes using (source_id)
               where recipe_id = ? and code = ? and stage = 'expand' order by spec""",
            [recipe_id, code],
        )
        if not rows and not specs:
            codes = self.rows(
                "select distinct code from outcomes where recipe_id = ? and outcome = 'failed' order by 1",
                [recipe_id],
            )
            found = ", ".join(row[0] for row in codes) or "none"
            raise ConfigError(
                f"--class must be that of a failed source, got {code!r}; classes that failed: {found}"
            )
        return [_item(row) for row in rows], [row[0] for row in specs]

    def begun_listing(self, source_id: str) -> tuple[int, list[SourceItem]]:
        """How many entries of an address were listed when its listing was cut short, and which; else 0, none."""
        pages = """from listings where source_id = ? and listed_at > (
            select coalesce(max(listed_at), '-infinity') from listings where source_id = ? and complete)"""
        ((next_index,),) = self.rows(f"select coalesce(max(next_index), 0) {pages}", [source_id, source_id])
        rows = self.rows(
            f"{_ITEMS} where source_id in (select unnest(entry_ids) {pages}) order by source_id",
            [source_id, source_id],
        )
        return next_index, [_item(row) for row in rows]

    def paused_hosts(self, *, now_s: float) -> tuple[HostPause, ...]:
        """Hosts that want to be left alone, as far as runs on this root have been told."""
        rows = self.rows(
            """select host, max(epoch(paused_until)), max_by(code, paused_until), max_by(reason, paused_until)
               from hosts group by 1 having max(epoch(paused_until)) > ? order by 1""",
            [now_s],
        )
        return tuple(
            HostPause(host=host, until_s=until_s, code=code, reason=reason)
            for host, until_s, code, reason in rows
        )

    def blocks(self) -> list[Block]:
        """What must not be fetched."""
        rows = self.rows(
            "select distinct on (kind, value) kind, value, reason from blocks order by kind, value"
        )
        return [Block(kind=kind, value=value, reason=reason) for kind, value, reason in rows]

    def dropped_media_keys(self) -> list[str]:
        """Files of the store that no run which keeps its sources has fetched."""
        rows = self.rows(
            """select media_key from fetches join (
                   select run_id, bool_or((recipe_json->>'$.media.keep_sources')::bool) as keeps
                   from runs where command = 'ingest' group by 1
               ) using (run_id) group by 1 having not bool_or(keeps) order by 1"""
        )
        return [row[0] for row in rows]

    def _ids(self, sql: str, parameters: Sequence[Any] = ()) -> IdSet:
        numbers = self._connection.sql(
            f"select ('0x' || source_id)::ubigint as number from ({sql})", params=list(parameters)
        )
        return IdSet(numbers.fetchnumpy()["number"])

    def rows(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of a query of ours."""
        return self._connection.sql(sql, params=parameters or None).fetchall()

    def _create_source(self, name: str, schema: pa.Schema, uris: Sequence[str]) -> None:
        """A view over Parquet files, or over an empty table where there is none yet."""
        if uris:
            files = ", ".join("'" + uri.replace("'", "''") + "'" for uri in uris)
            self._connection.execute(
                f"create view {name} as select * from read_parquet([{files}], union_by_name = true)"
            )
            return
        columns = ", ".join(f"{field.name} {_SQL_TYPES[str(field.type)]}" for field in schema)
        self._connection.execute(f"create table {name} ({columns})")


def _item(row: tuple[Any, ...]) -> SourceItem:
    return SourceItem(**dict(zip(_ITEM_COLUMNS, row, strict=True)))
