"""Rows of the files that list sources: text, CSV, TSV, JSON lines and Parquet, the first four also gzipped.

Every message names the file and the line or row. Nothing of a file is kept in memory.
"""

import csv
import gzip
import itertools
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TextIO, TypeVar

from infra.errors import ConfigError

Found = TypeVar("Found")

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_JSON_SUFFIXES = (".jsonl", ".ndjson")
# A row of Panda-70M holds the captions of some 1,000 clips; the module's own bound is 128 KiB.
_CELL_MAX_CHARS = 16 * 1024 * 1024
# Of a cell that is refused, in messages.
_SHOWN_CHARS = 80
# Source: the examples of HD-VILA-100M (00:01:06.230) and Panda-70M (0:00:08.875).
_CLOCK = re.compile(r"(\d{1,4}):([0-5]\d):([0-5]\d)(\.\d{1,9})?", re.ASCII)


class Table(NamedTuple):
    """A file that a spec names."""

    prefix: str
    """The beginning of the spec, for messages."""
    path: Path


class Row(NamedTuple):
    """One row, its cells by column."""

    table: Table
    number: int
    cells: Mapping[str, object]
    unit: str = "line"

    @property
    def where(self) -> str:
        """The file and the line or row."""
        return f"{self.table.path}, {self.unit} {self.number}"

    def has(self, column: str) -> bool:
        """Whether the cell holds anything."""
        return self.cells.get(column) not in (None, "")

    def text(self, column: str) -> str:
        """The text of a cell, without blanks around it; at least one character."""
        cell = self.cells.get(column)
        if type(cell) is not str or not (text := cell.strip()):
            raise self.refused(f"every row must have a {column}", "none")
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise self.refused(f"{column} must be Unicode text", ascii(text)[:_SHOWN_CHARS])
        return text

    def seconds(self, column: str) -> float:
        """The number in a cell."""
        cell = self.cells.get(column)
        try:
            return float(str(cell))
        except ValueError as err:
            raise self.refused(f"{column} must be a number of seconds", shown(cell)) from err

    def check_span(self, start_s: float, end_s: float) -> None:
        """Raise `ConfigError` for a span that is empty or negative."""
        if not 0.0 <= start_s < end_s:
            raise self.refused("a row must satisfy 0 <= start_s < end_s", f"{start_s} to {end_s}")

    def refused(self, rule: str, found: str) -> ConfigError:
        """The error for a row that breaks a rule."""
        return ConfigError(f"{self.table.prefix} {rule}, got {found} in {self.where}; correct the row")


def table_of(spec: str, prefix: str) -> Table:
    """The file that a spec names.

    Raises:
        ConfigError: there is none.
    """
    path = Path(spec[len(prefix) :])
    if not path.is_file():
        raise ConfigError(f"{prefix} must name an existing file, got {str(path)!r}")
    return Table(prefix, path)


def read_twice(table: Table, read: Callable[[Table], Iterator[Found]]) -> Iterator[Found]:
    """What `read` yields, lazily, once all of it was read to check every row before any work starts.

    Raises:
        ConfigError: a row is malformed, or there is none.
    """
    if sum(1 for _ in read(table)) == 0:
        raise ConfigError(f"{table.prefix} must hold at least one row, found none in {str(table.path)!r}")
    return read(table)


def named_rows(table: Table, columns: Sequence[str], *, optional: Sequence[str] = ()) -> Iterator[Row]:
    """Rows of a file that names its columns itself: it must have `columns`, and other cells may be absent.

    Args:
        optional: what else is read of a Parquet file.

    Raises:
        ConfigError: while it is iterated, for whatever is wrong with the file.
    """
    suffix = suffix_of(table.path)
    if suffix == ".parquet":
        return _parquet_rows(table, columns, optional)
    if suffix in _JSON_SUFFIXES:
        return _json_rows(table)
    return _csv_rows(table, columns)


def numbered_rows(table: Table, columns: Sequence[str], *, comment: str = "") -> Iterator[Row]:
    """Rows of a CSV or TSV file without a line of names; its cells are `columns`, and any number after them.

    Args:
        comment: lines that begin with it are skipped.

    Raises:
        ConfigError: while it is iterated, for whatever is wrong with the file.
    """
    num_columns = len(columns)
    for number, cells in _split_lines(table, comment):
        if len(cells) < num_columns:
            raise _refused_cells(table, number, f"at least {num_columns} cells", cells)
        yield Row(table, number, dict(zip(columns, cells, strict=False)))


def text_rows(table: Table, column: str) -> Iterator[Row]:
    """The lines of a text file as the one column, without what is blank and what begins with `#`."""
    with _lines(table) as lines:
        for number, line in enumerate(lines, start=1):
            text = line.strip()
            if text and not text.startswith("#"):
                yield Row(table, number, {column: text})


def shown(cell: object) -> str:
    """The beginning of what a cell holds, for messages."""
    return repr(cell)[:_SHOWN_CHARS]


def suffix_of(path: Path) -> str:
    """The suffix that says the format: `.csv` for `a.csv` and `a.CSV.gz`."""
    return path.with_suffix("").suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()


def clock_s(text: str) -> float:
    """Seconds of a time of day like `00:01:06.230`, the float that is nearest to it: 66.23.

    Raises:
        ValueError: the text is anything else.
    """
    match = _CLOCK.fullmatch(text)
    if match is None:
        raise ValueError(f"a time must be H:MM:SS.mmm, got {text!r}")
    hours, minutes, seconds, fraction = match.groups(default="")
    return float(f"{int(hours) * 3600 + int(minutes) * 60 + int(seconds)}{fraction}")


# ---- formats ----


def _csv_rows(table: Table, columns: Sequence[str]) -> Iterator[Row]:
    lines = _split_lines(table)
    _, names = next(lines, (1, []))
    _require_columns(table, columns, names)
    for number, cells in lines:
        if len(cells) != len(names):
            raise _refused_cells(table, number, f"{len(names)} cells as the first line has", cells)
        yield Row(table, number, dict(zip(names, cells, strict=True)))


def _split_lines(table: Table, comment: str = "") -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of each line that is not blank."""
    delimiter = _DELIMITERS.get(suffix_of(table.path))
    if delimiter is None:
        raise ConfigError(f"{table.prefix} must name a .csv or .tsv file (or .gz), got {str(table.path)!r}")
    csv.field_size_limit(_CELL_MAX_CHARS)
    with _lines(table) as lines:
        reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
        try:
            for cells in reader:
                if cells and not (comment and cells[0].startswith(comment)):
                    yield reader.line_num, cells
        except csv.Error as err:
            where = f"{table.path}, line {reader.line_num}"
            raise ConfigError(f"{table.prefix} must be CSV, got {where}: {err}") from err


def _json_rows(table: Table) -> Iterator[Row]:
    with _lines(table) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                cells = json.loads(line)
            except (ValueError, RecursionError) as err:  # ValueError also for a number of too many digits
                where = f"{table.path}, line {number}"
                raise ConfigError(f"{table.prefix} every line must be JSON, got {where}: {err}") from err
            row = Row(table, number, cells if isinstance(cells, dict) else {})
            if not isinstance(cells, dict):
                raise row.refused("every line must be a JSON object", type(cells).__name__)
            yield row


def _parquet_rows(table: Table, columns: Sequence[str], optional: Sequence[str]) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(table.path) as file:
            names = file.schema_arrow.names
            _require_columns(table, columns, names)
            wanted = [*columns, *(name for name in optional if name in names)]
            batches = (batch.to_pylist() for batch in file.iter_batches(columns=wanted))
            for number, cells in enumerate(itertools.chain.from_iterable(batches), start=1):
                yield Row(table, number, cells, "row")
    except (pa.ArrowException, OSError) as err:
        words = " ".join(str(err).split())
        raise ConfigError(
            f"{table.prefix} must name a readable Parquet file, got {table.path}: {words}"
        ) from err


def _opened(path: Path) -> TextIO:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


@contextmanager
def _lines(table: Table) -> Iterator[Iterator[str]]:
    """The decoded lines of a file, line ends kept.

    Raises:
        ConfigError: also from the body of the `with`: the bytes are no UTF-8 text, or no gzip file.
    """
    try:
        with _opened(table.path) as file:
            yield file
    except UnicodeDecodeError as err:
        raise ConfigError(
            f"{table.prefix} must be UTF-8 text, got {table.path}: {err.reason} at byte {err.start}"
        ) from err
    except (OSError, EOFError, zlib.error) as err:
        raise ConfigError(f"{table.prefix} must name a readable file, got {table.path}: {err}") from err


def _require_columns(table: Table, columns: Sequence[str], found: list[str]) -> None:
    for column in columns:
        if found.count(column) != 1:
            names = " ".join(", ".join(found).split())[:_SHOWN_CHARS] or "no columns"
            raise ConfigError(
                f"{table.prefix} must have one column {column}, found {names} in {str(table.path)!r}"
            )


def _refused_cells(table: Table, number: int, rule: str, cells: Sequence[str]) -> ConfigError:
    return Row(table, number, {}).refused(f"every row must have {rule}", str(len(cells)))
