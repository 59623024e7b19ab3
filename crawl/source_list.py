"""`list:FILE`: addresses in a text, CSV, TSV, JSON lines or Parquet file, each with an optional span.

A text file (`.txt`, `.lst`) holds one address a line; blank lines and lines that start with `#` are skipped. The
others have a column `url` and may have `start_s` and `end_s`, in seconds; other names for these are not guessed,
and other columns, a licence among them, are left alone: an item is an address and a span. All but Parquet may
also be gzipped (`.csv.gz`). An address is one that `items.py` takes, or a path (a relative one starts at the
folder of the list). The list is read twice, once to check every row before any work starts, once to yield.
"""

import math
import re
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from crawl.items import SourceItem, UnexpandedSource, file_url, refused_item, source_item
from crawl.rows import Row, Table, named_rows, read_twice, suffix_of, table_of, text_rows
from crawl.web import Web
from infra.errors import BlockedByPolicy

_TEXT_SUFFIXES = (".txt", ".lst")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class _Address(NamedTuple):
    row: Row
    url: str
    start_s: float = 0.0
    end_s: float = math.inf


def expand_list(spec: str, web: Web, first_index: int) -> Iterator[SourceItem | UnexpandedSource]:
    """Items for the rows of the file. The network is not asked: an address that is a feed fails when fetched.

    Raises:
        ConfigError: no such file, no column `url`, no row, or a row without address or with a bad span.
    """
    table = table_of(spec, "list:")
    addresses = islice(read_twice(table, _addresses), first_index, None)
    return map(partial(_source, table.path.resolve().parent), addresses)


def _addresses(table: Table) -> Iterator[_Address]:
    if suffix_of(table.path) in _TEXT_SUFFIXES:
        return (_Address(row, row.text("url")) for row in text_rows(table, "url"))
    return map(_checked, named_rows(table, ("url",), optional=("start_s", "end_s")))


def _checked(row: Row) -> _Address:
    start_s = row.seconds("start_s") if row.has("start_s") else 0.0
    end_s = row.seconds("end_s") if row.has("end_s") else math.inf
    row.check_span(start_s, end_s)
    return _Address(row, row.text("url"), start_s, end_s)


def _source(folder: Path, address: _Address) -> SourceItem | UnexpandedSource:
    try:
        url = address.url if _SCHEME.match(address.url) else file_url(folder / address.url)
        return source_item(url, kind="list", span_start_s=address.start_s, span_end_s=address.end_s)
    except BlockedByPolicy as err:
        item = refused_item(address.url, kind="list")
        return UnexpandedSource(item=item, code=err.code, message=f"{err} ({address.row.where})")
