"""The lake's live files as paths: those of a local root themselves, those of an object store as copies of them.

A file of the lake never changes under its name, so a copy is right for ever; it goes when it is of no more use.
Any number of processes may copy the same files to the same place at once.
"""

import os
import time
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from infra.root import Root
from infra.storage import publish, remove_files
from infra.store import TEMP_SUFFIX
from pipeline.lake import LiveTable, live_tables
from pipeline.lake_upkeep import READER_HOURS

_MIRROR = "lake"
_NUM_AT_ONCE = 8
_NUM_ATTEMPTS = 3
_S_PER_HOUR = 3600


def readable_tables(root: Root) -> dict[str, LiveTable]:
    """Every table as it is now, with local paths of its files.

    Raises:
        ConfigError: a table is missing, or the store does not let us in.
        StorageUnavailable: the store does not answer, or files go as fast as they are looked up.
    """
    tables = live_tables(root.store)
    if root.is_local:
        return tables
    for _ in range(_NUM_ATTEMPTS - 1):
        try:
            return _mirrored(root, tables)
        except FileNotFoundError:
            # Somebody forgets: what is deleted then goes at once.
            tables = live_tables(root.store)
    return _mirrored(root, tables)


def drop_copies(root: Root) -> None:
    """Remove the copies on this machine, so that nothing is left of what was deleted."""
    if not root.is_local:
        remove_files((root.scratch / _MIRROR).glob("*/*"))


def _mirrored(root: Root, tables: Mapping[str, LiveTable]) -> dict[str, LiveTable]:
    paths = {file: _path(root, file) for table in tables.values() for file in table.files}
    missing = [path for path in paths.values() if not _is_there(path)]
    with ThreadPoolExecutor(max_workers=_NUM_AT_ONCE) as pool:
        for _ in pool.map(lambda path: _copy(root, path), missing):
            pass
    _drop_old(root, set(paths.values()))
    return {
        name: table._replace(files=[str(paths[file]) for file in table.files])
        for name, table in tables.items()
    }


def _path(root: Root, file: str) -> Path:
    return root.scratch / file.removeprefix(f"{root.url}/")


def _is_there(path: Path) -> bool:
    """Whether there is a copy; it counts as used now."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _copy(root: Root, path: Path) -> None:
    """Raises `FileNotFoundError`: the store does not have the file any more."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex}{TEMP_SUFFIX}")
    try:
        root.fetch(path.relative_to(root.scratch).as_posix(), temporary)
        publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _drop_old(root: Root, live: Collection[Path]) -> None:
    """Remove what nobody has looked up for as long as a reader may take: others may be at an older state."""
    oldest_s = time.time() - READER_HOURS * _S_PER_HOUR
    for path in (root.scratch / _MIRROR).glob("*/*"):
        # Another process may be quicker.
        with suppress(FileNotFoundError):
            if path not in live and path.stat().st_mtime < oldest_s:
                path.unlink()
