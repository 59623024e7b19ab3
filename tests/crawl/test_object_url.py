import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawl.items import canonical_url, source_item
from crawl.object_url import canonical_object_url, is_object_url, object_name
from infra.errors import BlockedByPolicy


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://bucket/a/b.mp4", "s3://bucket/a/b.mp4"),
        ("S3://Bucket/A%20b .mp4", "s3://Bucket/A%20b .mp4"),
        ("gs://bu.cket_1//a", "gs://bu.cket_1//a"),
        ("az://bucket/ü", "az://bucket/ü"),
    ],
)
def test_canonical_object_url_keeps_the_key_as_it_is(url: str, expected: str) -> None:
    assert is_object_url(url)
    assert canonical_object_url(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3:///key",
        "s3://b",
        "s3://bucket",
        "s3://bucket/",
        "s3://bucket/folder/",
        "s3://a b/key",
        "s3://user:secret@bucket/key",
        "s3://arn:aws:s3:::bucket/key",
        "s3://-bucket/key",
        "s3://bucket/a\nb",
        "s3://bucket/a\u2028b",
        "s3://bucket/\udcff",
        "s3://bucket/" + "k" * 1025,
        "s3a://bucket/key",
        "http://bucket/key",
    ],
)
def test_canonical_object_url_anything_else_is_blocked(url: str) -> None:
    with pytest.raises(BlockedByPolicy) as raised:
        canonical_object_url(url)
    assert "\n" not in str(raised.value)


@given(key=st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), min_size=1, max_size=200))
def test_canonical_object_url_holds_every_key(key: str) -> None:
    name = object_name(f"s3://bucket/{key}")
    assert (name.scheme, name.bucket, name.key) == ("s3", "bucket", key)
    assert object_name(str(name)) == name


def test_source_item_of_an_object_has_its_canonical_address() -> None:
    assert canonical_url("S3://bucket/a b%20c?d#e.mp4") == "s3://bucket/a b%20c?d#e.mp4"
    assert source_item("s3://bucket/a.mp4", kind="list") != source_item("s3://bucket/A.mp4", kind="list")
