"""A source item -> its media file, named by its content, and where it came from."""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from crawl.items import SourceItem, local_path
from crawl.policy import FetchConfig
from crawl.ytdlp import download
from infra.config import storable_text
from infra.errors import BlockedByPolicy, Gone, NotMedia, Private, StorageUnavailable, TooLarge
from infra.storage import sync

__all__ = ["FetchConfig", "FetchedMedia", "Provenance", "fetch"]

_EXT = re.compile(r"[a-z0-9]{1,5}")
_UNKNOWN_EXT = "bin"
_COPY_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where a file came from and under which terms; every field is an empty text when unknown."""

    url: str
    """The canonical address that was asked for."""
    title: str = ""
    uploader: str = ""
    channel_id: str = ""
    """The site's id of the channel or uploader: what a takedown by channel names."""
    licence: str = ""
    extractor: str = ""
    """The yt-dlp extractor, or "file"."""
    format_id: str = ""
    """The format that yt-dlp chose."""
    webpage_url: str = ""
    upload_date: str = ""
    """ISO 8601 date."""
    fetched_at: str
    """ISO 8601, UTC, whole seconds."""

    def __post_init__(self) -> None:
        """Write lone surrogates (bytes of odd file names, broken titles) as escapes: tables hold Unicode."""
        for name in self.__dataclass_fields__:
            object.__setattr__(self, name, storable_text(getattr(self, name)))


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedMedia:
    """A file in the media store."""

    source_id: str
    media_key: str
    """Relative to the root: `media/<aa>/<sha256>.<ext>`."""
    sha256: str
    media_bytes: int
    provenance: Provenance


@dataclass(frozen=True, slots=True)
class _Stored:
    media_key: str
    sha256: str
    media_bytes: int


def fetch(
    item: SourceItem,
    *,
    media_dir: Path,
    work_dir: Path,
    ffmpeg: Path,
    config: FetchConfig,
    now: Callable[[], datetime],
) -> FetchedMedia:
    """Put the media of `item` into the store. The whole source is fetched; its span stays in the record.

    Args:
        media_dir: the store, `<root>/media`; made when absent.
        work_dir: scratch; nothing of this call remains in it, whatever the outcome.
        ffmpeg: the binary that yt-dlp merges streams with.
        now: the clock, for `fetched_at`.

    Raises:
        ConfigError: yt-dlp does not start.
        SourceUnavailable, MediaTooLarge: asking again will not help.
        TransientError: it may.
    """
    scheme = item.url.partition("://")[0]
    with _os_errors_named(item.url), _scratch(work_dir) as scratch:
        if scheme == "file":
            path = local_path(item.url)
            stored = _store_local(path, media_dir=media_dir, scratch=scratch, max_bytes=config.max_bytes)
            known = {"title": path.stem, "extractor": "file"}
        elif scheme in ("http", "https"):
            known = download(item.url, out_dir=scratch, ffmpeg=ffmpeg, config=config)
            path = scratch / known.pop("file")
            stored = _store(path, sha256=_sha256(path), ext=_ext(path), media_dir=media_dir)
        else:
            raise BlockedByPolicy(
                f"an address must start with http://, https:// or file://, got {item.url!r}"
            )
    fetched_at = now().astimezone(UTC).isoformat(timespec="seconds")
    return FetchedMedia(
        source_id=item.source_id,
        media_key=stored.media_key,
        sha256=stored.sha256,
        media_bytes=stored.media_bytes,
        provenance=Provenance(url=item.url, fetched_at=fetched_at, **known),
    )


@contextlib.contextmanager
def _scratch(work_dir: Path) -> Iterator[Path]:
    """A fresh folder in `work_dir`, removed with all that is in it at the end."""
    work_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=work_dir, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextlib.contextmanager
def _os_errors_named(url: str) -> Iterator[None]:
    """Our own disks are at fault for an OSError that nothing below has named."""
    try:
        yield
    except OSError as err:
        raise StorageUnavailable(f"the media store must be readable and writable, got {err} ({url})") from err


def _store_local(path: Path, *, media_dir: Path, scratch: Path, max_bytes: int) -> _Stored:
    """Copy of a local file in the store; the original is only read.

    No hard link: whoever edits the original in place would edit what the store keeps under the old hash.
    """
    before = _regular_file(path)
    if before.st_size > max_bytes:
        raise TooLarge(f"a source must have at most {max_bytes} bytes, got {before.st_size} ({path})")
    temporary = scratch / "media"
    sha256 = _copy(path, temporary)
    after = path.stat()
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise StorageUnavailable(f"a file must not change while it is fetched, it did; try again ({path})")
    return _store(temporary, sha256=sha256, ext=_ext(path), media_dir=media_dir)


def _regular_file(path: Path) -> os.stat_result:
    try:
        status = path.stat()
        with path.open("rb") if stat.S_ISREG(status.st_mode) else contextlib.nullcontext():
            pass
    except (FileNotFoundError, NotADirectoryError, ValueError) as err:  # ValueError: a NUL in the name
        raise Gone(f"a file must exist, there is none ({path})") from err
    except PermissionError as err:
        raise Private(f"a file must be readable, permission was denied ({path})") from err
    if not stat.S_ISREG(status.st_mode):
        raise NotMedia(f"a source must be a regular file, it is something else ({path})")
    return status


def _copy(path: Path, target: Path) -> str:
    """sha256 of what was copied."""
    digest = hashlib.sha256()
    with path.open("rb") as source, target.open("xb") as copy:
        while block := source.read(_COPY_BYTES):
            digest.update(block)
            copy.write(block)
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _ext(path: Path) -> str:
    ext = path.suffix.removeprefix(".").lower()
    return ext if _EXT.fullmatch(ext) else _UNKNOWN_EXT


def _store(temporary: Path, *, sha256: str, ext: str, media_dir: Path) -> _Stored:
    """Move a complete file to its final name, durably; one that is there already is left as it is."""
    num_bytes = temporary.stat().st_size
    folder = media_dir / sha256[:2]
    final = folder / f"{sha256}.{ext}"
    if not final.exists():
        folder.mkdir(parents=True, exist_ok=True)
        sync(temporary)
        _replace(temporary, final)
        sync(folder)
    return _Stored(f"media/{sha256[:2]}/{final.name}", sha256, num_bytes)


def _replace(temporary: Path, final: Path) -> None:
    """Rename, by way of a copy when the scratch folder is on another filesystem than the store."""
    try:
        os.replace(temporary, final)  # noqa: PTH105 - Path.replace hides that this is the atomic one
    except OSError as err:
        if err.errno != errno.EXDEV:
            raise
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=final.parent) as folder:
            beside = Path(folder) / final.name
            shutil.copyfile(temporary, beside)
            sync(beside)
            beside.replace(final)
