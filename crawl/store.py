"""The media store: files named by their content, `media/<aa>/<sha256>.<ext>`, each there whole or not at all."""

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from infra.errors import Gone, NotMedia, Private, StorageUnavailable, TooLarge
from infra.root import Root

_COPY_BYTES = 1024 * 1024
_SNIFF_BYTES = 512
_TS_PACKET_BYTES = 188
# What a file begins with, at which byte -> its suffix. Source: the container formats' own specifications.
_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (4, b"ftyp", "mp4"),
    (0, b"\x1a\x45\xdf\xa3", "mkv"),
    (8, b"AVI ", "avi"),
    (0, b"FLV\x01", "flv"),
    (0, b"OggS", "ogv"),
    (0, b"\x30\x26\xb2\x75", "wmv"),
    (0, b"\x00\x00\x01\xba", "mpg"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file in the store."""

    media_key: str
    """Relative to the root: `media/<aa>/<sha256>.<ext>`."""
    sha256: str
    media_bytes: int


def store(path: Path, *, sha256: str, root: Root) -> StoredFile:
    """Move a complete file of the scratch folder to its name in the store; bytes that are there already stay."""
    num_bytes = path.stat().st_size
    media_key = f"media/{sha256[:2]}/{sha256}.{_suffix(path)}"
    root.publish(path, media_key)
    return StoredFile(media_key=media_key, sha256=sha256, media_bytes=num_bytes)


def copy_local(path: Path, target: Path, *, max_bytes: int) -> str:
    """Copy a local file, which is only read, to the new file `target`; its sha256.

    No hard link: whoever edits the original in place would edit what the store keeps under the old hash.

    Raises:
        Gone, Private, NotMedia, TooLarge: the file cannot be had.
        StorageUnavailable: it changed meanwhile.
    """
    before = _regular_file(path)
    if before.st_size > max_bytes:
        raise TooLarge(f"a source must have at most {max_bytes} bytes, got {before.st_size} ({path})")
    digest = hashlib.sha256()
    with path.open("rb") as source, target.open("wb") as copy:
        while block := source.read(_COPY_BYTES):
            digest.update(block)
            copy.write(block)
    after = path.stat()
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise StorageUnavailable(f"a file must not change while it is fetched, it did; try again ({path})")
    return digest.hexdigest()


def sha256_of(path: Path) -> str:
    """Hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _regular_file(path: Path) -> os.stat_result:
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode):
            path.open("rb").close()
    except (FileNotFoundError, NotADirectoryError, ValueError) as err:  # ValueError: a NUL in the name
        raise Gone(f"a file must exist, there is none ({path})") from err
    except PermissionError as err:
        raise Private(f"a file must be readable, permission was denied ({path})") from err
    if not stat.S_ISREG(status.st_mode):
        raise NotMedia(f"a source must be a regular file, it is something else ({path})")
    return status


def _suffix(path: Path) -> str:
    """A suffix that follows from the bytes, so that equal bytes have one name, whatever they were called."""
    with path.open("rb") as file:
        head = file.read(_SNIFF_BYTES)
    if head[:1] == head[_TS_PACKET_BYTES : _TS_PACKET_BYTES + 1] == b"\x47":
        return "ts"
    for offset, magic, suffix in _MAGIC:
        if head.startswith(magic, offset):
            return suffix
    return "bin"
