"""`dir:PATH`, `films:PATH`, `games:PATH`: every media file below a folder, sorted by path.

Hidden names and what is no media file by its name are not sources. A symbolic link that is named like a media
file stands for the file that it leads to, as long as that lies in the folder; a link to a folder is not followed,
since a folder of the walk needs no second visit. Every other link, and a folder that cannot be read, is one
`UnexpandedSource`: no link leads the crawl out of the folder that the operator named, and none goes unsaid.
"""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from crawl.items import SourceItem, UnexpandedSource, refused_item, source_item, unexpanded
from crawl.web import Web
from infra.errors import AvgenError, BlockedByPolicy, ConfigError, Gone, Private

MEDIA_SUFFIXES = frozenset(
    {".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"}
    | {".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"}
)

Found = Iterator[SourceItem | UnexpandedSource]


def expand_dir(spec: str, web: Web | None, first_index: int) -> Found:
    """Items for the media files below the folder.

    Raises:
        ConfigError: no such folder, it cannot be read, or no media file is in it.
    """
    return _expand(spec, "dir", first_index)


def expand_films(spec: str, web: Web | None, first_index: int) -> Found:
    """The same for a folder of films and episodes."""
    return _expand(spec, "films", first_index)


def expand_games(spec: str, web: Web | None, first_index: int) -> Found:
    """The same for a folder of recorded games."""
    return _expand(spec, "games", first_index)


def is_media_name(name: str) -> bool:
    """Whether a file or object of this name is taken for a video."""
    return os.path.splitext(name)[1].lower() in MEDIA_SUFFIXES  # noqa: PTH122 - six times as fast as Path.suffix


def _expand(spec: str, kind: str, first_index: int) -> Found:
    root = Path(spec[len(kind) + 1 :])
    if not root.is_dir():
        raise ConfigError(f"{kind}: must name an existing folder, got {str(root)!r}")
    try:
        found = _walk(root.resolve(), kind)
        first = next(found, None)
    except OSError as err:
        raise ConfigError(
            f"{kind}: must name a readable folder, got {err.strerror} for {str(root)!r}"
        ) from err
    if first is None:
        suffixes = " ".join(sorted(MEDIA_SUFFIXES))
        raise ConfigError(f"{kind}: must hold a media file ({suffixes}), found none in {str(root)!r}")
    return itertools.islice(itertools.chain([first], found), first_index, None)


def _walk(root: Path, kind: str) -> Found:
    """What the folder holds, depth first. Only the root raises OSError; nothing recurses, at any depth."""
    pending = _entries_reversed(str(root))
    while pending:
        entry = pending.pop()
        try:
            if entry.is_symlink():
                yield from _linked(Path(entry.path), root, kind)
            elif entry.is_dir():
                pending += _entries_reversed(entry.path)
            elif is_media_name(entry.name) and entry.is_file():
                yield source_item(Path(entry.path).as_uri(), kind=kind)
        except OSError as err:
            yield _refused(Path(entry.path), kind, _unreadable(err, entry.path))


def _entries_reversed(folder: str) -> list["os.DirEntry[str]"]:
    """What is in the folder and not hidden, last name first."""
    with os.scandir(folder) as scan:
        visible = (entry for entry in scan if not entry.name.startswith("."))
        return sorted(visible, key=lambda entry: entry.name, reverse=True)


def _linked(link: Path, root: Path, kind: str) -> Found:
    """What a symbolic link stands for: an item, a refusal, or nothing of its own."""
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError) as err:  # RuntimeError: a loop of links
        yield _refused(link, kind, Gone(f"a link must lead somewhere, got {str(link)!r}: {err}"))
        return
    is_inside = target.is_relative_to(root)
    if target.is_dir() and not (is_inside and _is_walked(target.relative_to(root))):
        yield _refused(link, kind, _leads_away(link, target, root, kind))
    elif target.is_file() and is_media_name(link.name):
        if is_inside:
            yield source_item(target.as_uri(), kind=kind)
        else:
            yield _refused(link, kind, _leads_away(link, target, root, kind))


def _is_walked(inside: Path) -> bool:
    return not any(part.startswith(".") for part in inside.parts)


def _leads_away(link: Path, target: Path, root: Path, kind: str) -> AvgenError:
    return BlockedByPolicy(
        f"a link must lead to what is walked below {str(root)!r}, got {str(link)!r} to {str(target)!r};"
        f" name the target with {kind}: or list: if it is wanted"
    )


def _unreadable(err: OSError, path: str) -> AvgenError:
    error_class = Private if isinstance(err, PermissionError) else Gone
    return error_class(f"what lies below the folder must be readable, got {err.strerror} for {path!r}")


def _refused(path: Path, kind: str, err: AvgenError) -> UnexpandedSource:
    return unexpanded(refused_item(path.as_uri(), kind=kind), err)
