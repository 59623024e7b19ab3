import itertools
import math
import os
import pickle
import traceback
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawl.items import (
    SourceItem,
    canonical_url,
    file_url,
    local_path,
    refused_item,
    source_item,
    video_key,
    without_credentials,
)
from infra.errors import BlockedByPolicy, ConfigError


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("HTTP://Example.COM:80/A.mp4", "http://example.com/A.mp4"),
        ("https://example.com:443", "https://example.com/"),
        ("https://example.com:8443/a", "https://example.com:8443/a"),
        ("https://example.com:/a", "https://example.com/a"),
        ("http://example.com:0443/a", "http://example.com:443/a"),
        ("https://example.com./a", "https://example.com/a"),
        ("https://ex%61mple.com/a", "https://example.com/a"),
        ("http://[::1]:80/a", "http://[::1]/a"),
        ("http://[0:0:0:0:0:0:0:1]/a", "http://[::1]/a"),
        ("https://Bücher.example/a", "https://xn--bcher-kva.example/a"),
        ("https://b%C3%BCcher.example/a", "https://xn--bcher-kva.example/a"),
        ("https://例え。jp/", "https://xn--r8jz45g.jp/"),
        ("https://faß.de/", "https://xn--fa-hia.de/"),
        ("http://my_host.lan/a", "http://my_host.lan/a"),
        ("http://h/a b/ü.mp4", "http://h/a%20b/%C3%BC.mp4"),
        ("http://h/100%.mp4", "http://h/100%25.mp4"),
        ("http://h/a%20b", "http://h/a%20b"),
        ("http://h/%41%7e%2fb%c3%bc", "http://h/A~%2Fb%C3%BC"),
        ("http://h/%2541", "http://h/%2541"),
        ("http://h/a?%62=%2f", "http://h/a?b=%2F"),
        ("http://h/a/./b/../c/%2e%2E/d", "http://h/a/d"),
        ("http://h/../../a/..", "http://h/"),
        ("http://h/a/.hidden", "http://h/a/.hidden"),
        ("http://h//a//b", "http://h//a//b"),
        ("http://h/a?", "http://h/a"),
        ("http://h/a?#", "http://h/a"),
        ("http://h/a?utm_source=x", "http://h/a"),
        ("http://h/a?b=1+2&fbclid=y&c=%20&&b", "http://h/a?b=1+2&c=%20&&b"),
        (
            "http://h/a?si=1&s=2&t=3&pp=4&feature=5&igshid=6",
            "http://h/a?si=1&s=2&t=3&pp=4&feature=5&igshid=6",
        ),
        ("https://example.com/a?ref_src=twsrc%5Etfw", "https://example.com/a"),
        ("https://x.com/NASA?s=20&t=abc&lang=en", "https://x.com/NASA?lang=en"),
        ("https://www.youtube.com/playlist?list=PL1&si=a&pp=b", "https://www.youtube.com/playlist?list=PL1"),
        ("https://www.instagram.com/nasa/?igshid=x", "https://www.instagram.com/nasa/"),
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
    "url",
    [
        *("ftp://h/a", "/a", "a", "", "http://", "file://host/a", "http://h:x/", "http://[::1/", "http:///a"),
        *("http://h:65536/", "http://[::1]x/", "http://[::g]/", "http://a..b/", "http://.a/", "http://./"),
        *("http://h%2Fa/", "http://h%40x/", "http://a b/", "http://\u2603.net/", f"http://{'a' * 64}.com/"),
        *("http://h/\ud800", "file:///\ud800"),
    ],
)
def test_canonical_url_not_an_address_raises_blocked_by_policy(url: str) -> None:
    with pytest.raises(BlockedByPolicy):
        canonical_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://user:hunter2@example.com/a",
        "https://hunter2@example.com/a",
        "https://:hunter2@example.com/a",
        "HTTPS://us%40er:hunter2@example.com:8443/@b",
        "https://user:hunter2@[::1]/a",
    ],
)
def test_canonical_url_with_a_password_says_where_to_put_it_and_not_what_it_is(url: str) -> None:
    with pytest.raises(BlockedByPolicy, match=r"fetch\.netrc_path") as caught:
        canonical_url(url)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
    assert "***@" in refused_item(url, kind="list").url
    assert video_key(url) == ""


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h/a@b?c=@d#@e", "http://h/a@b?c=@d#@e"),
        ("http://h:8080/@a", "http://h:8080/@a"),
        ("file:///a:b@c", "file:///a:b@c"),
        ("http://h:x/", "http://h:x/"),
        ("not an address", "not an address"),
        ("http://u:p@h/a@b", "http://***@h/a@b"),
        ("ftp://u:p@h/a", "ftp://***@h/a"),
        ("http://u:p/q@h/a", "http://***@h/a"),
        ("http://u:p%40h/a", "http://***@h/a"),
        ("http://u:p@h:x/a", "http://***@h:x/a"),
        ("http://u:p@[::1/a", "http://***@[::1/a"),
        ("http://u:p@h/@a", "http://***@h/@a"),
        ("http://u:p@h:x/@a", "http://***@a"),
        ("http://a..b:/hunter2@h", "http://***@h"),
        ("//u:p@h/a", "***@h/a"),
        ("u:p@h", "***@h"),
    ],
)
def test_without_credentials_hides_them_and_nothing_else(url: str, expected: str) -> None:
    assert without_credentials(url) == expected


_NO_DELIMITER = st.text(
    alphabet=st.characters(exclude_characters="/?#", exclude_categories=["Cs"]), max_size=6
)


@given(
    scheme=st.sampled_from(["http://", "https://", "HTTP://", "ftp://", "file://", "http:", "http:\\\\", ""]),
    user=_NO_DELIMITER,
    before=_NO_DELIMITER,
    after=_NO_DELIMITER,
    rest=st.sampled_from(["h/a", "h", "[::1]/a@b", "h:x/", "h:99999/a", "", "\u2603.net/@c", "[::1/"]),
)
def test_canonical_url_no_error_and_no_refused_item_repeats_a_password(
    scheme: str, user: str, before: str, after: str, rest: str
) -> None:
    url = f"{scheme}{user}:{before}hunter2{after}@{rest}"
    with pytest.raises(BlockedByPolicy) as caught:
        canonical_url(url)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
    assert "hunter2" not in refused_item(url, kind="list").url


NEAR_MISSES = [
    ["http://h/a?v=1", "http://h/a?v=2"],
    ["http://h/a", "https://h/a"],
    ["http://h/a", "http://www.h/a"],
    ["http://h/a", "http://h/a/"],
    ["http://h/a", "http://h/A"],
    ["http://h/a%2Fb", "http://h/a/b"],
    ["http://h/a%3Fb", "http://h/a?b"],
    ["http://h/a?x=%26y", "http://h/a?x=&y"],
    ["http://h/a?x=a+b", "http://h/a?x=a%2Bb"],
    ["http://h/a?x=%FF", "http://h/a?x=%FE"],
    ["http://h/a?utm_a=1&x=%FF", "http://h/a?utm_a=1&x=%FD"],
    ["http://h/a?b=1&c=2", "http://h/a?c=2&b=1"],
    ["http://h/a?t=1", "http://h/a?t=2"],
    ["http://h/#/video/1", "http://h/#/video/2"],
    ["http://h:81/a", "http://h:82/a"],
    ["https://fa\u00df.de/", "https://fass.de/"],
]


@pytest.mark.parametrize(
    ("one", "other"), [pair for urls in NEAR_MISSES for pair in itertools.combinations(urls, 2)]
)
def test_canonical_url_near_misses_stay_apart(one: str, other: str) -> None:
    assert canonical_url(one) != canonical_url(other)


@given(
    host=st.text(min_size=1, max_size=12)
    | st.sampled_from(["h.", "h..", "[::1]", "[fe80::1%25e]", "1.2.3.4", "a%62"]),
    port=st.sampled_from(["", ":", ":80", ":443", ":1", ":0080", ":65536"]),
    rest=st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.text(alphabet="%2e2fcC/.?#&=+a~;@:\\", max_size=20),
)
def test_canonical_url_any_address_is_idempotent_or_blocked(host: str, port: str, rest: str) -> None:
    try:
        once = canonical_url(f"http://{host}{port}/{rest}")
    except BlockedByPolicy:
        return
    assert canonical_url(once) == once
    assert once.isascii()


@given(st.text(alphabet="abz019-._~", min_size=1, max_size=12), st.data())
def test_canonical_url_quoting_what_needs_none_changes_nothing(name: str, data: st.DataObject) -> None:
    spelled = "".join(
        f"%{ord(character):02{data.draw(st.sampled_from('xX'))}}" if data.draw(st.booleans()) else character
        for character in name
    )
    assert canonical_url(f"http://h/x/{spelled}x?{spelled}") == canonical_url(f"http://h/x/{name}x?{name}")


@given(st.text(max_size=12), st.text(max_size=12))
def test_canonical_url_other_path_or_parameter_is_another_address(one: str, other: str) -> None:
    urls = [f"http://h/x{quote(text, safe='')}x?a={quote(text, safe='')}" for text in (one, other)]
    assert (canonical_url(urls[0]) == canonical_url(urls[1])) == (one == other)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30))
def test_canonical_url_any_path_is_idempotent_ascii(path: str) -> None:
    once = canonical_url(f"http://h/x{path}x")
    assert canonical_url(once) == once
    assert once.isascii()
    assert " " not in once


def test_refused_item_has_an_id_and_an_address_that_tables_hold() -> None:
    item = refused_item("http://h/\ud800\udcff", kind="list")
    assert (item.url, item.kind) == (r"http://h/\ud800\udcff", "list")


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
