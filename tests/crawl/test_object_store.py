"""Stores behind fsspec: the memory store of fsspec itself. S3 is tested in test_source_bucket.py."""

from collections.abc import Iterator

import fsspec
import pytest

from crawl.object_store import ObjectChanged, _FsspecStore
from crawl.object_url import object_name
from infra.errors import Gone


@pytest.fixture
def memory() -> Iterator[_FsspecStore]:
    filesystem = fsspec.filesystem("memory", skip_instance_cache=True)
    for key in ("v/b.mp4", "v/a/z.mkv", "va/c.mp4", "v.mp4", "w/d.mp4"):
        filesystem.pipe_file(f"/bucket/{key}", key.encode())
    yield _FsspecStore(filesystem)
    filesystem.rm("/bucket", recursive=True)


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("", ["v.mp4", "v/b.mp4", "v/a/z.mkv", "va/c.mp4", "w/d.mp4"]),
        ("v", ["v.mp4", "v/b.mp4", "v/a/z.mkv", "va/c.mp4"]),
        ("v/", ["v/b.mp4", "v/a/z.mkv"]),
        ("v/a/z", ["v/a/z.mkv"]),
        ("x", []),
    ],
)
def test_fsspec_store_keys_begin_with_the_prefix(
    prefix: str, expected: list[str], memory: _FsspecStore
) -> None:
    assert list(memory.keys(object_name(f"gs://bucket/{prefix}"))) == expected


def test_fsspec_store_reads_from_a_byte_on(memory: _FsspecStore) -> None:
    with memory.opened(object_name("gs://bucket/v/b.mp4"), first=2, etag="") as found:
        assert (found.num_bytes, found.etag, b"".join(found.blocks)) == (7, "", b"b.mp4")


def test_fsspec_store_errors_are_ours(memory: _FsspecStore) -> None:
    with pytest.raises(Gone, match="gs://no-bucket/v"):
        list(memory.keys(object_name("gs://no-bucket/v/")))
    with pytest.raises(Gone), memory.opened(object_name("gs://bucket/none"), first=0, etag=""):
        pass
    with pytest.raises(ObjectChanged), memory.opened(object_name("gs://bucket/v.mp4"), first=1, etag="1"):
        pass
