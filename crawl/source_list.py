"""`list:FILE`: addresses in a text, CSV or Parquet file, each with an optional span.

A text file holds one address a line; blank lines and lines that start with `#` are skipped. CSV and Parquet
have a column `url` and may have `start_s` and `end_s`; other columns are left alone. An address is http(s),
`file://`, or a path (a relative one starts at the folder of the list). The list is read twice, once to check
every row before any work starts, once to yield; nothing of it is kept in memory.
"""

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from crawl.items import SourceItem, UnexpandedSource, file_url, refused_item, source_item
from crawl.policy import FetchConfig
from infra.errors import BlockedByPolicy, ConfigError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class _Row(NamedTuple):
    where: str
    """For messages: the file and the line or row."""
    url: str
    start_s: float
    end_s: float


def expand_list(spec: str, config: FetchConfig) -> Iterator[SourceItem | UnexpandedSource]:
    """Items for the rows of the file. The network is not asked: an address that is a feed fails when fetched.

    Raises:
        ConfigError: no such file, no column `url`, no row, or a row without address or with a bad span.
    """
    path = Path(spec[len("list:") :])
    if not path.is_file():
        raise ConfigError(f"list: must name an existing file, got {str(path)!r}")
    num_rows = sum(1 for _ in _rows(path))
    if num_rows == 0:
        raise ConfigError(f"list: must hold at least one address, found none in {str(path)!r}")
    return (_source(row, path.resolve().parent) for row in _rows(path))


def _source(row: _Row, folder: Path) -> SourceItem | UnexpandedSource:
    try:
        url = row.url if _SCHEME.match(row.url) else file_url(folder / row.url)
        return source_item(url, kind="list", span_start_s=row.start_s, span_end_s=row.end_s)
    except BlockedByPolicy as err:
        item = refused_item(row.url, kind="list")
        return UnexpandedSource(item=item, code=err.code, message=f"{err} ({row.where})")


def _rows(path: Path) -> Iterator[_Row]:
    match path.suffix.lower():
        case ".csv":
            return _csv_rows(path)
        case ".parquet":
            return _parquet_rows(path)
        case ".txt" | ".lst":
            return _text_rows(path)
    raise ConfigError(f"list: must name a .txt, .csv or .parquet file, got {str(path)!r}")


def _text_rows(path: Path) -> Iterator[_Row]:
    with path.open(encoding="utf-8-sig") as file:
        for line_number, line in enumerate(_decoded(file, path), start=1):
            url = line.strip()
            if url and not url.startswith("#"):
                yield _Row(f"{path}, line {line_number}", url, 0.0, math.inf)


def _csv_rows(path: Path) -> Iterator[_Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(_decoded(file, path))
        _require_url_column(reader.fieldnames or [], path)
        try:
            for cells in reader:
                yield _row(cells, f"{path}, line {reader.line_num}")
        except csv.Error as err:
            raise ConfigError(f"list: must be CSV, got {path}, line {reader.line_num}: {err}") from err


def _parquet_rows(path: Path) -> Iterator[_Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            _require_url_column(file.schema_arrow.names, path)
            columns = [name for name in ("url", "start_s", "end_s") if name in file.schema_arrow.names]
            cells = (row for batch in file.iter_batches(columns=columns) for row in batch.to_pylist())
            for row_number, row in enumerate(cells, start=1):
                yield _row(row, f"{path}, row {row_number}")
    except (pa.ArrowException, OSError) as err:
        raise ConfigError(f"list: must name a readable Parquet file, got {path}: {err}") from err


def _decoded(lines: Iterator[str], path: Path) -> Iterator[str]:
    try:
        yield from lines
    except UnicodeDecodeError as err:
        raise ConfigError(f"list: must be UTF-8 text, got {path}: {err.reason} at byte {err.start}") from err


def _require_url_column(names: Sequence[str], path: Path) -> None:
    if "url" not in names:
        raise ConfigError(
            f"list: must have a column url, found {', '.join(names) or 'no columns'} in {str(path)!r}"
        )


def _row(cells: Mapping[str, object], where: str) -> _Row:
    url = cells.get("url")
    if not isinstance(url, str) or not url.strip():
        raise ConfigError(f"every row of a list must have a url, found none in {where}")
    start_s, end_s = _seconds(cells.get("start_s"), 0.0, where), _seconds(cells.get("end_s"), math.inf, where)
    if not 0.0 <= start_s < end_s:
        raise ConfigError(f"a row must satisfy 0 <= start_s < end_s, got {start_s} to {end_s} in {where}")
    return _Row(where, url.strip(), start_s, end_s)


def _seconds(cell: object, default_s: float, where: str) -> float:
    """The number in a cell; `default_s` for an empty one."""
    if cell is None or cell == "":
        return default_s
    try:
        return float(str(cell))
    except ValueError as err:
        raise ConfigError(f"start_s and end_s must be numbers of seconds, got {cell!r} in {where}") from err
