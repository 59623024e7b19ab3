"""A partial file that outlives its process: its bytes, their hash, and beside it what they are a part of."""

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from infra.errors import DiskFull

_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
_HASH_BYTES = 1024 * 1024
_HEAD_BYTES = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """What a server said of a file."""

    url: str
    content_type: str
    validator: str
    """Strong ETag or Last-Modified: while it stays, so do the bytes; empty: nobody knows."""
    total_bytes: int
    """0: not known."""
    opt_out: tuple[str, ...] = ()


class PartFile:
    """A file to append to.

    The note beside it (`<name>.json`) is written after the first bytes of what it describes and removed before the
    first byte of anything else, so a process may be killed at any moment. It counts for nothing after a reboot:
    without a sync, a file can then hold less than its length says.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._note_path = path.with_name(f"{path.name}.json")
        self._fd = -1
        self._reset()

    def _reset(self) -> None:
        self.described = Described(url="", content_type="", validator="", total_bytes=0)
        self.num_bytes = 0
        self.head = b""
        """The first bytes."""
        self._digest = hashlib.sha256()
        self._is_noted = False

    def __enter__(self) -> "PartFile":
        with _disk_errors_named(self._path):
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            described = self._read_note()
            if described is None or os.fstat(self._fd).st_size == 0:
                self._erase()
            else:
                self._hash_what_is_there(described)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    @property
    def sha256(self) -> str:
        """Of all bytes so far."""
        return self._digest.hexdigest()

    @property
    def is_complete(self) -> bool:
        """Whether the file is as long as its server said."""
        return 0 < self.described.total_bytes == self.num_bytes

    def start_over(self) -> None:
        """Forget all bytes and what they were."""
        if self.num_bytes:
            with _disk_errors_named(self._path):
                self._erase()
        self._reset()

    def _erase(self) -> None:
        self._note_path.unlink(missing_ok=True)
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)

    def describe(self, described: Described) -> None:
        """Say what the bytes from the first one on are; only while there are none."""
        assert self.num_bytes == 0
        self.described = described

    def write(self, block: bytes) -> None:
        """Append.

        Raises:
            DiskFull: there is no room.
        """
        with _disk_errors_named(self._path):
            view = memoryview(block)
            while view:
                view = view[os.write(self._fd, view) :]
            self._count(block)
            if self.described.validator and not (self._is_noted or self.is_complete):
                self._write_note()

    def _count(self, block: bytes) -> None:
        self._digest.update(block)
        self.num_bytes += len(block)
        if len(self.head) < _HEAD_BYTES:
            self.head = (self.head + block)[:_HEAD_BYTES]

    def _hash_what_is_there(self, described: Described) -> None:
        self.described = described
        self._is_noted = True
        while block := os.read(self._fd, _HASH_BYTES):
            self._count(block)

    def _write_note(self) -> None:
        note = json.dumps(asdict(self.described) | {"boot_id": _boot_id()})
        temporary = self._note_path.with_name(f"{self._note_path.name}.new")
        temporary.write_text(note)
        temporary.replace(self._note_path)
        self._is_noted = True

    def _read_note(self) -> Described | None:
        """What the bytes are; None when that is not known for sure."""
        try:
            note = json.loads(self._note_path.read_bytes())
            if note.pop("boot_id") != _boot_id():
                return None
            return Described(**note | {"opt_out": tuple(note["opt_out"])})
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return None


def _boot_id() -> str:
    """Differs after each start of this machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except FileNotFoundError:
        return "none"


@contextlib.contextmanager
def _disk_errors_named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        if err.errno not in _FULL_ERRNOS:
            raise
        raise DiskFull(
            f"the disk must have room for a download, got {err.strerror}; free some ({path})"
        ) from err
