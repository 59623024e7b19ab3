"""Jobs of every kind of address -> files in the store: what came, under which name, and what did not."""

import contextlib
import hashlib
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import av
import pytest

from crawl.blocklist import Block, Blocklist
from crawl.fetch import FetchedMedia, Fetcher
from crawl.frontier import FetchJob
from crawl.items import file_url, source_item
from crawl.web import Web
from infra.errors import AvgenError, StorageUnavailable
from tests.crawl.web import FFMPEG, Site, make_clip
from tests.crawl.web_client import failure, loopback_config

_ROOT = Path(__file__).resolve().parents[2]
# The site's clips are 64 pixels high and have 10 frames a second.
_ANY_FORMAT = {"min_short_side_px": 0, "min_frame_rate_fps": 0}
_FAST: dict[str, Any] = {"stall_timeout_s": 1.0, "num_reconnects": 0, "formats": _ANY_FORMAT}
_WHOLE = ((0.0, float("inf")),)
Fetch = Callable[..., list[FetchedMedia]]


def _now() -> datetime:
    return datetime(2026, 11, 23, 12, 0, 0, 5, tzinfo=timezone(timedelta(hours=2)))


@contextlib.contextmanager
def _fetcher(root: Path, *blocks: Block, **settings: Any) -> Iterator[Fetch]:
    """Fetches spans of an address into `root`, with processes and limits of its own."""
    web = Web.opened(loopback_config(**_FAST | settings))
    fetcher = Fetcher(web, root=root, ffmpeg=FFMPEG, blocklist=Blocklist(blocks))

    def fetch(url: str, *spans: tuple[float, float]) -> list[FetchedMedia]:
        items = [
            source_item(url, kind="list", span_start_s=start_s, span_end_s=end_s)
            for start_s, end_s in spans or _WHOLE
        ]
        return fetcher.fetch(FetchJob(job_id=1, items=tuple(items)), now=_now)

    try:
        yield fetch
    finally:
        web.close()


def _stored(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in (root / "media").rglob("*") if path.is_file())


def _left(root: Path) -> list[Path]:
    return list((root / "partial").rglob("*"))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---- the web ----


def test_fetch_direct_file_is_stored_under_its_hash(site: Site, tmp_path: Path) -> None:
    with _fetcher(tmp_path) as fetch:
        (media,) = fetch(site.url("/clip.mp4"))
    sha256 = _sha256(site.folder / "clip.mp4")
    assert media.sha256 == sha256
    assert media.media_key == f"media/{sha256[:2]}/{sha256}.mp4"
    assert media.media_bytes == (site.folder / "clip.mp4").stat().st_size
    assert _stored(tmp_path) == [media.media_key]
    assert _sha256(tmp_path / media.media_key) == sha256
    assert _left(tmp_path) == []
    assert media.source_id == source_item(site.url("/clip.mp4"), kind="web").source_id
    assert pickle.loads(pickle.dumps(media)) == media
    origin = media.provenance
    assert (origin.title, origin.extractor, origin.opt_out) == ("clip", "http", "")
    assert origin.fetched_at == "2026-11-23T10:00:00+00:00"
    assert "urllib3" in origin.tool_versions


def test_fetch_direct_file_costs_one_request_and_one_for_robots(own_site: Site, tmp_path: Path) -> None:
    with _fetcher(tmp_path / "root") as fetch:
        fetch(own_site.url("/bytes/5000/a.mp4"))
        fetch(own_site.url("/bytes/5000/b.mp4"))
    assert own_site.num_requests == {"/robots.txt": 1, "/bytes/5000/a.mp4": 1, "/bytes/5000/b.mp4": 1}


def test_fetch_page_with_video_tag_says_where_it_came_from(site: Site, tmp_path: Path) -> None:
    with _fetcher(tmp_path) as fetch:
        (media,) = fetch(site.url("/page.html"))
    origin = media.provenance
    assert media.sha256 == _sha256(site.folder / "clip.mp4")
    assert origin.url == origin.webpage_url == site.url("/page.html")
    assert origin.title.startswith("One clip")
    assert origin.extractor == "html5"
    assert "yt-dlp" in origin.tool_versions
    assert (origin.licence, origin.uploader, origin.upload_date) == ("unknown", "", "")
    assert _left(tmp_path) == []


def test_fetch_hls_playlist_becomes_one_mp4(site: Site, tmp_path: Path) -> None:
    with _fetcher(tmp_path) as fetch:
        (media,) = fetch(site.url("/hls/index.m3u8"))
    assert _stored(tmp_path) == [media.media_key]
    with av.open(str(tmp_path / media.media_key)) as container:
        assert "mp4" in container.format.name.split(",")
        assert {stream.type for stream in container.streams} == {"video", "audio"}
        assert sum(1 for _ in container.decode(video=0)) == 20


def test_fetch_page_at_an_address_like_a_file_is_asked_with_the_extractor(site: Site, tmp_path: Path) -> None:
    site.pages["/looks.mp4"] = site.pages["/page.html"]
    with _fetcher(tmp_path) as fetch:
        (media,) = fetch(site.url("/looks.mp4"))
    assert (media.sha256, media.provenance.extractor) == (_sha256(site.folder / "clip.mp4"), "html5")


def test_fetch_redirect_is_followed(site: Site, tmp_path: Path) -> None:
    with _fetcher(tmp_path) as fetch:
        (media,) = fetch(site.url("/redirect.mp4"))
    assert media.sha256 == _sha256(site.folder / "clip.mp4")


def test_fetch_same_bytes_at_two_addresses_are_stored_once_and_not_rewritten(
    site: Site, tmp_path: Path
) -> None:
    with _fetcher(tmp_path) as fetch:
        (first,) = fetch(site.url("/clip.mp4"))
        inode = (tmp_path / first.media_key).stat().st_ino
        (second,) = fetch(site.url("/clip.mp4?copy=2"))
        (third,) = fetch(site.url("/page.html"))
    assert len({first.source_id, second.source_id, third.source_id}) == 3
    assert {media.media_key for media in (first, second, third)} == {first.media_key}
    assert (tmp_path / first.media_key).stat().st_ino == inode
    assert _stored(tmp_path) == [first.media_key]


def test_fetch_text_served_as_mp4_is_left_to_the_probe(site: Site, tmp_path: Path) -> None:
    with _fetcher(tmp_path) as fetch:
        (media,) = fetch(site.url("/words.mp4"))
    assert (media.media_bytes, Path(media.media_key).suffix) == (38, ".bin")


@pytest.mark.parametrize(
    ("path", "code", "words"),
    [
        ("/status/404.mp4", "gone", "404"),
        ("/status/410", "gone", "HTTP Error 410: Gone"),
        ("/status/401", "private", "HTTP Error 401"),
        ("/status/403.mp4", "private", "403 Forbidden"),
        ("/status/429.mp4", "rate_limited", "429 Too Many Requests"),
        ("/status/429", "rate_limited", "HTTP Error 429: Too Many Requests"),
        ("/status/500.mp4", "network", "500 Internal Server Error"),
        ("/status/503", "network", "HTTP Error 503"),
        ("/silent.mp4", "timeout", "1 s"),
        ("/truncated.mp4", "network", "1000 bytes read, 99000 more expected"),
        ("/html-as-video.mp4", "not_media", "like an HTML page"),
        ("/html.mp4", "not_media", "Unsupported URL"),
        ("/text.html", "not_media", "Unsupported URL"),
        ("/empty.mp4", "not_media", "0 bytes"),
        ("/two.html", "not_media", "more than one"),
        ("/feed.xml", "not_media", "more than one"),
        ("/empty.xml", "not_media", "none"),
    ],
)
def test_fetch_failure_has_its_class_and_the_real_message(
    path: str, code: str, words: str, site: Site, tmp_path: Path
) -> None:
    with _fetcher(tmp_path) as fetch, failure(code, words):
        fetch(site.url(path))
    assert _stored(tmp_path) == []


@pytest.mark.parametrize(("path", "keeps"), [("/truncated.mp4", True), ("/status/404.mp4", False)])
def test_fetch_what_was_read_stays_only_when_it_may_be_gone_on_from(
    path: str, keeps: bool, site: Site, tmp_path: Path
) -> None:
    with _fetcher(tmp_path) as fetch, contextlib.suppress(AvgenError):
        fetch(site.url(path))
    assert bool(_left(tmp_path)) == keeps


def test_fetch_second_attempt_asks_only_for_what_is_missing(own_site: Site, tmp_path: Path) -> None:
    url = own_site.url("/~cut=30000,first=1/bytes/50000/a.mp4")
    with _fetcher(tmp_path / "root") as fetch:
        with failure("network"):
            fetch(url)
        (media,) = fetch(url)
    assert media.media_bytes == 50_000
    ranges = [request.range for request in own_site.log if request.path.endswith("a.mp4")]
    assert ranges == ["", "bytes=30000-"]
    assert _left(tmp_path / "root") == []


@pytest.mark.parametrize("path", ["/drip.mp4", "/drip-headers.mp4"])
def test_fetch_slow_drip_is_ended_and_the_next_fetch_works(path: str, site: Site, tmp_path: Path) -> None:
    with _fetcher(tmp_path, timeout_s=1.5) as fetch:
        with failure("timeout"):
            fetch(site.url(path))
        assert _stored(tmp_path) == []
        assert fetch(site.url("/clip.mp4"))[0].media_bytes > 0


@pytest.mark.parametrize("path", ["/clip.mp4", "/endless.mp4", "/hls/index.m3u8", "/page.html"])
def test_fetch_more_than_max_bytes_is_too_large(path: str, site: Site, tmp_path: Path) -> None:
    with _fetcher(tmp_path, max_bytes=5_000) as fetch, failure("too_large"):
        fetch(site.url(path))
    assert _stored(tmp_path) == [] and _left(tmp_path) == []


@pytest.mark.parametrize("path", ["/a.mp4", "/a"])
def test_fetch_connection_refused_is_network(path: str, tmp_path: Path) -> None:
    with _fetcher(tmp_path) as fetch, failure("network", "refused"):
        fetch(f"http://127.0.0.1:1{path}")


@pytest.mark.parametrize("path", ["/clip.mp4", "/page.html", "/hls/index.m3u8"])
def test_fetch_private_address_is_refused_before_anything_is_asked(
    path: str, own_site: Site, tmp_path: Path
) -> None:
    with _fetcher(tmp_path / "root", allow_private=False) as fetch, failure("blocked_by_policy", "127.0.0.1"):
        fetch(own_site.url(path))
    assert own_site.num_requests == {}


@pytest.mark.parametrize("path", ["/clip.mp4", "/page.html"])
def test_fetch_what_robots_forbid_is_not_asked(path: str, own_site: Site, tmp_path: Path) -> None:
    own_site.pages["/robots.txt"] = ("text/plain", b"User-agent: *\nDisallow: /")
    with _fetcher(tmp_path / "root") as fetch, failure("blocked_by_policy", "robots.txt"):
        fetch(own_site.url(path))
    assert own_site.num_requests == {"/robots.txt": 1}


def test_fetch_opt_out_is_obeyed_or_stored(own_site: Site, tmp_path: Path) -> None:
    url = own_site.url("/bytes/5000/a.mp4?h.X-Robots-Tag=noai")
    with _fetcher(tmp_path / "root") as fetch, failure("blocked_by_policy", "noai"):
        fetch(url)
    with _fetcher(tmp_path / "root", obey_robots=False) as fetch:
        (media,) = fetch(url)
    assert "noai" in media.provenance.opt_out


@pytest.mark.parametrize(("kind", "value"), [("url", "{url}"), ("sha256", "{sha256}"), ("id", "{source_id}")])
def test_fetch_blocked_source_is_refused(kind: Any, value: str, site: Site, tmp_path: Path) -> None:
    url = site.url("/clip.mp4")
    facts = {
        "url": url,
        "sha256": _sha256(site.folder / "clip.mp4"),
        "source_id": source_item(url, kind="list").source_id,
    }
    block = Block(kind=kind, value=value.format(**facts), reason="asked to")
    with _fetcher(tmp_path, block) as fetch, failure("blocked_by_policy", "asked to"):
        fetch(url)
    assert _stored(tmp_path) == [] and _left(tmp_path) == []


def test_fetch_from_several_threads_keeps_answers_apart(site: Site, tmp_path: Path) -> None:
    names = ["clip", "other1", "other2"] * 2
    with _fetcher(tmp_path) as fetch, ThreadPoolExecutor(3) as pool:
        paths = [f"/{name}.mp4?number={number}" for number, name in enumerate(names)]
        hashes = [media.sha256 for (media,) in pool.map(lambda path: fetch(site.url(path)), paths)]
    assert hashes == [_sha256(site.folder / f"{name}.mp4") for name in names]


def test_fetch_store_that_cannot_be_written_is_storage_unavailable(site: Site, tmp_path: Path) -> None:
    (tmp_path / "media").write_text("a file where the store should be")
    with _fetcher(tmp_path) as fetch, pytest.raises(StorageUnavailable):
        fetch(site.url("/clip.mp4"))


# ---- spans ----


def test_fetch_spans_of_one_video_are_fetched_once(own_site: Site, tmp_path: Path) -> None:
    make_clip(own_site.folder / "long.mp4")
    with _fetcher(tmp_path / "root") as fetch:
        media = fetch(own_site.url("/long.mp4"), (0.0, 0.5), (0.5, 1.0))
    assert len({one.source_id for one in media}) == 2
    assert len({one.media_key for one in media}) == 1


def test_fetch_span_where_the_server_gives_no_parts_is_the_whole_file(own_site: Site, tmp_path: Path) -> None:
    make_clip(own_site.folder / "long.mp4")
    with _fetcher(tmp_path / "root") as fetch:
        (media,) = fetch(own_site.url("/~ranges=no/long.mp4"), (1.0, 1.5))
    assert media.sha256 == _sha256(own_site.folder / "long.mp4")
    assert media.media_start_s == 0.0


def test_fetch_span_of_hls_asks_only_for_the_segments_that_it_needs(site: Site, tmp_path: Path) -> None:
    before = site.num_requests.copy()
    with _fetcher(tmp_path) as fetch:
        (media,) = fetch(site.url("/hls/index.m3u8"), (1.2, 1.8))
    asked = [path for path, num in site.num_requests.items() if num > before[path] and path.endswith(".ts")]
    assert asked == ["/hls/index1.ts"]
    assert media.media_start_s == 1.0


# ---- processes ----


_VICTIM = """
import sys
from crawl.web import Web
from tests.crawl.web_client import loopback_config
list(Web.opened(loopback_config()).extractors.entries(sys.argv[1]))
"""


def test_fetch_parent_killed_leaves_no_process(site: Site) -> None:
    before = site.num_requests["/~latency=20/page.html"]
    command = [sys.executable, "-c", _VICTIM, site.url("/~latency=20/page.html")]
    victim = subprocess.Popen(command, cwd=_ROOT)
    _wait(lambda: site.num_requests["/~latency=20/page.html"] > before)
    (child_pid,) = _children(victim.pid)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    _wait(lambda: _is_ended(child_pid))


def test_fetch_child_that_dies_costs_one_source(site: Site, tmp_path: Path) -> None:
    before = site.num_requests["/~latency=20/page.html"]
    with _fetcher(tmp_path, stall_timeout_s=30) as fetch, ThreadPoolExecutor(1) as pool:
        late = pool.submit(fetch, site.url("/~latency=20/page.html"))
        _wait(lambda: site.num_requests["/~latency=20/page.html"] > before)
        _kill_children()
        with pytest.raises(AvgenError) as raised:
            late.result()
        assert raised.value.code == "extractor_bug"
        assert fetch(site.url("/page.html"))[0].media_bytes > 0


def test_fetch_idle_child_that_died_is_replaced(site: Site, tmp_path: Path) -> None:
    with _fetcher(tmp_path) as fetch:
        fetch(site.url("/page.html"))
        _kill_children()
        assert fetch(site.url("/page.html"))[0].media_bytes > 0


def _kill_children() -> None:
    """Kill the yt-dlp processes that this process started."""
    for pid in _children(os.getpid()):
        if b"crawl.ytdlp_child" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
            # Ended, and left to be reaped: a process whose threads still end would pass for running.
            with contextlib.suppress(ChildProcessError):  # Whoever waited for its answer has reaped it.
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def _is_ended(pid: int) -> bool:
    return not _is_running(pid)


def _wait(condition: Callable[[], bool]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("the condition did not come true within 30 s")


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# ---- local files ----


def _local(url: str, root: Path, **settings: Any) -> FetchedMedia:
    with _fetcher(root, **settings) as fetch:
        (media,) = fetch(url)
    return media


@pytest.mark.parametrize(
    "name", ["-i.mp4", "a b.MKV", "ü 100%.webm", "%41.mp4", "q?x=1#y.mp4", "$HOME ~.mp4"]
)
def test_fetch_local_file_is_copied_and_neither_changes_with_the_other(name: str, tmp_path: Path) -> None:
    original = tmp_path / "in" / name
    original.parent.mkdir()
    original.write_bytes(b"some bytes")
    before = original.stat()
    media = _local(file_url(original), tmp_path)
    stored = tmp_path / media.media_key
    assert media.sha256 == hashlib.sha256(b"some bytes").hexdigest()
    assert (original.stat().st_mtime_ns, original.read_bytes()) == (before.st_mtime_ns, b"some bytes")
    assert (media.provenance.title, media.provenance.extractor) == (original.stem, "file")
    original.write_bytes(b"other bytes")
    assert stored.read_bytes() == b"some bytes"


def test_fetch_local_file_on_another_filesystem_is_copied(tmp_path: Path) -> None:
    shared_memory = Path("/dev/shm")
    if not shared_memory.is_dir() or shared_memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second filesystem")
    original = shared_memory / f"avgen-test-{os.getpid()}.mp4"
    try:
        original.write_bytes(b"some bytes")
        media = _local(file_url(original), tmp_path)
        assert (tmp_path / media.media_key).read_bytes() == b"some bytes"
        assert (tmp_path / media.media_key).stat().st_dev == tmp_path.stat().st_dev
    finally:
        original.unlink(missing_ok=True)


def test_fetch_local_symbolic_link_stores_the_file_it_names(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"some bytes")
    (tmp_path / "link.mp4").symlink_to(tmp_path / "a.mp4")
    stored = tmp_path / _local((tmp_path / "link.mp4").as_uri(), tmp_path).media_key
    assert not stored.is_symlink()
    assert stored.read_bytes() == b"some bytes"


def test_fetch_local_missing_file_is_gone(tmp_path: Path) -> None:
    with pytest.raises(AvgenError) as raised:
        _local(file_url(tmp_path / "none.mp4"), tmp_path)
    assert raised.value.code == "gone"


def test_fetch_local_folder_and_pipe_are_not_media(tmp_path: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    for name in ("folder.mp4", "pipe.mp4"):
        with pytest.raises(AvgenError) as raised:
            _local(file_url(tmp_path / name), tmp_path)
        assert raised.value.code == "not_media"


def test_fetch_local_more_than_max_bytes_is_too_large(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"1234")
    with pytest.raises(AvgenError) as raised:
        _local(file_url(tmp_path / "a.mp4"), tmp_path, max_bytes=3)
    assert raised.value.code == "too_large"
