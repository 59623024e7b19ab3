"""The demo's site over real sockets: ranges, refusals, the feed, the index."""

import re
import urllib.error
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.errors import ConfigError
from pipeline.demo.clips import HLS_FOLDER, HLS_PLAYLIST
from pipeline.demo.site import ByteRange, parse_range, serve_site, site_files, site_pages

_CONTENT = bytes(range(256)) * 4


@pytest.fixture(scope="module")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("media")
    (folder / HLS_FOLDER).mkdir()
    (folder / HLS_FOLDER / HLS_PLAYLIST).write_text("#EXTM3U\n")
    for path in {*site_files(folder).values()}:
        if path.suffix == ".mp4":
            path.write_bytes(_CONTENT)
    (folder / "secret.txt").write_text("not on the site")
    with serve_site(folder) as url:
        yield url


def _get(url: str, *, method: str = "GET", byte_range: str = "") -> tuple[int, dict[str, str], bytes]:
    request = urllib.request.Request(url, method=method, headers={"Range": byte_range} if byte_range else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, dict(response.headers), response.read()
    except urllib.error.HTTPError as err:
        with err:
            return err.code, dict(err.headers), err.read()


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", None),
        ("bytes=0-0", ByteRange(0, 1)),
        ("bytes=3-", ByteRange(3, 10)),
        ("bytes=3-99", ByteRange(3, 10)),
        ("bytes=-4", ByteRange(6, 10)),
        ("bytes=-99", ByteRange(0, 10)),
        ("bytes=5-3", None),
        ("bytes=-", None),
        ("bytes=0-1,4-5", None),
        ("lines=1-2", None),
    ],
)
def test_parse_range_of_ten_bytes_is_exact(header: str, expected: ByteRange | None) -> None:
    assert parse_range(header, 10) == expected


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-12", "bytes=-0"])
def test_parse_range_outside_the_file_raises_value_error(header: str) -> None:
    with pytest.raises(ValueError, match="within 10 bytes"):
        parse_range(header, 10)


def test_serve_site_whole_file_has_length_and_type(base_url: str) -> None:
    status, headers, body = _get(f"{base_url}/feed/testcard.mp4")
    assert (status, headers["Content-Type"], headers["Content-Length"]) == (200, "video/mp4", "1024")
    assert headers["Accept-Ranges"] == "bytes"
    assert body == _CONTENT


def test_serve_site_range_gives_just_these_bytes(base_url: str) -> None:
    status, headers, body = _get(f"{base_url}/feed/testcard.mp4", byte_range="bytes=100-299")
    assert (status, headers["Content-Range"]) == (206, "bytes 100-299/1024")
    assert body == _CONTENT[100:300]


def test_serve_site_range_outside_is_416(base_url: str) -> None:
    status, headers, body = _get(f"{base_url}/feed/testcard.mp4", byte_range="bytes=1024-")
    assert (status, headers["Content-Range"], body) == (416, "bytes */1024", b"")


def test_serve_site_head_has_no_body(base_url: str) -> None:
    status, headers, body = _get(f"{base_url}/feed/testcard.mp4", method="HEAD")
    assert (status, headers["Content-Length"], body) == (200, "1024", b"")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/media/gone.mp4", 404),
        ("/media/private.mp4", 403),
        ("/media/secret.txt", 404),
        ("/secret.txt", 404),
        ("/media/../secret.txt", 404),
        ("/media/%2e%2e/secret.txt", 404),
        ("//etc/passwd", 404),
    ],
)
def test_serve_site_refuses(base_url: str, path: str, status: int) -> None:
    assert _get(base_url + path)[0] == status


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/watch/life.html", "text/html; charset=utf-8"),
        ("/feed.xml", "application/rss+xml; charset=utf-8"),
        (f"/{HLS_FOLDER}/{HLS_PLAYLIST}", "application/vnd.apple.mpegurl"),
        ("/media/text.mp4", "video/mp4"),
    ],
)
def test_serve_site_says_what_it_serves(base_url: str, path: str, content_type: str) -> None:
    status, headers, _ = _get(base_url + path)
    assert (status, headers["Content-Type"]) == (200, content_type)


def test_serve_site_feed_lists_four_films_that_are_there(base_url: str) -> None:
    feed = ET.fromstring(_get(f"{base_url}/feed.xml")[2])
    urls = [enclosure.attrib["url"] for enclosure in feed.iter("enclosure")]
    assert len(urls) == 4
    assert [_get(url)[0] for url in urls] == [200] * 4


def test_serve_site_index_links_everything_and_only_the_broken_links_are_broken(base_url: str) -> None:
    links = re.findall(r'href="([^"]+)"', _get(f"{base_url}/")[2].decode())
    assert set(site_pages(base_url)) <= {"/", *links}
    statuses = {link: _get(base_url + link, method="HEAD")[0] for link in links}
    broken = {link: status for link, status in statuses.items() if status != 200}
    assert broken == {"/media/gone.mp4": 404, "/media/private.mp4": 403}


def test_serve_site_pages_have_title_and_films_that_are_there(base_url: str) -> None:
    page = _get(f"{base_url}/pair.html")[2].decode()
    assert "<title>Two films</title>" in page
    films = re.findall(r'<video controls src="([^"]+)"', page)
    assert [_get(base_url + film)[0] for film in films] == [200, 200]


def test_serve_site_port_taken_raises_config_error(base_url: str, tmp_path: Path) -> None:
    port = int(base_url.rpartition(":")[2])
    with pytest.raises(ConfigError, match=f"port {port}"), serve_site(tmp_path, port=port):
        pass


def test_serve_site_after_the_context_answers_no_more(tmp_path: Path) -> None:
    (tmp_path / HLS_FOLDER).mkdir()
    with serve_site(tmp_path) as url:
        assert _get(url)[0] == 200
    with pytest.raises(urllib.error.URLError):
        _get(url)
