"""A store: a tree of files under a local folder or an object-store URL. A file appears whole or not at all.

Keys are paths below the store, parts joined by `/`. The same code works on both kinds; `infra/object_store.py`
is the other one.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol
from uuid import uuid4

from infra.storage import sync

TEMP_SUFFIX = ".tmp"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptFile:
    """One file of a store."""

    key: str
    num_bytes: int


class NewFile(Protocol):
    """A file that is being written: nothing is at its key until `commit`, then all of it, durably."""

    def write(self, data: bytes) -> None:
        """Append."""

    def commit(self) -> None:
        """Give the file its key; what was there before is replaced.

        Raises:
            StorageUnavailable: the store did not take it, also after asking again.
        """

    def discard_unless_committed(self) -> None:
        """Leave nothing behind. To be called in any case, as in `finally`."""


class Store(Protocol):
    """What both kinds can do. It may travel to another process.

    Every method may raise `StorageUnavailable`: the store did not answer, also after asking again.
    """

    @property
    def url(self) -> str:
        """An absolute path, or `s3://bucket/prefix` and its like."""

    def below(self, key: str) -> "Store":
        """The store of a folder."""

    def read(self, key: str) -> bytes:
        """All bytes of a file. Raises `FileNotFoundError`."""

    def read_range(self, key: str, *, offset_bytes: int, num_bytes: int) -> bytes:
        """Bytes of a file; fewer where it ends earlier. Raises `FileNotFoundError`."""

    def open(self, key: str) -> BinaryIO:
        """A seekable, buffered stream to read from. Raises `FileNotFoundError`."""

    def size_bytes(self, key: str) -> int | None:
        """Length of a file; `None` when there is none."""

    def files(self, prefix: str = "") -> Iterator[KeptFile]:
        """All files below a folder, at any depth, by key; not those that are being written."""

    def create(self, key: str) -> NewFile:
        """Begin a new file."""

    def write(self, key: str, content: bytes) -> None:
        """A small file, at once: a reader sees all of it or the one before."""

    def delete(self, keys: Iterable[str]) -> None:
        """Delete files; those that are gone already are passed over."""

    def sweep(self, prefix: str = "") -> list[str]:
        """Delete what killed writers left unfinished right in a folder; their names. Only for its one writer."""

    def local_copy(self, key: str) -> AbstractContextManager[Path]:
        """The file as a path, for programs that need one; it is only read. Raises `FileNotFoundError`."""


class LocalStore:
    """A folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def url(self) -> str:
        """See `Store`, as for all that follow."""
        return str(self.folder)

    def below(self, key: str) -> "LocalStore":
        """The store of a folder."""
        return LocalStore(self.folder / key)

    def read(self, key: str) -> bytes:
        """All bytes of a file."""
        return (self.folder / key).read_bytes()

    def read_range(self, key: str, *, offset_bytes: int, num_bytes: int) -> bytes:
        """Bytes of a file."""
        with self.open(key) as stream:
            stream.seek(offset_bytes)
            return stream.read(num_bytes)

    def open(self, key: str) -> BinaryIO:
        """A stream to read from."""
        return (self.folder / key).open("rb")

    def size_bytes(self, key: str) -> int | None:
        """Length of a file."""
        try:
            return (self.folder / key).stat().st_size
        except FileNotFoundError:
            return None

    def files(self, prefix: str = "") -> Iterator[KeptFile]:
        """All files below a folder."""
        for path in _walk(self.folder / prefix):
            # A file that goes while the folder is listed may be missing.
            with suppress(FileNotFoundError):
                num_bytes = path.stat().st_size
                yield KeptFile(key=path.relative_to(self.folder).as_posix(), num_bytes=num_bytes)

    def create(self, key: str) -> "NewLocalFile":
        """Begin a new file."""
        return NewLocalFile(self.folder / key)

    def write(self, key: str, content: bytes) -> None:
        """A small file, at once."""
        file = self.create(key)
        try:
            file.write(content)
            file.commit()
        finally:
            file.discard_unless_committed()

    def delete(self, keys: Iterable[str]) -> None:
        """Delete files."""
        for key in keys:
            (self.folder / key).unlink(missing_ok=True)

    def sweep(self, prefix: str = "") -> list[str]:
        """Delete what killed writers left unfinished."""
        left = sorted(path for path in (self.folder / prefix).glob(f".*{TEMP_SUFFIX}") if path.is_file())
        for path in left:
            path.unlink()
        return [path.name for path in left]

    @contextmanager
    def local_copy(self, key: str) -> Iterator[Path]:
        """The file itself."""
        path = self.folder / key
        if not path.is_file():
            raise FileNotFoundError(path)
        yield path


class NewLocalFile:
    """A temporary file that takes its name, durably, when it is committed."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        # Unique: a task that was given up for dead and its successor may write the same path at once.
        self._temp = path.with_name(f".{path.name}.{uuid4().hex}{TEMP_SUFFIX}")
        self._stream: BinaryIO = self._temp.open("xb")

    def write(self, data: bytes) -> None:
        """Append."""
        self._stream.write(data)

    def commit(self) -> None:
        """Give the file its name."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        self._temp.replace(self._path)
        sync(self._path.parent)

    def discard_unless_committed(self) -> None:
        """Leave nothing behind."""
        try:
            self._stream.close()
        finally:
            self._temp.unlink(missing_ok=True)


def _walk(folder: Path) -> Iterator[Path]:
    """Finished files at any depth, by key: `a-b` is before `a/b`, as an object store has it."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=_sort_key)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        path = Path(entry.path)
        if entry.is_dir():
            yield from _walk(path)
        elif not _is_unfinished(path):
            yield path


def _sort_key(entry: "os.DirEntry[str]") -> str:
    return f"{entry.name}/" if entry.is_dir() else entry.name


def _is_unfinished(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(TEMP_SUFFIX)
