"""One writer per root: a lock of the kernel on a folder, a lease in an object store."""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from uuid import uuid4

from infra.errors import ConfigError, StorageUnavailable
from infra.object_store import ObjectStore, Tag, TaggedContent
from infra.storage import exclusive
from infra.store import LocalStore, Store

_LOCK = ".lock"
# How long a writer that cannot be asked any more keeps others out; it renews three times in it.
LEASE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Holder:
    """Content of the lock's object. `num_renewals` makes it another one at every write."""

    token: str
    host: str
    pid: int
    since_s: float
    renewed_s: float
    num_renewals: int = 0
    released: bool = False


class StoreLock:
    """What the holder has in hand."""

    def check(self) -> None:
        """Look that the root is still ours; cheap, nothing is asked of a store.

        Raises:
            StorageUnavailable: it could not be renewed in time, and another writer may have it.
        """


HELD_BY_KERNEL = StoreLock()
"""The lock on a folder: it cannot be lost."""


@contextmanager
def exclusive_store(store: Store, *, lease_s: float = LEASE_S) -> Iterator[StoreLock]:
    """Hold a root for one writer.

    On a folder the kernel lets go when the process ends, however it ends. In an object store the lock is an
    object that a thread renews; one that was not renewed for `lease_s` is taken over, after looking on for long
    enough to see that nobody does, whatever the clocks of the two machines say.

    Raises:
        ConfigError: another process holds it.
    """
    if isinstance(store, LocalStore):
        store.folder.mkdir(parents=True, exist_ok=True)
        with exclusive(store.folder):
            yield HELD_BY_KERNEL
        return
    assert isinstance(store, ObjectStore)
    lease = _Lease(store, lease_s)
    lease.take()
    try:
        yield lease
    finally:
        lease.release()


class _Lease(StoreLock):
    def __init__(self, store: ObjectStore, lease_s: float) -> None:
        self._store = store
        self._lease_s = lease_s
        now_s = time.time()
        self._holder = _Holder(
            token=uuid4().hex, host=socket.gethostname(), pid=os.getpid(), since_s=now_s, renewed_s=now_s
        )
        self._tag: Tag | None = None
        self._valid_until_s = 0.0
        self._lost = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="store-lock", daemon=True)

    def take(self) -> None:
        found = self._store.read_tagged(_LOCK)
        if found is not None:
            self._refuse_unless_free(found)
        if not self._write(None if found is None else found.tag):
            winner = self._store.read_tagged(_LOCK)
            raise self._held_by(winner)
        self._thread.start()

    def check(self) -> None:
        if self._lost or time.monotonic() > self._valid_until_s:
            raise StorageUnavailable(
                f"the lock of a root must be renewed every {self._lease_s:g} s, it was not ({self._store.url});"
                " another run may hold it now; run the same command again"
            )

    def release(self) -> None:
        self._stop.set()
        self._thread.join()
        if not self._lost:
            with suppress(ConfigError, StorageUnavailable):  # It runs out by itself.
                self._write(self._tag, released=True)

    def _refuse_unless_free(self, found: TaggedContent) -> None:
        holder = _parsed(found.content)
        if holder.released:
            return
        if time.time() - holder.renewed_s < self._lease_s:
            raise self._held_by(found)
        time.sleep(self._lease_s / 2)
        later = self._store.read_tagged(_LOCK)
        if later is None or later.tag != found.tag:
            raise self._held_by(later)

    def _held_by(self, found: TaggedContent | None) -> ConfigError:
        who = "another one"
        if found is not None:
            holder = _parsed(found.content)
            since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(holder.since_s))
            who = f"process {holder.pid} on {holder.host} (since {since})"
        return ConfigError(
            f"only one run may write to a root at a time, {who} is writing to {self._store.url};"
            f" wait for it, or for {self._lease_s:g} s after its end if it was killed"
        )

    def _write(self, tag: Tag | None, *, released: bool = False) -> bool:
        """Write the lock if it has `tag`: whether it is ours now."""
        fields = asdict(self._holder) | {
            "renewed_s": time.time(),
            "num_renewals": self._holder.num_renewals + 1,
            "released": released,
        }
        self._holder = _Holder(**fields)
        asked_s = time.monotonic()
        content = json.dumps(fields, sort_keys=True).encode()
        written = self._store.write_if(_LOCK, content, tag=tag)
        if written is None:
            # Our own answer may have been lost, and the library then asked again.
            found = self._store.read_tagged(_LOCK)
            written = found.tag if found is not None and found.content == content else None
        if written is None:
            return False
        self._tag = written
        self._valid_until_s = asked_s + self._lease_s
        return True

    def _keep(self) -> None:
        while not self._stop.wait(self._lease_s / 3):
            try:
                if not self._write(self._tag):
                    self._lost = True
                    return
            except (ConfigError, StorageUnavailable):
                continue  # `check` tells when it has lasted too long.


def _parsed(content: bytes) -> _Holder:
    return _Holder(**json.loads(content))
