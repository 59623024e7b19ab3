"""The root folder: where everything lives, written so that a kill leaves the old file or the new one.

Layout: `media/`, `staged/`, `lake/`, `datasets/`, `runs/`, and `tmp/` for what is being made.
"""

import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.errors import ConfigError

ODD_CHARACTERS = "%[]*?"
"""What the libraries that read a root's files would take for patterns and escapes."""


def open_root(root: str, *, create: bool) -> Path:
    """The absolute path of a root.

    Args:
        create: make the folder when it is missing; otherwise a missing one is an error.

    Raises:
        ConfigError: not a local path, not a folder, missing, or not writable.
    """
    if "://" in root:
        raise ConfigError(
            f"--root must be a local folder in this version, got {root}; mount the store or copy it"
        )
    path = Path(root).absolute()
    if not root or set(ODD_CHARACTERS) & set(str(path)):
        raise ConfigError(f"--root must be a path without %, [, ], * and ?, got {root!r}; choose another")
    if not create:
        if not (path / "lake").is_dir():
            raise ConfigError(
                f"--root must be a folder that `avgen run` has filled, got {path}; run `avgen run` first"
            )
        return path
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as err:
        raise ConfigError(
            f"--root must be a folder that can be written, got {path}: {err.strerror};"
            " choose another or fix its permissions"
        ) from err
    return path


@contextmanager
def exclusive(root: Path) -> Iterator[None]:
    """Hold the root for one writer. The kernel lets go when the process ends, however it ends.

    Raises:
        ConfigError: another process holds it.
    """
    with (root / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            raise ConfigError(
                f"only one run may write to a root at a time, another one is writing to {root}; wait for it"
            ) from err
        yield


def fresh_folder(path: Path) -> Path:
    """An empty folder at `path`; what an earlier run left there is removed."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def sync(path: Path) -> None:
    """Make a closed file's content, or the names in a folder, durable."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove_files(paths: Iterable[Path]) -> None:
    """Delete files; those that are gone already are passed over."""
    for path in paths:
        path.unlink(missing_ok=True)


def remove_folders(paths: Iterable[Path]) -> None:
    """Delete folders with all that is in them."""
    for path in paths:
        shutil.rmtree(path)


def publish(temporary: Path, final: Path) -> None:
    """Give a finished, closed file its name: durable, and all or nothing. Same filesystem only."""
    final.parent.mkdir(parents=True, exist_ok=True)
    sync(temporary)
    temporary.replace(final)
    sync(final.parent)


def write_atomic(path: Path, content: bytes) -> None:
    """Write a small file so that a reader sees all of it or the one before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    publish(temporary, path)
