"""Object stores: which keys begin with a prefix, and the bytes of one object.

S3 and what speaks its protocol go through botocore, which tells what a store really said; Google and Azure through
the fsspec packages of theirs, where installed. Endpoint and credentials come from the environment alone
(`AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`, `AWS_PROFILE`, ...); without credentials S3 is asked as anyone.
"""

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple, Protocol

from crawl.object_url import OBJECT_STORES, ObjectName
from crawl.policy import FetchConfig
from infra.errors import (
    AvgenError,
    BlockedByPolicy,
    ConfigError,
    FetchTimeout,
    Gone,
    NetworkFailure,
    Private,
    RateLimited,
    SourceUnavailable,
)

_BLOCK_BYTES = 1024**2
# One request each where a store is read through fsspec.
_SPAN_BYTES = 8 * 1024**2
# Any of these says where credentials are; the metadata service of a cloud machine is asked only by name.
_CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_PROFILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
# Source: Amazon S3 API reference, "Error responses"; the rest goes by HTTP status.
_S3_CODES: Mapping[str, type[AvgenError]] = {
    "ExpiredToken": ConfigError,
    "InvalidAccessKeyId": ConfigError,
    "InvalidToken": ConfigError,
    "RequestTimeTooSkewed": ConfigError,
    "SignatureDoesNotMatch": ConfigError,
    "BandwidthLimitExceeded": RateLimited,
    "RequestLimitExceeded": RateLimited,
    "SlowDown": RateLimited,
    "Throttling": RateLimited,
    "ThrottlingException": RateLimited,
    "TooManyRequests": RateLimited,
    "InternalError": NetworkFailure,
    "RequestTimeout": FetchTimeout,
}
_STATUSES: Mapping[int, type[AvgenError]] = {
    401: Private,
    403: Private,
    404: Gone,
    405: Gone,  # A delete marker.
    408: FetchTimeout,
    410: Gone,
    429: RateLimited,
}
# Source: what fsspec's own file systems raise.
_FSSPEC_CLASSES: Mapping[type[Exception], type[AvgenError]] = {
    FileNotFoundError: Gone,
    PermissionError: Private,
    TimeoutError: FetchTimeout,
}


class ObjectChanged(NetworkFailure):
    """The object is not the one that was read before, or the asked bytes of it cannot be had."""


class OpenObject(NamedTuple):
    """One object, being read."""

    num_bytes: int
    """Of the whole object."""
    etag: str
    """Changes with the content; empty when the store has none."""
    blocks: Iterator[bytes]
    """What follows the first byte that was asked for; it may end early."""


class ObjectStore(Protocol):
    """What sources need of a store. Errors are those of `infra/errors.py`."""

    def keys(self, prefix: ObjectName) -> Iterator[str]:
        """The keys that begin with that of `prefix`, in a stable order, page by page."""

    def opened(self, name: ObjectName, *, first: int, etag: str) -> AbstractContextManager[OpenObject]:
        """The object from byte `first` on; raises ObjectChanged where `first` > 0 and its etag is another."""


def object_store(scheme: str, config: FetchConfig) -> ObjectStore:
    """The store of a scheme.

    Raises:
        ConfigError: its package is not installed, or what the environment says of it is wrong.
    """
    if scheme == "s3":
        environment = tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
        return _s3(environment, config.stall_timeout_s, config.connections, config.num_reconnects)
    import fsspec

    try:
        return _FsspecStore(fsspec.filesystem(scheme, use_listings_cache=False, skip_instance_cache=True))
    except ImportError as err:
        package = OBJECT_STORES[scheme]
        raise ConfigError(f"{scheme}:// needs the package {package}, which is not installed: {err}") from err
    except (ValueError, OSError) as err:
        raise ConfigError(f"{scheme}:// needs credentials in the environment, got: {err}") from err


@functools.lru_cache(maxsize=4)
def _s3(
    environment: tuple[tuple[str, str], ...], timeout_s: float, num_connections: int, num_retries: int
) -> "_S3Store":
    """One client a process: it is safe to share, and slow to make."""
    import botocore.session
    from botocore import UNSIGNED
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    settings = dict(environment)
    is_signed = any(settings.get(name) for name in _CREDENTIALS)
    config = Config(
        signature_version=None if is_signed else UNSIGNED,
        connect_timeout=timeout_s,
        read_timeout=timeout_s,
        max_pool_connections=num_connections,
        retries={"mode": "standard", "total_max_attempts": 1 + num_retries},
        # The sha256 of every file is taken anyway, and not every store knows the checksums of S3.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    try:
        client = botocore.session.Session().create_client(
            "s3",
            region_name=settings.get("AWS_REGION") or settings.get("AWS_DEFAULT_REGION") or None,
            # Named here, it is asked by path: a store of one's own has no host name a bucket.
            endpoint_url=settings.get("AWS_ENDPOINT_URL_S3") or settings.get("AWS_ENDPOINT_URL") or None,
            config=config,
        )
    except (BotoCoreError, ValueError) as err:
        raise ConfigError(f"s3:// needs valid AWS_* variables in the environment, got: {err}") from err
    return _S3Store(client)


class _S3Store:
    def __init__(self, client: Any) -> None:
        self._client = client

    def keys(self, prefix: ObjectName) -> Iterator[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=prefix.bucket, Prefix=prefix.key
        )
        with _s3_errors(prefix):
            for page in pages:
                yield from (found["Key"] for found in page.get("Contents", ()))

    @contextmanager
    def opened(self, name: ObjectName, *, first: int, etag: str) -> Iterator[OpenObject]:
        span = {"Range": f"bytes={first}-", "IfMatch": etag} if first else {}
        with _s3_errors(name):
            answer = self._client.get_object(Bucket=name.bucket, Key=name.key, **span)
        with answer["Body"] as raw:
            if first and not answer.get("ContentRange", "").startswith(f"bytes {first}-"):
                raise ObjectChanged(
                    f"a store must answer with the bytes from {first} on, it did not ({name})"
                )
            num_bytes = first + answer["ContentLength"]
            blocks = _blocks(raw.read1, _BLOCK_BYTES, _s3_errors(name))
            yield OpenObject(num_bytes, answer.get("ETag", ""), blocks)


class _FsspecStore:
    def __init__(self, filesystem: Any) -> None:
        self._filesystem = filesystem

    def keys(self, prefix: ObjectName) -> Iterator[str]:
        root = f"{prefix.bucket}/"
        start = root + prefix.key
        pending = [start.rpartition("/")[0]]
        while pending:
            folder = pending.pop()
            with _FsspecErrors(prefix):
                found = {
                    entry["name"].strip("/"): entry["type"]
                    for entry in self._filesystem.ls(folder, detail=True)
                }
            for path in sorted(found):
                if path.startswith(start) and found[path] == "file":
                    yield path.removeprefix(root)
            folders = (path for path in found if found[path] == "directory" and path != folder)
            pending += sorted((path for path in folders if f"{path}/".startswith(start)), reverse=True)

    @contextmanager
    def opened(self, name: ObjectName, *, first: int, etag: str) -> Iterator[OpenObject]:
        path = f"{name.bucket}/{name.key}"
        with _FsspecErrors(name):
            before = self._filesystem.info(path)
            if first and (_etag(before) != etag or first > before["size"]):
                raise ObjectChanged(f"an object must not change while it is read, it did ({name})")
            file = self._filesystem.open(path, "rb", cache_type="none")
            file.seek(first)
        with file:
            yield OpenObject(before["size"], _etag(before), self._unchanged(file, name, before))

    def _unchanged(self, file: Any, name: ObjectName, before: Mapping[str, Any]) -> Iterator[bytes]:
        yield from _blocks(file.read, _SPAN_BYTES, _FsspecErrors(name))
        with _FsspecErrors(name):
            if _etag(self._filesystem.info(f"{name.bucket}/{name.key}")) != _etag(before):
                raise ObjectChanged(f"an object must not change while it is read, it did ({name})")


def _blocks(
    read: Callable[[int], bytes], max_bytes: int, errors: AbstractContextManager[None]
) -> Iterator[bytes]:
    with errors:
        while block := read(max_bytes):
            yield block


def _etag(info: Mapping[str, Any]) -> str:
    return str(info.get("etag") or info.get("ETag") or "")


@contextmanager
def _s3_errors(name: ObjectName) -> Iterator[None]:
    import urllib3.exceptions
    from botocore import exceptions

    try:
        yield
    except exceptions.ClientError as err:
        raise _s3_error(err, name) from err
    except (
        exceptions.ReadTimeoutError, exceptions.ConnectTimeoutError, urllib3.exceptions.TimeoutError
    ) as err:  # fmt: skip
        raise FetchTimeout(f"a store must answer in time, got: {err} ({name})") from err
    except (
        exceptions.NoCredentialsError, exceptions.PartialCredentialsError, exceptions.CredentialRetrievalError
    ) as err:  # fmt: skip
        raise ConfigError(f"the AWS_* variables must lead to credentials, got: {err} ({name})") from err
    except exceptions.ParamValidationError as err:
        raise BlockedByPolicy(f"a bucket and a key must be possible names, got: {err} ({name})") from err
    except (exceptions.BotoCoreError, urllib3.exceptions.HTTPError) as err:
        raise NetworkFailure(f"a store must be reachable, got: {err} ({name})") from err


def _s3_error(err: Any, name: ObjectName) -> AvgenError:
    code = str(err.response.get("Error", {}).get("Code", ""))
    status = int(err.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    message = f"a store must hand out what it holds, got: {err} ({name})"
    if status in (412, 416):
        return ObjectChanged(message)
    return (_S3_CODES.get(code) or _of_status(status))(message)


class _FsspecErrors(AbstractContextManager[None]):
    """Names what the packages behind fsspec raise; each has errors of its own, so no handler lists them."""

    def __init__(self, name: ObjectName) -> None:
        self._name = name

    def __exit__(self, error_class: object, err: BaseException | None, traceback: object) -> None:
        if isinstance(err, Exception) and not isinstance(err, AvgenError):
            message = f"a store must hand out what it holds, got {type(err).__name__}: {err} ({self._name})"
            raise _fsspec_class(err)(message) from err


def _fsspec_class(err: Exception) -> type[AvgenError]:
    for kind, error_class in _FSSPEC_CLASSES.items():
        if isinstance(err, kind):
            return error_class
    return _of_status(_status(err))


def _status(err: Exception) -> int:
    """The HTTP status that an error of gcsfs (`code`) or Azure (`status_code`) carries, 0 for none."""
    found = getattr(err, "status_code", None) or getattr(err, "code", None) or getattr(err, "status", None)
    return int(str(found)) if str(found).isdecimal() else 0


def _of_status(status: int) -> type[AvgenError]:
    if status >= 500 or status == 0:
        return NetworkFailure
    return _STATUSES.get(status, SourceUnavailable)
