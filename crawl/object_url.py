"""The address of an object in a store: `s3://bucket/key`, the key as it is, nothing of it quoted. Pure."""

import re
from typing import NamedTuple

from infra.errors import BlockedByPolicy

# Scheme -> the package that reads it.
OBJECT_STORES = {"s3": "botocore", "gs": "gcsfs", "az": "adlfs"}
_URL = re.compile(rf"({'|'.join(OBJECT_STORES)})://([^/]*)(?:/(.*))?", re.IGNORECASE | re.DOTALL)
# What any of the three allows; the store itself may be stricter. No `:`, which would begin an ARN.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,221}")
# Source: Amazon S3 user guide, "Naming Amazon S3 objects": a key has at most 1,024 bytes of UTF-8.
_KEY_MAX_BYTES = 1024
# Control characters and line ends, which would tear messages and lists apart, and what is no Unicode.
_UNSTORABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class ObjectName(NamedTuple):
    """Where an object, or a prefix of objects, is."""

    scheme: str
    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}"


def is_object_url(url: str) -> bool:
    """Whether the address is one of an object store."""
    return _URL.fullmatch(url) is not None


def object_name(url: str) -> ObjectName:
    """The parts of the address of an object or a prefix; the key is empty for a whole bucket.

    Raises:
        BlockedByPolicy: another scheme, or a bucket or key that no store has.
    """
    match = _URL.fullmatch(url)
    if match is None or not _BUCKET.fullmatch(match[2]):
        schemes = ", ".join(f"{scheme}://" for scheme in OBJECT_STORES)
        raise BlockedByPolicy(f"an object must be named {schemes}BUCKET/KEY, got {url!r}")
    key = match[3] or ""
    if _UNSTORABLE.search(key) or len(key.encode()) > _KEY_MAX_BYTES:
        raise BlockedByPolicy(
            f"a key must have at most {_KEY_MAX_BYTES} bytes and no control characters, got {url!r}"
        )
    return ObjectName(match[1].lower(), match[2], key)


def canonical_object_url(url: str) -> str:
    """The one spelling of the address of an object: a lower-case scheme, the rest as it is.

    Raises:
        BlockedByPolicy: no such store, bucket or key, or a bucket or folder instead of an object.
    """
    name = object_name(url)
    if not name.key or name.key.endswith("/"):
        raise BlockedByPolicy(f"an object must have a key, got {url!r}; as a source it is a prefix")
    return str(name)
