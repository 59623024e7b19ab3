"""A root: the store that everything lives in, and a local folder for what is being made.

Layout of the store: `media/`, `staged/`, `lake/`, `datasets/`, `runs/`, `tmp/`. Of the scratch folder: `tmp/`,
`partial/`, and a copy of the lake's files where the store is not local. A local root is its own scratch folder.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

from infra import storage
from infra.errors import ConfigError, DiskFull, StorageUnavailable
from infra.object_store import open_store
from infra.store import LocalStore, Store

SCRATCH_VARIABLE = "AVGEN_SCRATCH"
"""Names the folder below which roots in object stores have their scratch folders."""
TMP = "tmp"
"""What is of use to one run alone: in the scratch folder, and in the store what its workers share."""
_NAME_NUM_HEX = 16
_SPILL = "spill-"
_COPY_BYTES = 8 * 1024**2
_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """Where everything lives. It may travel to other processes, and machines that see its store."""

    url: str
    """An absolute path, or `s3://bucket/prefix` and its like."""
    store: Store = field(compare=False)
    """Everything that lasts."""
    scratch: Path
    """Everything that does not; this machine's own where the store is not local."""

    @classmethod
    def of(cls, root: "Root | Path") -> "Root":
        """A root; a path is that of a local one."""
        if isinstance(root, Root):
            return root
        return cls(url=str(root), store=LocalStore(root), scratch=root)

    @property
    def tmp_dir(self) -> Path:
        """What is being made; whoever begins to write to the root empties it."""
        return self.scratch / TMP

    @property
    def partial_dir(self) -> Path:
        """What was read of sources so far, to go on from."""
        return self.scratch / "partial"

    @property
    def is_local(self) -> bool:
        """Whether its store is a folder."""
        return isinstance(self.store, LocalStore)

    @contextmanager
    def local_copy(self, key: str) -> Iterator[Path]:
        """A file of the store as a path, to be read only; one of a local root is the file itself.

        Raises:
            StorageUnavailable: it cannot be fetched, or is not there any more.
            DiskFull: the scratch folder does not hold it.
        """
        if isinstance(self.store, LocalStore):
            yield self.store.folder / key
            return
        folder = self.tmp_dir / f"copy-{uuid4().hex}"
        path = folder / key.rpartition("/")[2]
        try:
            self._fetch_for_work(key, path)
            yield path
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, path: Path, key: str) -> None:
        """Put a finished local file into the store, unless it is there already. The file may be gone then."""
        num_bytes = path.stat().st_size
        if self.store.size_bytes(key) == num_bytes:
            return
        if isinstance(self.store, LocalStore):
            storage.publish(path, self.store.folder / key)
            return
        new = self.store.create(key)
        try:
            with path.open("rb") as file:
                while block := file.read(_COPY_BYTES):
                    new.write(block)
            new.commit()
        finally:
            new.discard_unless_committed()

    def fetch(self, key: str, path: Path) -> None:
        """Copy a file of the store to a new local path.

        Raises:
            FileNotFoundError: it is not there.
            DiskFull: the disk of the path does not hold it.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self.store.open(key) as stream, path.open("xb") as file:
                shutil.copyfileobj(stream, file, _COPY_BYTES)
        except OSError as err:
            if err.errno in _FULL_ERRNOS:
                raise DiskFull(f"the scratch folder must have room, got {err} ({key})") from err
            raise

    def spill_dir(self) -> Path:
        """Where this process may put what its memory does not hold; to be made, and removed, by who uses it."""
        with suppress(OSError):  # A root may be read by who cannot write to it.
            self.tmp_dir.mkdir(parents=True, exist_ok=True)
        return self.tmp_dir / f"{_SPILL}{os.getpid()}"

    def empty_tmp(self) -> None:
        """Remove what is left of runs that have ended. Only for the one writer; others may be reading."""
        if not self.is_local:
            self.store.delete([file.key for file in self.store.files(TMP)])
        self.tmp_dir.mkdir(parents=True, exist_ok=True)
        for path in self.tmp_dir.iterdir():
            pid = path.name.removeprefix(_SPILL)
            if path.name.startswith(_SPILL) and Path("/proc", pid).is_dir():
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def drop_tmp(self, name: str) -> None:
        """Remove what a run had there."""
        shutil.rmtree(self.tmp_dir / name)
        if not self.is_local:
            self.store.delete([file.key for file in self.store.files(f"{TMP}/{name}")])

    def _fetch_for_work(self, key: str, path: Path) -> None:
        try:
            self.fetch(key, path)
        except FileNotFoundError as err:
            raise StorageUnavailable(
                f"a file of the root must be there, it is gone ({self.url}/{key}); run the same command again"
            ) from err


def open_root(root: str, *, create: bool) -> Root:
    """The root of a path or an object store's URL.

    Args:
        create: begin one where there is none; otherwise that is an error.

    Raises:
        ConfigError: neither of these, missing, not writable, or the store does not let us in.
        StorageUnavailable: the store does not answer.
    """
    if "://" not in root:
        return Root.of(storage.open_root(root, create=create))
    store = open_store(root)
    if create:
        probe = f".writable-{uuid4().hex}"
        store.write(probe, b"")
        store.delete([probe])
    elif next(store.files("lake"), None) is None:
        raise ConfigError(
            f"--root must be a folder or URL that `avgen run` has filled, got {store.url};"
            " run `avgen run` first"
        )
    return Root(url=store.url, store=store, scratch=_scratch_of(store.url))


def _scratch_of(url: str) -> Path:
    """The scratch folder of an object store's root on this machine; it is made.

    Raises:
        ConfigError: it cannot be.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    base = Path(os.environ.get(SCRATCH_VARIABLE) or cache / "avgen").absolute()
    if set(storage.ODD_CHARACTERS) & set(str(base)):
        raise ConfigError(f"{SCRATCH_VARIABLE} must be a path without %, [, ], * and ?, got {str(base)!r}")
    folder = base / sha256(url.encode()).hexdigest()[:_NAME_NUM_HEX]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise ConfigError(
            f"{SCRATCH_VARIABLE} must name a folder that can be written, got {base}: {err.strerror}"
        ) from err
    return folder
