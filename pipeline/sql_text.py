"""The rows of a query as CSV, as JSON and as a table for a terminal, a batch at a time. Pure.

Columns are told apart by their place, so two may have one name wherever the format has a place for both.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import date, time
from decimal import Decimal
from typing import Any

import pyarrow as pa
from rich.table import Table
from rich.text import Text

from infra.errors import ConfigError

_CSV_SPECIAL = frozenset(',"\r\n')
_NOTHING = '""'


def csv_chunks(columns: list[str], batches: Iterable[pa.RecordBatch]) -> Iterator[str]:
    """A header line, then a text for each batch; NULL is an empty field, an empty text a quoted one.

    Not written by `csv.writer`: that one leaves a lone carriage return bare, which ends a line for every reader.
    """
    yield _csv_line(columns)
    for batch in batches:
        yield "".join(map(_csv_line, _rows(batch)))


def json_chunks(columns: list[str], batches: Iterable[pa.RecordBatch]) -> Iterator[str]:
    """One array with an object a row, a row a line; what JSON has no number for (NaN, infinity) is null.

    Raises:
        ConfigError: two columns have one name.
    """
    twice = [name for name, number in Counter(columns).items() if number > 1]
    if twice:
        raise ConfigError(
            f"every column must have a name of its own in JSON, got {twice[0]} {columns.count(twice[0])} times;"
            f" give one an alias, as in: select a.{twice[0]}, b.{twice[0]} as other_{twice[0]}"
        )
    return _json_chunks(columns, batches)


def result_table(columns: list[str], batches: Iterable[pa.RecordBatch]) -> Table:
    """For a terminal."""
    table = Table()
    for name in columns:
        table.add_column(Text(name))
    for batch in batches:
        for row in _rows(batch):
            table.add_row(*(Text(cell_text(value)) for value in row))
    return table


def cell_text(value: Any) -> str:
    """A value as the text of a field: times in ISO 8601, bytes in hex, lists and structs in JSON."""
    if isinstance(value, float):
        return repr(value)
    plain = json_value(value)
    if plain is None or isinstance(plain, str):
        return plain or ""
    return json.dumps(plain, ensure_ascii=False)


def json_value(value: Any) -> Any:
    """A value of an Arrow column as what JSON can hold."""
    match value:
        case pa.MonthDayNano():
            seconds = Decimal(value.nanoseconds).scaleb(-9).normalize()
            return f"P{value.months}M{value.days}DT{seconds:f}S"
        case list() | tuple():
            return [json_value(item) for item in value]
        case dict():
            return {name: json_value(item) for name, item in value.items()}
        case _:
            return _json_scalar(value)


def _json_scalar(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case Decimal():
            return int(value) if value.as_tuple().exponent == 0 else float(value)
        case bytes():
            return value.hex()
        case date() | time():
            return value.isoformat()
        case _:
            return value


def _rows(batch: pa.RecordBatch) -> Iterator[tuple[Any, ...]]:
    return zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _csv_line(row: Iterable[Any]) -> str:
    line = ",".join("" if value is None else _csv_field(cell_text(value)) for value in row)
    return f"{line or _NOTHING}\n"  # A blank line is no row to a reader.


def _csv_field(text: str) -> str:
    if text and _CSV_SPECIAL.isdisjoint(text):
        return text
    return '"' + text.replace('"', '""') + '"'


def _json_chunks(columns: list[str], batches: Iterable[pa.RecordBatch]) -> Iterator[str]:
    before_row = "[\n"
    for batch in batches:
        lines = []
        for row in _rows(batch):
            tree = dict(zip(columns, map(json_value, row), strict=True))
            lines.append(before_row + json.dumps(tree, allow_nan=False))
            before_row = ",\n"
        yield "".join(lines)
    yield "[]\n" if before_row == "[\n" else "\n]\n"
