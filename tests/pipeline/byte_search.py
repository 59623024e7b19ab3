"""Every byte of a folder, also those that Parquet, gzip and tar wrap up: who looks for a trace finds it."""

import gzip
import io
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow.parquet as pq

_DEEPEST = 4


def traces(folder: Path, words: Iterable[str]) -> list[tuple[str, str]]:
    """Where any of the words is, in a name, in bytes or in what they hold: path and word."""
    wanted = [(word, word.encode()) for word in words if word]
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        found += [(name, word) for word in words if word and word in name]
        if path.is_file():
            for content in contents(path.read_bytes()):
                found += [(name, word) for word, data in wanted if data in content]
    return sorted(set(found))


def contents(data: bytes, depth: int = 0) -> Iterator[bytes]:
    """The bytes themselves, and whatever lies in them."""
    yield data
    if depth == _DEEPEST:
        return
    if data[:4] == b"PAR1":
        file = pq.ParquetFile(io.BytesIO(data))
        yield str(file.metadata.to_dict()).encode()
        yield str(file.schema_arrow.metadata).encode()
        for row in file.read().to_pylist():
            for cell in row.values():
                yield cell if isinstance(cell, bytes) else str(cell).encode()
    elif data[:2] == b"\x1f\x8b":
        yield from contents(gzip.decompress(data), depth + 1)
    elif data[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(data)) as stored:
            for name in stored.namelist():
                yield from contents(stored.read(name), depth + 1)
    elif data[257:262] == b"ustar":
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for member in tar:
                yield member.name.encode()
                yield from contents(tar.extractfile(member).read(), depth + 1)  # type: ignore[union-attr]
