import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crawl.source_search import Search, hits
from crawl.sources import SourceItem, UnexpandedSource, expand, seed_item, source_item
from crawl.web import Web
from infra.errors import ConfigError
from tests.crawl.web import Site
from tests.crawl.web_client import loopback_config


def _urls(spec: str, web: Web | None = None, first_index: int = 0) -> list[str]:
    found = list(expand(spec, web, first_index))
    assert all(isinstance(source, SourceItem) for source in found)
    return [source.url for source in found if isinstance(source, SourceItem)]


# ---- dir ----


def test_expand_dir_finds_media_files_sorted_and_skips_the_rest(tmp_path: Path) -> None:
    names = ["b.mp4", "a/z.MKV", "a/-x 100% ü.webm", ".hidden.mp4", ".h/c.mp4", "notes.txt", "c.mp4.part"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "link.mp4").symlink_to(tmp_path / "b.mp4")
    (tmp_path / "loop").symlink_to(tmp_path)
    expected = [(tmp_path / name).as_uri() for name in ("a/-x 100% ü.webm", "a/z.MKV", "b.mp4")]
    assert _urls(f"dir:{tmp_path}") == expected
    assert {source.kind for source in expand(f"dir:{tmp_path}") if isinstance(source, SourceItem)} == {"dir"}


def test_expand_dir_name_that_is_not_utf8_is_an_item(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff.mp4"
    Path(os.fsdecode(path)).write_bytes(b"x")
    assert _urls(f"dir:{tmp_path}") == [f"{tmp_path.as_uri()}/%FF.mp4"]


def test_expand_dir_relative_and_absolute_paths_have_one_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    assert list(expand("dir:.")) == list(expand(f"dir:{tmp_path}"))


# ---- wrong usage: raised by the call itself, before the first item ----


def _no_folder(folder: Path) -> str:
    return f"dir:{folder / 'none'}"


def _empty_folder(folder: Path) -> str:
    return f"dir:{folder}"


def _no_list(folder: Path) -> str:
    return f"list:{folder / 'none.csv'}"


def _list(name: str, text: str) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        (folder / name).write_bytes(text.encode("latin-1"))
        return f"list:{folder / name}"

    return write


@pytest.mark.parametrize(
    "spec_in",
    [
        _no_folder,
        _empty_folder,
        _no_list,
        _list("a.txt", ""),
        _list("a.txt", "# only a comment\n\n"),
        _list("a.txt", "http://h/a\n\xff\xfe\n"),
        _list("a.csv", ""),
        _list("a.csv", "url,start_s\n"),
        _list("a.csv", "address\nhttp://h/a\n"),
        _list("a.csv", "url,start_s,end_s\nhttp://h/a,0,1\nhttp://h/b,5,4\n"),
        _list("a.csv", "url,start_s\nhttp://h/a,soon\n"),
        _list("a.csv", "url,start_s\n,1\n"),
        _list("a.parquet", "not parquet"),
        _list("a.json", "[]"),
        _list("a.gz", "url\n"),
        lambda folder: "gopher://h/a",
        str,
        lambda folder: "",
        lambda folder: "http://",
        lambda folder: "https://user:secret@h/a.mp4",
        lambda folder: "https://h:x/list",
    ],
)
def test_expand_wrong_usage_raises_config_error_of_one_line(
    spec_in: Callable[[Path], str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as raised:
        expand(spec_in(tmp_path))
    assert "\n" not in str(raised.value)


# ---- list ----


def test_expand_list_txt_addresses_paths_and_comments(tmp_path: Path) -> None:
    lines = [
        "\ufeffhttp://h/a b.mp4",
        "# comment",
        "",
        "  sub/-c.mp4  ",
        (tmp_path / "d.mp4").as_uri(),
        "http://h/a%20b.mp4",
    ]
    (tmp_path / "l.txt").write_text("\n".join(lines), encoding="utf-8")
    local = [(tmp_path / "sub" / "-c.mp4").as_uri(), (tmp_path / "d.mp4").as_uri()]
    assert _urls(f"list:{tmp_path / 'l.txt'}") == ["http://h/a%20b.mp4", *local]


def test_expand_list_csv_and_parquet_agree(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text(
        'label,url,start_s,end_s\n"a, b",http://h/a,1,2.5\nc,http://h/a,,\nd,http://h/a,3,\ne,http://h/a,1.0,2.5\n'
    )
    columns = {"url": ["http://h/a"] * 4, "start_s": [1.0, None, 3.0, 1.0], "end_s": [2.5, None, None, 2.5]}
    pq.write_table(pa.table(columns), tmp_path / "l.parquet")
    expected = [
        source_item("http://h/a", kind="list", span_start_s=1, span_end_s=2.5),
        source_item("http://h/a", kind="list"),
        source_item("http://h/a", kind="list", span_start_s=3),
    ]
    assert list(expand(f"list:{tmp_path / 'l.csv'}")) == expected
    assert list(expand(f"list:{tmp_path / 'l.parquet'}")) == expected


def test_expand_list_scheme_that_is_not_allowed_becomes_a_failure(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("ftp://h/a.mp4\nhttp://h/b.mp4\n")
    refused, item = expand(f"list:{tmp_path / 'l.txt'}")
    assert isinstance(refused, UnexpandedSource)
    assert (refused.code, refused.item.url) == ("blocked_by_policy", "ftp://h/a.mp4")
    assert isinstance(item, SourceItem)


# ---- web ----


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    way = Web.opened(loopback_config())
    yield way
    way.close()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/clip.mp4", ["/clip.mp4"]),
        ("/page.html", ["/page.html"]),
        ("/hls/index.m3u8", ["/hls/index.m3u8"]),
        ("/two.html", ["/other1.mp4", "/other2.mp4"]),
        ("/feed.xml", ["/clip.mp4", "/other1.mp4", "/other2.mp4"]),
    ],
)
def test_expand_web_address_yields_its_videos(path: str, expected: list[str], site: Site, web: Web) -> None:
    assert _urls(site.url(path), web) == [site.url(name) for name in expected]


@pytest.mark.parametrize("path", ["/clip.mp4", "/other1.mp4?x=1", "/hls/index.m3u8", "/none/manifest.mpd"])
def test_expand_web_media_file_is_not_asked_for(path: str, site: Site, web: Web) -> None:
    before = site.num_requests.total()
    assert _urls(site.url(path), web) == [site.url(path)]
    assert _urls(site.url(path), web, first_index=1) == []
    assert site.num_requests.total() == before


def test_expand_web_asks_nothing_before_it_is_advanced(site: Site, web: Web) -> None:
    before = site.num_requests.total()
    expand(site.url("/feed.xml"), web)
    assert site.num_requests.total() == before


def test_expand_web_feed_opens_no_entry(site: Site, web: Web) -> None:
    before = site.num_requests["/other1.mp4"]
    _urls(site.url("/feed.xml"), web)
    assert site.num_requests["/other1.mp4"] == before


@pytest.mark.parametrize("first_index", [0, 1, 3, 4])
def test_expand_web_listing_is_resumed_at_first_index(first_index: int, site: Site, web: Web) -> None:
    feed = site.url("/feed.xml")
    assert _urls(feed, web, first_index) == _urls(feed, web)[first_index:]


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/status/404", "gone"),
        ("/status/403", "private"),
        ("/status/500", "network"),
        ("/text.html", "not_media"),
        ("/empty.xml", "not_media"),
    ],
)
def test_expand_web_failure_is_one_record_of_the_seed(path: str, code: str, site: Site, web: Web) -> None:
    (failure,) = expand(site.url(path), web)
    assert isinstance(failure, UnexpandedSource)
    assert failure.code == code
    assert failure.item == source_item(site.url(path), kind="web") == seed_item(site.url(path))
    assert failure.message and "\n" not in failure.message


def test_expand_web_host_that_asks_for_a_pause_gets_one(site: Site) -> None:
    web = Web.opened(loopback_config())
    codes = [source.code for path in ("/status/429", "/feed.xml") for source in expand(site.url(path), web)]
    web.close()
    assert codes == ["rate_limited", "deferred"]


@pytest.mark.parametrize(
    ("num_entries", "first_index", "expected"),
    [(2, 0, ["/clip.mp4", "/other1.mp4"]), (2, 1, ["/other1.mp4"]), (2, 2, []), (9, 2, ["/other2.mp4"])],
)
def test_hits_of_a_search_are_as_many_as_asked_for(
    num_entries: int, first_index: int, expected: list[str], site: Site, web: Web
) -> None:
    search = Search(site.url("/feed.xml"), num_entries)
    items = list(hits(search, web, kind="hashtag", first_index=first_index))
    assert items == [source_item(site.url(path), kind="hashtag") for path in expected]


def test_expand_web_entry_of_this_machine_is_refused(site: Site, web: Web) -> None:
    refused, *items = expand(site.url("/evil.xml"), web)
    assert isinstance(refused, UnexpandedSource)
    assert (refused.code, refused.item.url) == ("blocked_by_policy", "file:///etc/passwd")
    assert len(items) == 3


def test_expand_web_connection_refused_is_network(web: Web) -> None:
    (failure,) = expand("http://127.0.0.1:1/feed.xml", web)
    assert isinstance(failure, UnexpandedSource)
    assert failure.code == "network"


def test_expand_list_row_that_cannot_be_followed_is_a_record(tmp_path: Path) -> None:
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    rows = tmp_path / "rows.txt"
    rows.write_text("loop.mp4\na\0b.mp4\nhttps://example.org/c.mp4\n")
    loop, nul, video = expand(f"list:{rows}")
    assert [found.code for found in (loop, nul) if isinstance(found, UnexpandedSource)] == [
        "blocked_by_policy"
    ] * 2
    assert video == source_item("https://example.org/c.mp4", kind="list")


def test_expand_list_csv_cell_beyond_all_bounds_raises_config_error(tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text(f"url\n{'x' * 17_000_000}\n")
    with pytest.raises(ConfigError, match="must be CSV"):
        list(expand(f"list:{rows}"))


def test_expand_list_parquet_with_a_damaged_page_raises_config_error(tmp_path: Path) -> None:
    rows = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"url": [f"https://example.org/{n}" for n in range(5000)]}), rows)
    data = bytearray(rows.read_bytes())
    data[4:400] = b"\xff" * 396
    rows.write_bytes(data)
    with pytest.raises(ConfigError, match="readable Parquet"):
        list(expand(f"list:{rows}"))
