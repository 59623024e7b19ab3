"""`s3://BUCKET/PREFIX`, also `gs://` and `az://`: every object whose key begins so and is named like a media file.

A prefix is the text that keys begin with, as everywhere in S3: end it with `/` to mean a folder.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from crawl.answer import is_html
from crawl.items import SourceItem, UnexpandedSource, refused_item, source_item, unexpanded
from crawl.object_store import ObjectChanged, ObjectStore, object_store
from crawl.object_url import ObjectName, is_object_url, object_name
from crawl.part_file import Described, PartFile
from crawl.policy import FetchConfig
from crawl.source_dir import is_media_name
from crawl.web import Web
from infra.errors import (
    AvgenError,
    BlockedByPolicy,
    ConfigError,
    FetchTimeout,
    MediaError,
    NetworkFailure,
    NotMedia,
    SourceUnavailable,
    TooLarge,
    TransientError,
)

__all__ = ["ObjectDownload", "download_object", "expand_bucket", "is_object_url"]


class ObjectDownload(NamedTuple):
    """A file with the bytes of an object."""

    num_bytes: int
    sha256: str
    etag: str


def expand_bucket(spec: str, web: Web, first_index: int) -> Iterator[SourceItem | UnexpandedSource]:
    """Items for the media below the prefix, in the order of the store; their kind is the scheme.

    Raises:
        ConfigError: no such scheme or bucket name, or the store's package or settings are missing.
    """
    try:
        prefix = object_name(spec)
    except BlockedByPolicy as err:
        raise ConfigError(str(err)) from err
    return _listed(object_store(prefix.scheme, web.config), prefix, first_index)


def _listed(
    store: ObjectStore, prefix: ObjectName, first_index: int
) -> Iterator[SourceItem | UnexpandedSource]:
    num_found = 0
    try:
        for key in store.keys(prefix):
            if is_media_name(key):
                num_found += 1
                if num_found > first_index:
                    yield _item(prefix._replace(key=key))
        if num_found == 0:
            raise NotMedia(f"a prefix must hold a media file, found none ({prefix})")
    except (MediaError, TransientError) as err:
        yield _failure(prefix, err)


def _item(name: ObjectName) -> SourceItem | UnexpandedSource:
    try:
        return source_item(str(name), kind=name.scheme)
    except BlockedByPolicy as err:
        return _failure(name, err)


def _failure(name: ObjectName, err: AvgenError) -> UnexpandedSource:
    return unexpanded(refused_item(str(name), kind=name.scheme), err)


def download_object(url: str, part: Path, config: FetchConfig) -> ObjectDownload:
    """Bring the object into the file `part`, which is not synced, going on where an earlier call was cut off.

    `<part>.json` beside it belongs to it; bytes of another object, or of one that has changed since, are never
    glued on.

    Raises:
        ConfigError: the store's package or settings are missing or wrong.
        MediaError: Gone, Private, TooLarge, NotMedia (it is empty or a page), BlockedByPolicy.
        TransientError: NetworkFailure, RateLimited, FetchTimeout, DiskFull.
    """
    name = object_name(url)
    store = object_store(name.scheme, config)
    deadline_s = time.monotonic() + config.timeout_s
    num_reconnects_left = config.num_reconnects
    with PartFile(part) as file:
        if file.described.url != str(name):
            file.start_over()
        while not file.is_complete:
            num_before = file.num_bytes
            try:
                _read_on(file, store, name, config.max_bytes, deadline_s)
            except (NetworkFailure, FetchTimeout) as err:
                if isinstance(err, ObjectChanged):
                    file.start_over()
                # What brought nothing was tried often enough by the client of the store.
                is_in_vain = file.num_bytes == num_before
                if is_in_vain or num_reconnects_left == 0 or time.monotonic() > deadline_s:
                    raise
                num_reconnects_left -= 1
            except SourceUnavailable:
                file.start_over()
                raise
        return ObjectDownload(file.num_bytes, file.sha256, file.described.validator)


def _read_on(file: PartFile, store: ObjectStore, name: ObjectName, max_bytes: int, deadline_s: float) -> None:
    """Read from where the part ends to the end of the object."""
    if not file.described.validator:
        file.start_over()
    with store.opened(name, first=file.num_bytes, etag=file.described.validator) as found:
        if found.num_bytes > max_bytes:
            raise TooLarge(f"a source must have at most {max_bytes} bytes, got {found.num_bytes} ({name})")
        if found.num_bytes == 0:
            raise NotMedia(f"a source must not be empty, it is ({name})")
        if file.num_bytes == 0:
            file.describe(
                Described(url=str(name), content_type="", validator=found.etag, total_bytes=found.num_bytes)
            )
        for block in found.blocks:
            file.write(block)
            if is_html(file.head):
                raise NotMedia(f"a source must be media, it begins like an HTML page ({name})")
            if time.monotonic() > deadline_s:
                raise FetchTimeout(f"a fetch must end in time, got {file.num_bytes} bytes so far ({name})")
    if not file.is_complete:
        got = f"{file.num_bytes} bytes read, {found.num_bytes - file.num_bytes} more expected"
        raise NetworkFailure(f"an object must arrive whole, got {got} ({name})")
