import math
import os
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawl.items import SourceItem, canonical_url, file_url, local_path, source_item
from infra.errors import BlockedByPolicy, ConfigError


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("HTTP://Example.COM:80/A.mp4", "http://example.com/A.mp4"),
        ("https://example.com:443", "https://example.com/"),
        ("https://example.com:8443/a", "https://example.com:8443/a"),
        ("https://u:p@example.com/a", "https://u:p@example.com/a"),
        ("http://[::1]:80/a", "http://[::1]/a"),
        ("http://h/a b/ü.mp4", "http://h/a%20b/%C3%BC.mp4"),
        ("http://h/100%.mp4", "http://h/100%25.mp4"),
        ("http://h/a%20b", "http://h/a%20b"),
        ("http://h/a?b=1&a=2&a=3", "http://h/a?b=1&a=2&a=3"),
        ("http://h/a?utm_source=x&v=1&fbclid=y", "http://h/a?v=1"),
        ("http://h/a#t=10", "http://h/a"),
        ("http://h/#/video/1", "http://h/#/video/1"),
        ("https://youtu.be/0B4dYTMsgHA?t=130", "https://www.youtube.com/watch?v=0B4dYTMsgHA"),
        ("https://m.youtube.com/shorts/0B4dYTMsgHA", "https://www.youtube.com/watch?v=0B4dYTMsgHA"),
        ("http://youtube.com/watch?list=PL1&v=0B4dYTMsgHA", "https://www.youtube.com/watch?v=0B4dYTMsgHA"),
        ("https://www.youtube.com/playlist?list=PL1", "https://www.youtube.com/playlist?list=PL1"),
        ("file:///a%20b/c.mp4", "file:///a%20b/c.mp4"),
        ("file:///a b/c.mp4", "file:///a%20b/c.mp4"),
        ("file://localhost/c.mp4", "file:///c.mp4"),
    ],
)
def test_canonical_url_spelling_variants_become_one(url: str, expected: str) -> None:
    assert canonical_url(url) == expected
    assert canonical_url(expected) == expected


@pytest.mark.parametrize(
    "url", ["ftp://h/a", "/a", "a", "", "http://", "file://host/a", "http://h:x/", "http://[::1/"]
)
def test_canonical_url_not_an_address_raises_blocked_by_policy(url: str) -> None:
    with pytest.raises(BlockedByPolicy):
        canonical_url(url)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30))
def test_canonical_url_any_path_is_idempotent_ascii(path: str) -> None:
    once = canonical_url(f"http://h/x{path}x")
    assert canonical_url(once) == once
    assert once.isascii()
    assert " " not in once


@given(st.binary(min_size=1, max_size=40).filter(lambda name: not set(name) & {0, ord("/")}))
def test_local_path_any_file_name_round_trips(name: bytes) -> None:
    path = Path("/media") / ("x" + os.fsdecode(name))
    assert local_path(path.as_uri()) == path
    assert canonical_url(path.as_uri()) == path.as_uri()


def test_source_item_known_addresses_keep_their_ids() -> None:
    # Golden, 2026-11-23: `printf '<url> [0.0, inf)' | sha256sum | cut -c1-16`. An id that changes
    # makes every source of every lake new.
    whole = source_item("https://youtu.be/0B4dYTMsgHA", kind="list")
    part = source_item("https://youtu.be/0B4dYTMsgHA", kind="list", span_start_s=130, span_end_s=140)
    assert (whole.source_id, part.source_id) == ("a37aa246192b5b4f", "629f77d618632edc")


def test_source_item_int_and_float_span_have_one_id() -> None:
    by_int = source_item("http://h/a", kind="list", span_start_s=1, span_end_s=2)
    by_float = source_item("http://h/a", kind="list", span_start_s=1.0, span_end_s=2.0)
    assert by_int == by_float


@pytest.mark.parametrize(("start_s", "end_s"), [(-1, 1), (2, 2), (3, 2), (math.nan, 1), (math.inf, math.inf)])
def test_source_item_bad_span_raises_config_error(start_s: float, end_s: float) -> None:
    with pytest.raises(ConfigError):
        source_item("http://h/a", kind="list", span_start_s=start_s, span_end_s=end_s)


def test_source_item_wrong_id_is_refused() -> None:
    with pytest.raises(ValueError, match="source_id must be"):
        SourceItem(source_id="0" * 16, url="http://h/a", kind="web")


def test_source_item_pickles() -> None:
    item = source_item("http://h/a", kind="web")
    assert pickle.loads(pickle.dumps(item)) == item


def test_file_url_symbolic_link_is_resolved(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert file_url(tmp_path / "link" / "a.mp4") == (tmp_path / "real" / "a.mp4").resolve().as_uri()
