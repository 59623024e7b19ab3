"""The yt-dlp processes against the fake web: what they find, list and must not do."""

import gzip
from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest

from crawl.formats import Video
from crawl.policy import FormatPolicy
from crawl.web import Web
from infra.errors import Deferred
from tests.crawl.web import FFMPEG, Site
from tests.crawl.web_client import failure, loopback_config

_ANY = FormatPolicy(min_short_side_px=0, min_frame_rate_fps=0)
_WHOLE = (0.0, float("inf"))
Opened = Callable[..., Web]


@pytest.fixture
def opened() -> Iterator[Opened]:
    """Ways to the web with settings of their own, closed at the end."""
    webs: list[Web] = []

    def open_web(**settings: Any) -> Web:
        webs.append(Web.opened(loopback_config(**{"num_reconnects": 0, "extractors": 1, **settings})))
        return webs[-1]

    yield open_web
    for web in webs:
        web.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[Web]:
    """One process for all tests that leave it as it is."""
    web = Web.opened(loopback_config(num_reconnects=0, extractors=1, stall_timeout_s=1.0))
    yield web
    web.close()


def find(
    web: Web, url: str, out_dir: Path, span: tuple[float, float] = _WHOLE, policy: FormatPolicy = _ANY
) -> Video:
    out_dir.mkdir(exist_ok=True)
    return web.extractors.find(url, policy=policy, span=span, out_dir=out_dir, ffmpeg=FFMPEG)


# ---- find ----


def test_find_plain_file_of_a_page_is_described_and_not_downloaded(
    site: Site, shared: Web, tmp_path: Path
) -> None:
    find(shared, site.url("/page.html"), tmp_path)  # From here on robots.txt is known.
    before = site.num_requests.copy()
    video = find(shared, site.url("/page.html"), tmp_path)
    (stream,) = video.streams
    assert (stream.url, stream.protocol) == (site.url("/clip.mp4"), "http")
    assert (video.file, video.extractor, video.webpage_url) == ("", "html5", site.url("/page.html"))
    assert (site.num_requests - before) == {"/page.html": 1}
    assert list(tmp_path.iterdir()) == []


def test_find_fragments_are_downloaded_into_one_file(site: Site, shared: Web, tmp_path: Path) -> None:
    video = find(shared, site.url("/dash/index.mpd"), tmp_path)
    assert [stream.protocol for stream in video.streams] == ["http_dash_segments"] * 2
    assert (video.file_start_s, video.file_end_s) == _WHOLE
    assert [path.name for path in tmp_path.iterdir()] == [video.file]


@pytest.mark.parametrize(
    ("span", "segments", "covered"),
    [
        ((1.2, 1.8), ["index1.ts"], (1.0, float("inf"))),
        ((0.0, 0.5), ["index0.ts"], (0.0, 1.0)),
        ((0.5, 1.5), ["index0.ts", "index1.ts"], _WHOLE),
    ],
)
def test_find_span_of_hls_takes_the_segments_that_overlap(
    span: tuple[float, float],
    segments: list[str],
    covered: tuple[float, float],
    site: Site,
    shared: Web,
    tmp_path: Path,
) -> None:
    before = site.num_requests.copy()
    video = find(shared, site.url("/hls/index.m3u8"), tmp_path, span)
    asked = [path.rpartition("/")[2] for path in site.num_requests - before if path.endswith(".ts")]
    assert (sorted(asked), (video.file_start_s, video.file_end_s)) == (segments, covered)


@pytest.mark.parametrize("path", ["/~missing=index1/hls/index.m3u8", "/~missing=m4s/dash/index.mpd"])
def test_find_missing_segment_is_a_failure_and_no_file_with_a_hole(
    path: str, site: Site, shared: Web, tmp_path: Path
) -> None:
    with failure("gone", "404"):
        find(shared, site.url(path), tmp_path)


@pytest.mark.parametrize("path", ["/page.html", "/hls/index.m3u8"])
def test_find_takes_a_turn_for_every_request(path: str, site: Site, opened: Opened, tmp_path: Path) -> None:
    web = opened(hosts={}, requests_per_s=4.0, connections_per_host=1)
    before = len(site.log)
    find(web, site.url(path), tmp_path)
    times_s = [request.time_s for request in list(site.log)[before:]]
    assert len(times_s) >= 2
    assert all(later - earlier >= 0.2 for earlier, later in pairwise(times_s))


def test_find_host_that_is_paused_is_not_asked(own_site: Site, opened: Opened, tmp_path: Path) -> None:
    web = opened()
    with failure("rate_limited", "429"):
        find(web, own_site.url("/status/429"), tmp_path)
    before = own_site.num_requests.total()
    with pytest.raises(Deferred):
        find(web, own_site.url("/page.html"), tmp_path)
    assert own_site.num_requests.total() == before


def test_find_bot_check_pauses_the_host(own_site: Site, opened: Opened, tmp_path: Path) -> None:
    web = opened()
    with failure("bot_check"):
        find(web, own_site.url("/bot-check/words"), tmp_path)
    with pytest.raises(Deferred, match="bot_check"):
        find(web, own_site.url("/page.html"), tmp_path)


@pytest.mark.parametrize("path", ["/page.html", "/hls/index.m3u8", "/redirect/0/clip.mp4"])
def test_find_private_address_is_refused(path: str, own_site: Site, opened: Opened, tmp_path: Path) -> None:
    with failure("blocked_by_policy", "127.0.0.1"):
        find(opened(allow_private=False), own_site.url(path), tmp_path)
    assert own_site.num_requests == {}


def test_find_page_without_an_end_is_too_large(own_site: Site, shared: Web, tmp_path: Path) -> None:
    own_site.pages["/words"] = ("text/html", b"<html>" + b" words" * 100_000)
    with failure("too_large", "bytes"):
        find(shared, own_site.url("/~endless,length=no/words"), tmp_path)


def test_find_bomb_is_not_unpacked_into_memory(own_site: Site, opened: Opened, tmp_path: Path) -> None:
    own_site.pages["/bomb"] = ("text/html", gzip.compress(b"<html>" + b" " * 10**8))
    with failure("too_large", "bytes"):
        find(opened(), own_site.url("/bomb?h.Content-Encoding=gzip"), tmp_path)


def test_find_format_out_of_the_policy_is_refused_before_it_is_downloaded(
    site: Site, shared: Web, tmp_path: Path
) -> None:
    before = site.num_requests.copy()
    with failure("format_missing", "64x64", "min_short_side_px 480"):
        find(shared, site.url("/dash/index.mpd"), tmp_path, policy=FormatPolicy())
    assert (site.num_requests - before) == {"/dash/index.mpd": 1}


def test_find_sends_the_agent_and_cookies(own_site: Site, opened: Opened, tmp_path: Path) -> None:
    cookies = tmp_path / "cookies.txt"
    cookies.write_text("# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t0\tsession\tsecret-value\n")
    web = opened(cookies_path=cookies, operator="Jane Doe, jane@example.org")
    own_site.pages["/words"] = ("text/html", b"<html>words</html>")
    with failure("not_media"):
        find(web, own_site.url("/words"), tmp_path / "out")
    (request,) = own_site.asked("/words")
    assert "jane@example.org" in request.user_agent and "session=secret-value" in request.cookies


_PLUGIN = """
from yt_dlp.extractor.common import InfoExtractor
class OwnIE(InfoExtractor):
    _VALID_URL = r"https?://127[.]0[.]0[.]1:[0-9]+/own/(?P<id>[0-9]+)"
    def _real_extract(self, url):
        video_id = self._match_id(url)
        media_url = url.replace("/own/", "/bytes/") + "/a.mp4"
        return {"id": video_id, "title": "own", "channel_id": "UC1", "url": media_url}
"""


def test_find_uses_plugins_of_the_configured_folder_and_no_others(
    own_site: Site, opened: Opened, tmp_path: Path
) -> None:
    package = tmp_path / "plugins" / "mine" / "yt_dlp_plugins" / "extractor"
    package.mkdir(parents=True)
    (package / "own.py").write_text(_PLUGIN)
    url = own_site.url("/own/5000")
    video = find(opened(extractor_plugins_path=tmp_path / "plugins"), url, tmp_path / "out")
    assert (video.title, video.channel_id) == ("own", "UC1")
    with failure("gone", "404"):
        find(opened(), url, tmp_path / "out")


# ---- list ----


def test_entries_of_a_long_list_come_one_by_one_and_go_on_anywhere(own_site: Site, opened: Opened) -> None:
    url, web = own_site.url("/feed/5000.xml"), opened()
    entries = list(web.extractors.entries(url))
    assert [entry.index for entry in entries] == list(range(5000))
    assert len({entry.url for entry in entries}) == 5000
    assert list(web.extractors.entries(url, first_index=4990)) == entries[4990:]
    assert list(islice(web.extractors.entries(url), 3)) == entries[:3]
    assert list(web.extractors.entries(url, first_index=4999)) == entries[4999:]


def test_entries_of_a_page_with_several_videos_are_files(site: Site, shared: Web) -> None:
    found = [(entry.kind, entry.url) for entry in shared.extractors.entries(site.url("/two.html"))]
    assert found == [("file", site.url("/other1.mp4")), ("file", site.url("/other2.mp4"))]


def test_entries_hold_no_turn_while_nobody_takes_them(own_site: Site, opened: Opened, tmp_path: Path) -> None:
    web = opened(hosts={}, connections_per_host=1, extractors=2, requests_per_s=1000.0)
    entries = web.extractors.entries(own_site.url("/feed/50.xml"))
    next(entries)
    own_site.pages["/words"] = ("text/html", b"<html>words</html>")
    with failure("not_media"):
        find(web, own_site.url("/words"), tmp_path)
    assert len(list(entries)) == 49
