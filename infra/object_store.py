"""A store in a bucket: S3 and what speaks its protocol, Google Cloud Storage, Azure Blob Storage.

Endpoint, region and credentials come from the environment alone (`AWS_ENDPOINT_URL`, `AWS_REGION`,
`AWS_ACCESS_KEY_ID`, `AWS_ALLOW_HTTP`, ...; `GOOGLE_*` and `AZURE_*` likewise), in whatever process uses a store:
a pickled store holds its URL and its options, never a secret. Asking again happens in the library and nowhere
else. The library does not survive `fork`: use spawn.
"""

import io
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, cast

from infra.errors import ConfigError, StorageUnavailable
from infra.object_store_error import store_error
from infra.store import KeptFile, LocalStore, Store

if TYPE_CHECKING:
    from obstore import UpdateVersion

# Source: Amazon S3 API reference: one listing answers with, and one DeleteObjects takes, at most so many keys.
_KEYS_PER_REQUEST = 1000
# A reader that jumps about asks for little; one that goes straight on asks for twice as much every time.
_FIRST_READ_BYTES = 64 * 1024
_MAX_READ_BYTES = 8 * 1024**2
_NO_END = 2**63 - 1
_PAST_THE_END = re.compile(r"\b416\b|InvalidRange")
# The parts of a prefix are names, none of them `.` or `..`.
_URL = re.compile(
    r"(?P<bucket>(s3|gs|az)://[A-Za-z0-9][A-Za-z0-9._-]*)(?P<prefix>(/(?!\.{1,2}(/|$))[^/%\[\]*?#]+)*)/?"
)
_ALLOW_HTTP = {"s3": "AWS_ALLOW_HTTP", "gs": "GOOGLE_ALLOW_HTTP", "az": "AZURE_ALLOW_HTTP"}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOptions:
    """How long an object store is waited for. A request moves `part_bytes` at most, so its time has a bound."""

    request_timeout_s: float = 60.0
    max_retries: int = 10
    retry_timeout_s: float = 180.0
    first_backoff_s: float = 0.1
    max_backoff_s: float = 15.0
    part_bytes: int = 8 * 1024**2
    num_parts_at_once: int = 4


def open_store(url: str, options: StoreOptions | None = None) -> Store:
    """The store of a local path or of an `s3://`, `gs://` or `az://` URL. Nothing is asked of it yet.

    Raises:
        ConfigError: neither of these.
    """
    if not url:
        raise ConfigError("a store must be a path or a URL, got nothing; name one")
    if "://" not in url:
        return LocalStore(Path(url).absolute())
    match = _URL.fullmatch(url)
    if match is None:
        scheme = url.partition("://")[0]
        raise ConfigError(
            f"a store must be a path, or s3://, gs:// or az:// with a bucket and a prefix without %, [, ], *, ?"
            f" and #, got a URL of scheme {scheme!r}; credentials belong in the environment"
        )
    return ObjectStore(match["bucket"], match["prefix"], options or StoreOptions())


class Tag(NamedTuple):
    """What changes whenever an object is written; stores differ in which of the two they go by."""

    e_tag: str | None
    version: str | None

    def as_precondition(self) -> "UpdateVersion":
        """As the library takes it: without what the store does not have."""
        known = {name: value for name, value in self._asdict().items() if value is not None}
        return cast("UpdateVersion", known)


class TaggedContent(NamedTuple):
    """A small file and its tag."""

    content: bytes
    tag: Tag


class ObjectStore:
    """The keys of a bucket below a prefix; `open_store` makes one."""

    def __init__(self, bucket: str, prefix: str, options: StoreOptions) -> None:
        self.options = options
        self._bucket = bucket
        self._prefix = prefix.strip("/")

    @property
    def url(self) -> str:
        """See `Store`, as for all that follow."""
        return f"{self._bucket}/{self._prefix}".rstrip("/")

    def __reduce__(self) -> tuple[type["ObjectStore"], tuple[str, str, StoreOptions]]:
        return ObjectStore, (self._bucket, self._prefix, self.options)

    def below(self, key: str) -> "ObjectStore":
        """The store of a folder."""
        store = ObjectStore(self._bucket, self._path(key), self.options)
        store.__dict__["_client"] = self._client  # Its connections are shared.
        return store

    def read(self, key: str) -> bytes:
        """All bytes of a file."""
        return b"".join(self._blocks(key))

    def read_range(self, key: str, *, offset_bytes: int, num_bytes: int) -> bytes:
        """Bytes of a file."""
        return b"".join(self._blocks(key, offset_bytes, offset_bytes + num_bytes))

    def open(self, key: str) -> BinaryIO:
        """A stream to read from."""
        raw = _ObjectReader(self, key, self._head(key))
        return cast(BinaryIO, io.BufferedReader(raw, _MAX_READ_BYTES))

    def size_bytes(self, key: str) -> int | None:
        """Length of a file."""
        try:
            return cast(int, self._head(key)["size"])
        except FileNotFoundError:
            return None

    def files(self, prefix: str = "") -> Iterator[KeptFile]:
        """All files below a folder."""
        import obstore

        below = f"{self._prefix}/" if self._prefix else ""
        with self._errors(prefix):
            for page in obstore.list(self._client, self._path(prefix), chunk_size=_KEYS_PER_REQUEST):
                for found in page:
                    yield KeptFile(key=found["path"].removeprefix(below), num_bytes=found["size"])

    def create(self, key: str) -> "NewObject":
        """Begin a new file."""
        return NewObject(self, key)

    def write(self, key: str, content: bytes) -> None:
        """A small file, at once."""
        import obstore

        with self._errors(key, is_write=True):
            obstore.put(
                self._client,
                self._path(key),
                content,
                chunk_size=self.options.part_bytes,
                max_concurrency=self.options.num_parts_at_once,
            )

    def delete(self, keys: Iterable[str]) -> None:
        """Delete files."""
        import obstore

        rest = iter(keys)
        while page := list(islice(rest, _KEYS_PER_REQUEST)):
            with self._errors(page[0], is_write=True):
                try:
                    obstore.delete(self._client, [self._path(key) for key in page])
                except FileNotFoundError:
                    # Google and Azure say so, and may then have left others.
                    for key in page:
                        with suppress(FileNotFoundError), self._errors(key):
                            obstore.delete(self._client, self._path(key))

    def sweep(self, prefix: str = "") -> list[str]:
        """Nothing: parts of an unfinished upload are no file, and the library cannot list them.

        A lifecycle rule of the bucket that aborts incomplete multipart uploads after a day clears them.
        """
        return []

    @contextmanager
    def local_copy(self, key: str) -> Iterator[Path]:
        """The file, fetched."""
        with tempfile.TemporaryDirectory(prefix="avgen-") as folder:
            path = Path(folder) / key.rpartition("/")[2]
            with path.open("wb") as file:
                for block in self._blocks(key):
                    file.write(block)
            yield path

    def read_tagged(self, key: str) -> TaggedContent | None:
        """A small file with its tag; `None` when there is none."""
        import obstore

        with suppress(FileNotFoundError), self._errors(key):
            found = obstore.get(self._client, self._path(key))
            return TaggedContent(bytes(found.bytes()), Tag(found.meta["e_tag"], found.meta["version"]))
        return None

    def write_if(self, key: str, content: bytes, *, tag: Tag | None) -> Tag | None:
        """Write a small file only where there is none (`tag` is None), or where it still has `tag`.

        Returns:
            Its new tag; None where another one was first. An answer that got lost on its way may also end so: who
            must know reads the file.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        mode: obstore.PutMode = "create" if tag is None else tag.as_precondition()
        with self._errors(key, is_write=True):
            try:
                put = obstore.put(self._client, self._path(key), content, mode=mode, use_multipart=False)
            except (AlreadyExistsError, PreconditionError):
                return None
        return Tag(put["e_tag"], put["version"])

    def library_options(self) -> dict[str, str]:
        """The options as the store library takes them where another library brings it along."""
        options = self.options
        return {
            "timeout": f"{options.request_timeout_s}s",
            "max_retries": str(options.max_retries),
            "retry_timeout": f"{options.retry_timeout_s}s",
            "backoff_config.init_backoff": f"{options.first_backoff_s}s",
            "backoff_config.max_backoff": f"{options.max_backoff_s}s",
        }

    @cached_property
    def _client(self) -> Any:
        from obstore.exceptions import BaseError
        from obstore.store import AzureStore, GCSStore, S3Store

        scheme, _, bucket = self._bucket.partition("://")
        kind = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}[scheme]
        # One request deletes many keys, but the library never asks again for it.
        config = {"disable_bulk_delete": True} if scheme == "s3" else {}
        try:
            return kind(bucket, config=config, **self._client_options(scheme))
        except BaseError as err:
            raise ConfigError(
                f"{scheme}:// needs its settings in the environment, got: {str(err).splitlines()[0]}"
            ) from None

    def _client_options(self, scheme: str) -> dict[str, Any]:
        options = self.options
        return {
            "client_options": {
                "timeout": timedelta(seconds=options.request_timeout_s),
                "connect_timeout": timedelta(seconds=min(5.0, options.request_timeout_s)),
                "allow_http": os.environ.get(_ALLOW_HTTP[scheme], "").lower() in ("1", "true", "yes"),
            },
            "retry_config": {
                "max_retries": options.max_retries,
                "retry_timeout": timedelta(seconds=options.retry_timeout_s),
                "backoff": {
                    "init_backoff": timedelta(seconds=options.first_backoff_s),
                    "max_backoff": timedelta(seconds=options.max_backoff_s),
                    "base": 2,
                },
            },
        }

    def _path(self, key: str) -> str:
        return "/".join(part for part in (self._prefix, key.strip("/")) if part)

    def _head(self, key: str) -> Any:
        import obstore

        with self._errors(key):
            return obstore.head(self._client, self._path(key))

    def _blocks(self, key: str, start: int = 0, stop: int = _NO_END) -> Iterator[bytes]:
        """Bytes of a file, a part at a time, all of the same version of it."""
        tag = None
        while start < stop:
            data, meta = self._get(key, start, min(start + self.options.part_bytes, stop), tag)
            yield data
            start += len(data)
            stop, tag = min(stop, meta["size"]), meta["e_tag"]

    def _get(self, key: str, start: int, stop: int, tag: str | None) -> tuple[bytes, Any]:
        """Bytes of a file and what is known of it; a size of 0 stands for one that ends before `start`."""
        import obstore
        from obstore.exceptions import GenericError

        with self._errors(key):
            try:
                options: obstore.GetOptions = {"range": (start, stop)}
                if tag is not None:
                    options["if_match"] = tag
                found = obstore.get(self._client, self._path(key), options=options)
                return bytes(found.bytes()), found.meta
            except GenericError as err:
                if _PAST_THE_END.search(str(err)) is None:
                    raise
                return b"", {"size": 0, "e_tag": tag}

    @contextmanager
    def _errors(self, key: str, *, is_write: bool = False) -> Iterator[None]:
        """Our names for what the library raises; its own message may hold secrets and is not chained."""
        from obstore.exceptions import BaseError

        try:
            yield
        except FileNotFoundError as err:
            told = self.told(err, key)
            if is_write or isinstance(told, ConfigError):
                raise told from None
            raise FileNotFoundError(f"{self._bucket}/{self._path(key)}") from None
        except (BaseError, OSError) as err:
            raise self.told(err, key) from None

    def told(self, err: Exception, key: str) -> ConfigError | StorageUnavailable:
        """What an error of this library, or of another one that uses it, means: who must act, in one line."""
        name = f"{self._bucket}/{self._path(key)}"
        return store_error(err, name=name, num_retries=self.options.max_retries)


class NewObject:
    """A multipart upload, or one request for what fits in a part: the key appears when the store completes it."""

    def __init__(self, store: ObjectStore, key: str) -> None:
        import obstore

        self._errors = lambda: store._errors(key, is_write=True)
        self._is_open = True
        self._writer = obstore.open_writer(
            store._client,
            store._path(key),
            buffer_size=store.options.part_bytes,
            max_concurrency=store.options.num_parts_at_once,
        )

    def write(self, data: bytes) -> None:
        """Append."""
        with self._errors():
            self._writer.write(data)

    def commit(self) -> None:
        """Give the file its key."""
        with self._errors():
            self._writer.close()
        self._is_open = False

    def discard_unless_committed(self) -> None:
        """Leave nothing behind."""
        from obstore.exceptions import BaseError

        if self._is_open:
            self._is_open = False
            # Where the store cannot be told, parts stay behind that no reader sees: see `sweep`.
            with suppress(BaseError, OSError, ValueError):
                self._writer.__exit__(InterruptedError, InterruptedError(), None)


class _ObjectReader(io.RawIOBase):
    """Reads one version of an object; `io.BufferedReader` above it asks for far more than it needs to get."""

    def __init__(self, store: ObjectStore, key: str, head: Any) -> None:
        self._store = store
        self._key = key
        self._num_bytes = head["size"]
        self._tag = head["e_tag"]
        self._position = 0
        self._read_bytes = _FIRST_READ_BYTES

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._num_bytes}[whence]
        if start + offset < 0:
            raise ValueError(f"a position must be at least 0, got {start + offset}")
        if start + offset != self._position:
            self._read_bytes = _FIRST_READ_BYTES
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        stop = min(self._num_bytes, self._position + min(len(buffer), self._read_bytes))
        if stop <= self._position:
            return 0
        data, _ = self._store._get(self._key, self._position, stop, self._tag)
        buffer[: len(data)] = data
        self._position += len(data)
        self._read_bytes = min(2 * self._read_bytes, _MAX_READ_BYTES)
        return len(data)
