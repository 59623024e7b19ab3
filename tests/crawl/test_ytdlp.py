"""yt-dlp in its processes, against the fake web: what it finds, what it lists, and the turns that it takes."""

import contextlib
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import av
import pytest

from crawl.formats import Video
from crawl.http import Http
from crawl.identity import Identity
from crawl.policy import FormatPolicy, HostLimit
from crawl.politeness import Granted, HostPause, LocalDesk, Said, Wait
from crawl.turns import Turns
from crawl.ytdlp import Extractors
from infra.errors import AvgenError, Deferred
from tests.crawl.web import FFMPEG, Site
from tests.crawl.web_client import failure, loopback_config

_WHOLE = (0.0, math.inf)
_ANY = FormatPolicy(min_short_side_px=0, min_frame_rate_fps=0)


class _CountingDesk(LocalDesk):
    """A desk that remembers what it granted and was told."""

    def __init__(self) -> None:
        super().__init__(time.time)
        self.open: dict[int, str] = {}
        self.said: list[tuple[str, Said]] = []

    def acquire(self, host: str, limit: HostLimit, *, client_id: str) -> Granted | Wait | HostPause:
        answer = super().acquire(host, limit, client_id=client_id)
        if isinstance(answer, Granted):
            self.open[answer.lease_id] = host
        return answer

    def release(self, lease_id: int, said: Said) -> HostPause | None:
        self.said.append((self.open.pop(lease_id), said))
        return super().release(lease_id, said)


@dataclass
class _Worker:
    """Extractors, and the desk at which they ask."""

    extractors: Extractors
    out_dir: Path
    desk: _CountingDesk = field(default_factory=_CountingDesk)

    def find(self, url: str, span: tuple[float, float] = _WHOLE, policy: FormatPolicy = _ANY) -> Video:
        return self.extractors.find(url, policy=policy, span=span, out_dir=self.out_dir, ffmpeg=FFMPEG)

    def listed(self, url: str, first_index: int = 0) -> list[tuple[int, str, str]]:
        return [
            (entry.index, entry.url, entry.kind)
            for entry in self.extractors.entries(url, first_index=first_index)
        ]


@contextlib.contextmanager
def _worker(out_dir: Path, **settings: Any) -> Iterator[_Worker]:
    config = loopback_config(**{"num_reconnects": 0, "extractors": 1} | settings)
    desk = _CountingDesk()
    turns = Turns(desk, config, sleep=time.sleep, rng=random.Random(1))
    identity = Identity(config, {})
    http = Http(config, turns, identity)
    out_dir.mkdir(exist_ok=True)
    worker = _Worker(Extractors(config, turns, identity, http), out_dir, desk)
    try:
        yield worker
    finally:
        worker.extractors.close()
        http.close()
        assert desk.open == {}, "every turn is given back"


@pytest.fixture(scope="module")
def shared(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Worker]:
    """One for the tests that pause no host."""
    with _worker(tmp_path_factory.mktemp("shared")) as worker:
        yield worker


@pytest.fixture
def worker(shared: _Worker, tmp_path: Path) -> _Worker:
    shared.out_dir = tmp_path
    return shared


def _media(path: Path) -> tuple[int, int, float, float]:
    """Frames of video, channels of audio, and the first and last time in the file."""
    with av.open(str(path)) as container:
        times_s = [float(frame.time) for frame in container.decode(video=0)]
        channels = container.streams.audio[0].channels
    return len(times_s), channels, times_s[0], times_s[-1]


# ---- find ----


def test_find_page_describes_its_plain_file_and_downloads_nothing(site: Site, worker: _Worker) -> None:
    before = site.num_requests["/clip.mp4"]
    video = worker.find(site.url("/page.html"))
    (stream,) = video.streams
    assert (stream.url, stream.protocol, stream.has_video) == (site.url("/clip.mp4"), "http", True)
    assert stream.http_headers["Referer"] == site.url("/page.html")
    assert (video.webpage_url, video.extractor) == (site.url("/page.html"), "html5")
    assert (video.title[:8], video.upload_date, video.file) == ("One clip", "", "")
    assert video.tool_version.startswith("yt-dlp 20")
    assert list(worker.out_dir.iterdir()) == []
    assert site.num_requests["/clip.mp4"] == before


@pytest.mark.parametrize("path", ["/hls/index.m3u8", "/dash/index.mpd"])
def test_find_fragments_become_one_file(path: str, site: Site, worker: _Worker) -> None:
    video = worker.find(site.url(path))
    assert (video.file_start_s, video.file_end_s) == (0.0, math.inf)
    num_frames, channels, first_s, last_s = _media(worker.out_dir / video.file)
    assert (num_frames, channels, round(last_s - first_s, 3)) == (20, 1, 1.9)
    assert first_s < 0.1, "the audio may begin a frame earlier"
    assert [file.name for file in worker.out_dir.iterdir()] == [video.file]


def test_find_section_of_hls_reads_only_the_segments_that_overlap(site: Site, worker: _Worker) -> None:
    before = site.num_requests["/hls/index0.ts"]
    video = worker.find(site.url("/hls/index.m3u8"), (1.2, 1.8))
    assert (video.file_start_s, video.file_end_s) == (1.0, math.inf)
    assert site.num_requests["/hls/index0.ts"] == before
    assert _media(worker.out_dir / video.file)[0] == 10


def test_find_section_of_dash_keeps_video_and_audio_together(site: Site, worker: _Worker) -> None:
    video = worker.find(site.url("/dash/index.mpd"), (1.2, 1.8))
    num_frames, _, first_s, _ = _media(worker.out_dir / video.file)
    # The audio begins with the segment that holds 1.2 s, a little before the video's at 1.0 s.
    assert 0.9 < video.file_start_s <= 1.0
    assert num_frames == 10
    assert video.file_start_s + first_s == pytest.approx(1.0, abs=0.03)


def test_find_span_after_the_end_is_too_short(site: Site, worker: _Worker) -> None:
    with failure("too_short", "2 s"):
        worker.find(site.url("/hls/index.m3u8"), (30.0, 40.0))


@pytest.mark.parametrize(
    ("path", "code", "words"),
    [
        ("/status/404", "gone", "HTTP Error 404: Not Found"),
        ("/status/401", "private", "HTTP Error 401"),
        ("/status/403.mp4", "private", "HTTP Error 403: Forbidden"),
        ("/status/503", "network", "HTTP Error 503"),
        ("/text.html", "not_media", "Unsupported URL"),
        ("/two.html", "not_media", "more than one"),
        ("/empty.xml", "not_media", "none"),
        ("/tone.mp3", "not_media", "mp3 by http only"),
        ("/loop/a", "blocked_by_policy", "redirects must end within"),
        ("/~missing=index1/hls/index.m3u8", "gone", "every fragment must be there: HTTP Error 404"),
        ("/~missing=chunk/dash/index.mpd", "gone", "every fragment must be there: HTTP Error 404"),
    ],
)
def test_find_failure_has_its_class_and_the_real_message(
    path: str, code: str, words: str, site: Site, worker: _Worker
) -> None:
    with failure(code, words):
        worker.find(site.url(path))
    assert [file.name for file in worker.out_dir.iterdir() if file.name.startswith("media")] == []


def test_find_policy_that_no_format_meets_is_refused_before_any_fragment(site: Site, worker: _Worker) -> None:
    site.pages["/variants.m3u8"] = (
        "application/vnd.apple.mpegurl",
        b"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=9000,RESOLUTION=64x64\n/hls/index.m3u8\n",
    )
    before = site.num_requests["/hls/index0.ts"]
    with failure("format_missing", "64x64", "min_short_side_px 480"):
        worker.find(site.url("/variants.m3u8"), policy=FormatPolicy())
    assert site.num_requests["/hls/index0.ts"] == before


def test_find_live_playlist_is_not_media(site: Site, worker: _Worker) -> None:
    text = (site.folder / "hls" / "index.m3u8").read_text()
    live = text.replace("#EXT-X-ENDLIST", "").replace("#EXT-X-PLAYLIST-TYPE:VOD", "")
    site.pages["/hls/live.m3u8"] = ("application/vnd.apple.mpegurl", live.encode())
    with failure("not_media", "live"):
        worker.find(site.url("/hls/live.m3u8"))


def test_find_segment_that_ends_early_is_no_hole(site: Site, worker: _Worker) -> None:
    text = (site.folder / "hls" / "index.m3u8").read_text().replace("index1.ts", "/~cut=100/hls/index1.ts")
    site.pages["/hls/short.m3u8"] = ("application/vnd.apple.mpegurl", text.encode())
    with failure("network", "more expected"):
        worker.find(site.url("/hls/short.m3u8"))


def test_find_page_in_place_of_a_segment_is_no_hole(site: Site, worker: _Worker) -> None:
    text = (site.folder / "hls" / "index.m3u8").read_text().replace("index1.ts", "/text.html")
    site.pages["/hls/soft404.m3u8"] = ("application/vnd.apple.mpegurl", text.encode())
    with failure("network", "must be media, the server says text/html"):
        worker.find(site.url("/hls/soft404.m3u8"))


def test_find_segments_that_name_a_file_of_ours_are_not_opened(site: Site, worker: _Worker) -> None:
    secret = worker.out_dir / "secret.ts"
    secret.write_bytes((site.folder / "hls" / "index0.ts").read_bytes())
    inner = (
        f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXTINF:1.0,\nfile://{secret}\n#EXT-X-ENDLIST\n"
    )
    site.pages["/inner.bin"] = ("video/mp2t", inner.encode())
    outer = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXTINF:1.0,\n/inner.bin\n#EXT-X-ENDLIST\n"
    site.pages["/outer.m3u8"] = ("application/vnd.apple.mpegurl", outer.encode())
    with failure("undecodable", "ffmpeg"):
        worker.find(site.url("/outer.m3u8"))


def test_find_more_than_max_bytes_is_too_large(site: Site, tmp_path: Path) -> None:
    with _worker(tmp_path, max_bytes=5_000) as worker, failure("too_large", "at most 5000 bytes"):
        worker.find(site.url("/hls/index.m3u8"))


# ---- resuming ----


def test_find_again_asks_only_for_the_fragments_that_are_missing(site: Site, worker: _Worker) -> None:
    text = (site.folder / "hls" / "index.m3u8").read_text()
    text = text.replace("index1.ts", "/~first=1,status=503/hls/index1.ts")
    site.pages["/hls/flaky.m3u8"] = ("application/vnd.apple.mpegurl", text.encode())
    before = site.num_requests["/hls/index0.ts"]
    with failure("network", "503"):
        worker.find(site.url("/hls/flaky.m3u8"))
    video = worker.find(site.url("/hls/flaky.m3u8"))
    assert site.num_requests["/hls/index0.ts"] == before + 1
    assert _media(worker.out_dir / video.file)[0] == 20


@pytest.mark.parametrize("damage", ["twice", "half", "lost", "notes"])
def test_find_again_after_a_kill_within_an_append_has_each_fragment_once(
    damage: str, site: Site, worker: _Worker, tmp_path: Path
) -> None:
    text = (site.folder / "hls" / "index.m3u8").read_text()
    text = text.replace("index1.ts", f"/~name={damage},first=1,status=503/hls/index1.ts")
    path = f"/hls/{damage}.m3u8"
    site.pages[path] = ("application/vnd.apple.mpegurl", text.encode())
    with contextlib.suppress(AvgenError):
        worker.find(site.url(path))
    (part,) = tmp_path.glob("*.part")
    (notes,) = tmp_path.glob("*.ytdl")
    complete = part.read_bytes()
    damaged = {"twice": complete * 2, "half": complete + b"x" * 99, "lost": complete[:-1]}
    part.write_bytes(damaged.get(damage, complete))
    if damage == "notes":
        notes.write_text("{")
    video = worker.find(site.url(path))
    assert _media(worker.out_dir / video.file)[0] == 20
    resumed = (worker.out_dir / video.file).read_bytes()
    worker.out_dir = tmp_path / "anew"
    worker.out_dir.mkdir()
    assert resumed == (worker.out_dir / worker.find(site.url("/hls/index.m3u8")).file).read_bytes()


# ---- turns ----


def test_find_takes_a_turn_for_every_request_and_hop(own_site: Site, worker: _Worker) -> None:
    own_site.pages["/page.html"] = ("text/html", b'<video src="/a.mp4"></video>')
    before = len(worker.desk.said)
    worker.find(own_site.url("/redirect/2/page.html"))
    num_requests = own_site.num_requests.total()
    assert num_requests == 6, (
        "robots.txt, two more redirects, and the page, which is asked for again where it is"
    )
    assert [said.kind for _, said in worker.desk.said[before:]] == ["ok"] * num_requests


def test_find_429_is_reported_with_its_retry_after_and_pauses_the_host(
    own_site: Site, tmp_path: Path
) -> None:
    url = own_site.url("/~status=429,after=700/a.mp4")
    with _worker(tmp_path, num_reconnects=3) as worker:
        with failure("rate_limited", "HTTP Error 429: Too Many Requests"):
            worker.find(url)
        with pytest.raises(Deferred) as raised:
            worker.find(url)
    assert raised.value.until_s == pytest.approx(time.time() + 700, rel=1e-3, abs=700)
    assert own_site.num_requests["/~status=429,after=700/a.mp4"] == 1, "nobody asks again"
    said = worker.desk.said[-1][1]
    assert (said.kind, said.retry_after_s) == ("rate_limited", 700.0)


@pytest.mark.parametrize("page", ["words", "challenge"])
def test_find_bot_check_is_reported_and_pauses_the_host(page: str, own_site: Site, tmp_path: Path) -> None:
    with _worker(tmp_path) as worker:
        with failure("bot_check", "403", "human"):
            worker.find(own_site.url(f"/bot-check/{page}"))
        with pytest.raises(Deferred):
            worker.find(own_site.url("/bytes/1/a.mp4"))
    assert worker.desk.said[-1][1].kind == "bot_check"


def test_find_deferred_within_a_video_comes_out_as_deferred(own_site: Site, worker: _Worker) -> None:
    own_site.pages["/a.m3u8"] = (
        "application/vnd.apple.mpegurl",
        b"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXTINF:1.0,\nhttp://localhost:1/a.ts\n#EXT-X-ENDLIST\n",
    )
    worker.desk.pause(HostPause(host="localhost", until_s=time.time() + 900, code="bot_check", reason="no"))
    with pytest.raises(Deferred, match="localhost is left alone"):
        worker.find(own_site.url("/a.m3u8"))


def test_find_robots_txt_of_the_fragments_is_obeyed(own_site: Site, worker: _Worker) -> None:
    own_site.robots = "User-agent: *\nDisallow: /segments/"
    own_site.pages["/a.m3u8"] = (
        "application/vnd.apple.mpegurl",
        b"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXTINF:1.0,\n/segments/a.ts\n#EXT-X-ENDLIST\n",
    )
    with failure("blocked_by_policy", "robots.txt", "/segments/a.ts"):
        worker.find(own_site.url("/a.m3u8"))
    with failure("blocked_by_policy", "robots.txt"):
        worker.find(own_site.url("/segments/page.html"))
    assert own_site.num_requests["/segments/a.ts"] == own_site.num_requests["/segments/page.html"] == 0


def test_find_user_agent_names_us_and_no_address_is_made_up(own_site: Site, tmp_path: Path) -> None:
    own_site.pages["/page.html"] = ("text/html", b'<video src="/a.mp4"></video>')
    with _worker(tmp_path, operator="somebody@example.org") as worker:
        worker.find(own_site.url("/page.html"))
    (request,) = own_site.asked("/page.html")
    assert request.user_agent.startswith("avgen/") and "somebody@example.org" in request.user_agent
    assert "x-forwarded-for" not in request.headers


def test_find_cookies_of_a_site_do_not_reach_the_next_video(own_site: Site, tmp_path: Path) -> None:
    own_site.pages["/page.html"] = ("text/html", b'<video src="/a.mp4"></video>')
    cookies = tmp_path / "cookies.txt"
    cookies.write_text("# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t0\tours\tvalue1\n")
    with _worker(tmp_path / "out", cookies_path=cookies) as worker:
        video = worker.find(own_site.url("/page.html?h.Set-Cookie=theirs=1"))
        worker.find(own_site.url("/page.html"))
    assert [request.cookies for request in own_site.asked("/page.html")] == ["ours=value1", "ours=value1"]
    assert set(video.streams[0].http_headers["Cookie"].split("; ")) == {"ours=value1", "theirs=1"}


def test_find_redirect_to_a_private_address_is_blocked(own_site: Site, tmp_path: Path) -> None:
    settings = {"allow_private": False, "obey_robots": False}
    with _worker(tmp_path, **settings) as worker, failure("blocked_by_policy", "public addresses"):
        worker.find(own_site.url("/to?url=http://169.254.169.254/latest"))
    assert own_site.num_requests.total() == 0


# ---- the processes ----


def _children() -> list[int]:
    """The yt-dlp processes that this process started."""
    pids: list[int] = []
    for task in Path(f"/proc/{os.getpid()}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # A thread that has ended meanwhile.
            pids += [int(child) for child in (task / "children").read_text().split()]
    return [pid for pid in pids if b"crawl.ytdlp_child" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def _wait(condition: Any) -> None:
    for _ in range(400):
        if condition():
            return
        time.sleep(0.025)
    pytest.fail("the condition did not come true within 10 s")


def test_find_child_that_dies_gives_its_turn_back_and_is_replaced(own_site: Site, worker: _Worker) -> None:
    own_site.pages["/page.html"] = ("text/html", b'<video src="/a.mp4"></video>')
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(worker.find, own_site.url("/silent.mp4"))
        _wait(lambda: own_site.num_requests["/silent.mp4"])
        assert len(worker.desk.open) == 1
        for pid in _children():
            os.kill(pid, signal.SIGKILL)
        with failure("extractor_bug", "ended with -9"):
            late.result()
    assert worker.desk.open == {}
    assert worker.find(own_site.url("/page.html")).streams


def test_find_silence_is_a_timeout_and_the_next_find_works(own_site: Site, tmp_path: Path) -> None:
    own_site.pages["/page.html"] = ("text/html", b'<video src="/a.mp4"></video>')
    with _worker(tmp_path, stall_timeout_s=0.3) as worker:
        with failure("timeout", "timed out"):
            worker.find(own_site.url("/silent.mp4"))
        assert worker.find(own_site.url("/page.html")).streams


def test_find_from_several_threads_keeps_answers_apart_in_one_process(site: Site, worker: _Worker) -> None:
    urls = [site.url(f"/{name}.mp4") for name in ("clip", "other1", "other2")]
    with ThreadPoolExecutor(3) as pool:
        assert [video.streams[0].url for video in pool.map(worker.find, urls)] == urls


def test_find_failure_keeps_the_process(site: Site, worker: _Worker) -> None:
    worker.find(site.url("/page.html"))
    before = sorted(_children())
    for path in ("/text.html", "/status/404", "/page.html"):
        with contextlib.suppress(AvgenError):
            worker.find(site.url(path))
    assert sorted(_children()) == before


def test_find_plugin_of_the_configured_folder_is_used(own_site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "plugins" / "mine" / "yt_dlp_plugins" / "extractor"
    folder.mkdir(parents=True)
    (folder / "mine.py").write_text(
        "from yt_dlp.extractor.common import InfoExtractor\n"
        "class MineIE(InfoExtractor):\n"
        "    _VALID_URL = r'.*/mine$'\n"
        "    def _real_extract(self, url):\n"
        "        return {'id': 'm', 'title': 'made by a plugin', 'url': url, 'ext': 'mp4'}\n"
    )
    with _worker(tmp_path / "out", extractor_plugins_path=tmp_path / "plugins") as worker:
        assert worker.find(own_site.url("/mine")).title == "made by a plugin"


# ---- entries ----


def test_entries_of_pages_and_feeds_come_in_order(site: Site, worker: _Worker) -> None:
    names = ["clip", "other1", "other2"]
    assert worker.listed(site.url("/feed.xml")) == [
        (index, site.url(f"/{name}.mp4"), "video") for index, name in enumerate(names)
    ]
    assert worker.listed(site.url("/two.html")) == [
        (0, site.url("/other1.mp4"), "file"),
        (1, site.url("/other2.mp4"), "file"),
    ]
    assert worker.listed(site.url("/page.html")) == [(0, site.url("/page.html"), "video")]
    assert worker.listed(site.url("/empty.xml")) == []


def test_entries_first_index_goes_on_where_a_listing_ended(site: Site, worker: _Worker) -> None:
    whole = worker.listed(site.url("/feed.xml"))
    for first_index in range(len(whole) + 2):
        assert worker.listed(site.url("/feed.xml"), first_index) == whole[first_index:]


def test_entries_of_a_feed_of_thousands_stream_one_by_one(own_site: Site, worker: _Worker) -> None:
    listing = worker.extractors.entries(own_site.url("/feed/5000.xml"), first_index=10)
    first = list(islice(listing, 3))
    assert [entry.index for entry in first] == [10, 11, 12]
    assert worker.desk.open == {}, "a listing that is not read on holds no turn"
    # Another thread's work is not held up by a listing that nobody reads on.
    assert worker.find(own_site.url("/bytes/100/a.mp4")).streams
    assert [entry.index for entry in listing] == list(range(13, 5000))


def test_entries_that_are_abandoned_end_their_process(own_site: Site, worker: _Worker) -> None:
    listing = worker.extractors.entries(own_site.url("/feed/5000.xml"))
    next(listing)
    during = set(_children())
    listing.close()
    assert len(during - set(_children())) == 1
    assert worker.desk.open == {}


def test_entries_failure_has_its_class(site: Site, worker: _Worker) -> None:
    with failure("gone", "404"):
        worker.listed(site.url("/status/404"))


def test_child_without_a_parent_ends() -> None:
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "crawl.ytdlp_child"]
    child = subprocess.Popen(
        command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert child.stdin and child.stdout
    assert b"ready" in child.stdout.readline()
    child.stdin.close()
    child.wait(timeout=20)
    child.stdout.close()
