"""`dir:PATH`: every media file below a folder, sorted by path."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from crawl.items import SourceItem, UnexpandedSource, file_url, source_item
from crawl.policy import FetchConfig
from infra.errors import ConfigError

MEDIA_SUFFIXES = frozenset(
    {".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"}
    | {".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"}
)


def expand_dir(spec: str, config: FetchConfig) -> Iterator[SourceItem | UnexpandedSource]:
    """Items for the media files below the folder; hidden names and symbolic links are skipped.

    Raises:
        ConfigError: no such folder, it cannot be read, or no media file is in it.
    """
    root = Path(spec[len("dir:") :])
    if not root.is_dir():
        raise ConfigError(f"dir: must name an existing folder, got {str(root)!r}")
    items = (source_item(file_url(path), kind="dir") for path in _media_files(root.resolve()))
    first = next(items, None)
    if first is None:
        suffixes = " ".join(sorted(MEDIA_SUFFIXES))
        raise ConfigError(f"dir: must hold a media file ({suffixes}), found none in {str(root)!r}")
    return itertools.chain([first], items)


def _media_files(folder: Path) -> Iterator[Path]:
    try:
        with os.scandir(folder) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
    except OSError as err:
        raise ConfigError(
            f"every folder below dir: must be readable, got {err.strerror} for {str(folder)!r}"
        ) from err
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _media_files(Path(entry.path))
        elif entry.is_file(follow_symlinks=False) and Path(entry.name).suffix.lower() in MEDIA_SUFFIXES:
            yield Path(entry.path)
