"""What a query's rows look like as CSV, JSON and a table, to the byte."""

import csv
import io
import json
from datetime import UTC, date, datetime, time
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from infra.errors import ConfigError
from pipeline.sql_text import cell_text, csv_chunks, json_chunks, json_value, result_table

NAN, INFINITY = float("nan"), float("inf")


def table_of(*columns: tuple[str, pa.Array]) -> pa.Table:
    return pa.Table.from_arrays([array for _, array in columns], names=[name for name, _ in columns])


TWO_NAMED_A = table_of(("a", pa.array([1, 2])), ("a", pa.array(["x", None])))


def csv_text(table: pa.Table, *, rows_per_chunk: int = 1000) -> str:
    return "".join(csv_chunks(table.column_names, table.to_batches(max_chunksize=rows_per_chunk)))


def json_text(table: pa.Table, *, rows_per_chunk: int = 1000) -> str:
    return "".join(json_chunks(table.column_names, table.to_batches(max_chunksize=rows_per_chunk)))


@pytest.mark.parametrize(
    ("value", "in_json", "in_cell"),
    [
        (None, None, ""),
        (True, True, "true"),
        (7, 7, "7"),
        ("naïve", "naïve", "naïve"),
        (0.1, 0.1, "0.1"),
        (NAN, None, "nan"),
        (-INFINITY, None, "-inf"),
        (Decimal("12345678901234567890"), 12345678901234567890, "12345678901234567890"),
        (Decimal("0.50"), 0.5, "0.5"),
        (b"\x00\xff", "00ff", "00ff"),
        (date(2026, 1, 2), "2026-01-02", "2026-01-02"),
        (time(3, 4, 5), "03:04:05", "03:04:05"),
        (datetime(2026, 1, 2, 3, tzinfo=UTC), "2026-01-02T03:00:00+00:00", "2026-01-02T03:00:00+00:00"),
        (pa.MonthDayNano([14, 3, 4_500_000_000]), "P14M3DT4.5S", "P14M3DT4.5S"),
        (["low", None, NAN], ["low", None, None], '["low", null, null]'),
        ({"a": [b"\x01"]}, {"a": ["01"]}, '{"a": ["01"]}'),
        ([("k", 1)], [["k", 1]], '[["k", 1]]'),
    ],
)  # fmt: skip
def test_json_value_and_cell_text_every_kind_of_value(value, in_json, in_cell):
    assert json_value(value) == in_json
    assert cell_text(value) == in_cell


def test_csv_chunks_keeps_columns_of_one_name():
    assert csv_text(TWO_NAMED_A) == "a,a\n1,x\n2,\n"


def test_csv_chunks_tells_null_from_empty_and_writes_no_blank_line():
    table = table_of(("a", pa.array(["", None, "x"])), ("b", pa.array([None, "", 'say "hi", then\rgo'])))
    assert csv_text(table) == 'a,b\n"",\n,""\nx,"say ""hi"", then\rgo"\n'
    assert csv_text(table_of(("a", pa.array([None, ""])))) == 'a\n""\n""\n'


def test_csv_chunks_is_a_text_a_batch():
    table = table_of(("n", pa.array(range(5))))
    chunks = list(csv_chunks(["n"], table.to_batches(max_chunksize=2)))
    assert chunks == ["n\n", "0\n1\n", "2\n3\n", "4\n"]


def test_json_chunks_two_columns_of_one_name_raises_config_error():
    with pytest.raises(ConfigError, match=r"got a 2 times; give one an alias"):
        json_chunks(TWO_NAMED_A.column_names, TWO_NAMED_A.to_batches())


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (table_of(("n", pa.array([], pa.int64()))), "[]\n"),
        (table_of(("n", pa.array([1]))), '[\n{"n": 1}\n]\n'),
        (table_of(("n", pa.array([1.5, INFINITY, NAN]))), '[\n{"n": 1.5},\n{"n": null},\n{"n": null}\n]\n'),
    ],
)
def test_json_chunks_is_strict_json_with_a_row_a_line(table, expected):
    assert json_text(table) == expected


@pytest.mark.parametrize("rows_per_chunk", [1, 2, 3, 100])
def test_json_chunks_any_batch_size_gives_the_same_text(rows_per_chunk):
    table = table_of(("n", pa.array(range(7))), ("s", pa.array(list("abcdefg"))))
    assert json_text(table, rows_per_chunk=rows_per_chunk) == json_text(table)
    assert json.loads(json_text(table)) == table.to_pylist()


@given(st.lists(st.tuples(st.text(), st.text()), min_size=1))
def test_csv_chunks_any_text_reads_back(rows):
    columns = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
    text = csv_text(table_of(("a", columns[0]), ("b", columns[1])))
    read = list(csv.reader(io.StringIO(text, newline="")))
    assert read == [["a", "b"], *map(list, rows)]


def test_result_table_shows_markup_and_equal_names_as_they_are():
    table = table_of(
        ("a", pa.array(["[red]x[/red]"])), ("a", pa.array([None], pa.int64())), ("[b]", pa.array([1]))
    )
    console = Console(width=80)
    with console.capture() as captured:
        console.print(result_table(table.column_names, table.to_batches()))
    assert captured.get().count("[red]x[/red]") == 1
    assert captured.get().count(" a ") == 2
    assert "[b]" in captured.get()
