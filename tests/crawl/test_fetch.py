import contextlib
import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path

import av
import pytest
from pydantic import ValidationError

from crawl.fetch import FetchConfig, FetchedMedia, fetch
from crawl.items import file_url, source_item
from infra.errors import AvgenError, StorageUnavailable
from tests.crawl.web import FFMPEG, Site, make_clip

_ROOT = Path(__file__).resolve().parents[2]
_FAST = FetchConfig(stall_timeout_s=1.0, num_retries=0)


def _now() -> datetime:
    return datetime(2026, 11, 23, 12, 0, 0, 5, tzinfo=timezone(timedelta(hours=2)))


def _fetch(url: str, root: Path, config: FetchConfig = _FAST) -> FetchedMedia:
    """A fetch into `root`, after which the scratch folder must be empty, whatever the outcome."""
    item = source_item(url, kind="list")
    try:
        return fetch(
            item, media_dir=root / "media", work_dir=root / "work", ffmpeg=FFMPEG, config=config, now=_now
        )
    finally:
        assert list((root / "work").iterdir()) == []


def _stored(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in (root / "media").rglob("*") if path.is_file())


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---- the web ----


def test_fetch_direct_file_is_stored_under_its_hash(site: Site, tmp_path: Path) -> None:
    media = _fetch(site.url("/clip.mp4"), tmp_path)
    sha256 = _sha256(site.folder / "clip.mp4")
    assert media.sha256 == sha256
    assert media.media_key == f"media/{sha256[:2]}/{sha256}.mp4"
    assert media.media_bytes == (site.folder / "clip.mp4").stat().st_size
    assert _stored(tmp_path) == [media.media_key]
    assert _sha256(tmp_path / media.media_key) == sha256
    assert media.source_id == source_item(site.url("/clip.mp4"), kind="web").source_id
    assert pickle.loads(pickle.dumps(media)) == media


def test_fetch_page_with_video_tag_says_where_it_came_from(site: Site, tmp_path: Path) -> None:
    provenance = _fetch(site.url("/page.html"), tmp_path).provenance
    assert provenance.url == provenance.webpage_url == site.url("/page.html")
    assert provenance.title.startswith("One clip")
    assert provenance.extractor == "html5"
    assert provenance.fetched_at == "2026-11-23T10:00:00+00:00"
    assert (provenance.licence, provenance.uploader, provenance.upload_date) == ("", "", "")


def test_fetch_hls_playlist_becomes_one_mp4(site: Site, tmp_path: Path) -> None:
    media = _fetch(site.url("/hls/index.m3u8"), tmp_path)
    assert _stored(tmp_path) == [media.media_key]
    with av.open(str(tmp_path / media.media_key)) as container:
        assert "mp4" in container.format.name.split(",")
        assert {stream.type for stream in container.streams} == {"video", "audio"}
        assert sum(1 for _ in container.decode(video=0)) == 20


def test_fetch_redirect_is_followed(site: Site, tmp_path: Path) -> None:
    media = _fetch(site.url("/redirect.mp4"), tmp_path)
    assert media.sha256 == _sha256(site.folder / "clip.mp4")
    assert media.provenance.webpage_url == site.url("/clip.mp4")


def test_fetch_same_bytes_twice_are_stored_once_and_not_rewritten(site: Site, tmp_path: Path) -> None:
    first = _fetch(site.url("/clip.mp4"), tmp_path)
    inode = (tmp_path / first.media_key).stat().st_ino
    second = _fetch(site.url("/clip.mp4?copy=2"), tmp_path)
    assert second.source_id != first.source_id
    assert (second.sha256, second.media_key) == (first.sha256, first.media_key)
    assert (tmp_path / first.media_key).stat().st_ino == inode


def test_fetch_text_served_as_mp4_is_left_to_the_probe(site: Site, tmp_path: Path) -> None:
    assert _fetch(site.url("/words.mp4"), tmp_path).media_bytes == 38


@pytest.mark.parametrize(
    ("path", "code", "words"),
    [
        ("/status/404.mp4", "gone", "HTTP Error 404: Not Found"),
        ("/status/410", "gone", "HTTP Error 410: Gone"),
        ("/status/401", "private", "HTTP Error 401"),
        ("/status/403.mp4", "private", "HTTP Error 403: Forbidden"),
        ("/status/429.mp4", "rate_limited", "HTTP Error 429: Too Many Requests"),
        ("/status/500.mp4", "network", "HTTP Error 500: Internal Server Error"),
        ("/status/503", "network", "HTTP Error 503"),
        ("/silent.mp4", "timeout", "timed out"),
        ("/truncated.mp4", "network", "1000 bytes read, 99000 more expected"),
        ("/html-as-video.mp4", "not_media", "HTML page"),
        ("/html.mp4", "not_media", "Unsupported URL"),
        ("/words-as-html.mp4", "not_media", "text/html"),
        ("/text.html", "not_media", "Unsupported URL"),
        ("/empty.mp4", "not_media", "Did not get any data"),
        ("/two.html", "not_media", "more than one"),
        ("/feed.xml", "not_media", "more than one"),
        ("/empty.xml", "not_media", "none"),
    ],
)
def test_fetch_failure_has_its_class_and_the_real_message(
    path: str, code: str, words: str, site: Site, tmp_path: Path
) -> None:
    with pytest.raises(AvgenError) as raised:
        _fetch(site.url(path), tmp_path)
    assert raised.value.code == code
    assert words in str(raised.value)
    assert "\n" not in str(raised.value) and "ERROR:" not in str(raised.value)
    assert _stored(tmp_path) == []


@pytest.mark.parametrize("path", ["/drip.mp4", "/drip-headers.mp4"])
def test_fetch_slow_drip_is_ended_and_the_next_fetch_works(path: str, site: Site, tmp_path: Path) -> None:
    with pytest.raises(AvgenError) as raised:
        _fetch(site.url(path), tmp_path, FetchConfig(timeout_s=1.5))
    assert raised.value.code == "timeout"
    assert _stored(tmp_path) == []
    assert _fetch(site.url("/clip.mp4"), tmp_path).media_bytes > 0


@pytest.mark.parametrize("path", ["/clip.mp4", "/endless.mp4", "/hls/index.m3u8"])
def test_fetch_more_than_max_bytes_is_too_large(path: str, site: Site, tmp_path: Path) -> None:
    with pytest.raises(AvgenError) as raised:
        _fetch(site.url(path), tmp_path, FetchConfig(max_bytes=5_000))
    assert raised.value.code == "too_large"
    assert _stored(tmp_path) == []


def test_fetch_connection_refused_is_network(tmp_path: Path) -> None:
    with pytest.raises(AvgenError) as raised:
        _fetch("http://127.0.0.1:1/a.mp4", tmp_path)
    assert raised.value.code == "network"
    assert "Connection refused" in str(raised.value)


def test_fetch_from_several_threads_keeps_answers_apart(site: Site, tmp_path: Path) -> None:
    names = ["clip", "other1", "other2"] * 2

    def fetch_one(number: int) -> str:
        return _fetch(site.url(f"/{names[number]}.mp4"), tmp_path / str(number)).sha256

    with ThreadPoolExecutor(3) as pool:
        hashes = list(pool.map(fetch_one, range(len(names))))
    assert hashes == [_sha256(site.folder / f"{name}.mp4") for name in names]


def test_fetch_cookie_file_is_sent_and_not_written(site: Site, tmp_path: Path) -> None:
    cookies = tmp_path / "cookies.txt"
    cookies.write_text("# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t0\tname\tvalue\n")
    before = (cookies.read_bytes(), cookies.stat().st_mtime_ns)
    _fetch(site.url("/clip.mp4"), tmp_path / "root", FetchConfig(cookies_path=cookies))
    assert (cookies.read_bytes(), cookies.stat().st_mtime_ns) == before


def test_fetch_store_that_cannot_be_written_is_storage_unavailable(site: Site, tmp_path: Path) -> None:
    (tmp_path / "media").write_text("a file where the store should be")
    with pytest.raises(StorageUnavailable):
        _fetch(site.url("/clip.mp4"), tmp_path)


_VICTIM = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from crawl.fetch import FetchConfig, fetch
from crawl.items import source_item
url, root, ffmpeg = sys.argv[1:]
fetch(source_item(url, kind="web"), media_dir=Path(root, "media"), work_dir=Path(root, "work"),
      ffmpeg=Path(ffmpeg), config=FetchConfig(), now=lambda: datetime.now(UTC))
"""


def test_fetch_parent_killed_leaves_no_process(site: Site, tmp_path: Path) -> None:
    before = site.num_requests["/drip.mp4"]
    command = [sys.executable, "-c", _VICTIM, site.url("/drip.mp4"), str(tmp_path), str(FFMPEG)]
    victim = subprocess.Popen(command, cwd=_ROOT)
    _wait(lambda: site.num_requests["/drip.mp4"] > before)
    (child_pid,) = _children(victim.pid)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    _wait(lambda: _is_ended(child_pid))


def test_fetch_child_that_dies_costs_one_source(site: Site, tmp_path: Path) -> None:
    before = site.num_requests["/drip.mp4"]
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(_fetch, site.url("/drip.mp4"), tmp_path)
        _wait(lambda: site.num_requests["/drip.mp4"] > before)
        _kill_children()
        with pytest.raises(AvgenError) as raised:
            late.result()
    assert raised.value.code == "extractor_bug"
    assert _fetch(site.url("/clip.mp4"), tmp_path).media_bytes > 0


def test_fetch_idle_child_that_died_is_replaced(site: Site, tmp_path: Path) -> None:
    _fetch(site.url("/clip.mp4"), tmp_path)
    _kill_children()
    assert _fetch(site.url("/clip.mp4"), tmp_path).media_bytes > 0


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


@pytest.mark.parametrize(
    "name", ["-i.mp4", "a b.MKV", "ü 100%.webm", "%41.mp4", "q?x=1#y.mp4", "$HOME ~.mp4"]
)
def test_fetch_local_file_is_copied_and_neither_changes_with_the_other(name: str, tmp_path: Path) -> None:
    original = tmp_path / "in" / name
    original.parent.mkdir()
    original.write_bytes(b"some bytes")
    before = original.stat()
    media = _fetch(file_url(original), tmp_path)
    stored = tmp_path / media.media_key
    assert media.sha256 == hashlib.sha256(b"some bytes").hexdigest()
    assert stored.suffix == original.suffix.lower()
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
        media = _fetch(file_url(original), tmp_path)
        assert (tmp_path / media.media_key).read_bytes() == b"some bytes"
        assert (tmp_path / media.media_key).stat().st_dev == tmp_path.stat().st_dev
    finally:
        original.unlink(missing_ok=True)


def test_fetch_scratch_on_another_filesystem_ends_in_the_store(site: Site, tmp_path: Path) -> None:
    shared_memory = Path("/dev/shm")
    if not shared_memory.is_dir() or shared_memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second filesystem")
    work_dir = shared_memory / f"avgen-test-{os.getpid()}"
    try:
        item = source_item(site.url("/clip.mp4"), kind="web")
        media = fetch(
            item, media_dir=tmp_path / "media", work_dir=work_dir, ffmpeg=FFMPEG, config=_FAST, now=_now
        )
        assert list(work_dir.iterdir()) == []
        assert _stored(tmp_path) == [media.media_key]
        assert list((tmp_path / media.media_key).parent.iterdir()) == [tmp_path / media.media_key]
    finally:
        work_dir.rmdir()


def test_fetch_local_symbolic_link_stores_the_file_it_names(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"some bytes")
    (tmp_path / "link.mp4").symlink_to(tmp_path / "a.mp4")
    stored = tmp_path / _fetch((tmp_path / "link.mp4").as_uri(), tmp_path).media_key
    assert not stored.is_symlink()
    assert stored.read_bytes() == b"some bytes"


@pytest.mark.parametrize(
    ("name", "suffix"), [("a.toolong", ".bin"), ("a", ".bin"), ("a.m%4", ".bin"), ("a.3GP", ".3gp")]
)
def test_fetch_local_extension_is_short_and_plain(name: str, suffix: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x")
    assert Path(_fetch(file_url(tmp_path / name), tmp_path).media_key).suffix == suffix


def test_fetch_local_missing_file_is_gone(tmp_path: Path) -> None:
    with pytest.raises(AvgenError) as raised:
        _fetch(file_url(tmp_path / "none.mp4"), tmp_path)
    assert raised.value.code == "gone"


def test_fetch_local_folder_and_pipe_are_not_media(tmp_path: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    for name in ("folder.mp4", "pipe.mp4"):
        with pytest.raises(AvgenError) as raised:
            _fetch(file_url(tmp_path / name), tmp_path)
        assert raised.value.code == "not_media"


def test_fetch_local_more_than_max_bytes_is_too_large(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"1234")
    with pytest.raises(AvgenError) as raised:
        _fetch(file_url(tmp_path / "a.mp4"), tmp_path, FetchConfig(max_bytes=3))
    assert raised.value.code == "too_large"


# ---- the policy ----


def test_fetch_config_unknown_field_and_crossed_heights_are_refused() -> None:
    with pytest.raises(ValidationError):
        FetchConfig.model_validate({"max_heigth_px": 720})
    with pytest.raises(ValidationError):
        FetchConfig(min_height_px=720, max_height_px=480)


def test_fetch_config_survives_json_and_documents_every_field() -> None:
    config = FetchConfig(max_height_px=720)
    assert FetchConfig.model_validate(json.loads(config.model_dump_json())) == config
    assert all(field.description for field in FetchConfig.model_fields.values())


_VARIANTS = "#EXTM3U\n" + "".join(
    f'#EXT-X-STREAM-INF:BANDWIDTH={height}000,RESOLUTION=16x{height},CODECS="avc1.42e00a,mp4a.40.2"\n/hls{height}/index.m3u8\n'
    for height in (480, 1080, 2160)
)


@pytest.mark.parametrize(
    ("config", "height_px"),
    [(FetchConfig(), 1080), (FetchConfig(max_height_px=720), 480), (FetchConfig(min_height_px=500), 1080)],
)
def test_fetch_format_policy_takes_the_best_that_is_allowed(
    config: FetchConfig, height_px: int, site: Site, tmp_path: Path
) -> None:
    site.pages["/variants.m3u8"] = ("application/vnd.apple.mpegurl", _VARIANTS.encode())
    for height in (480, 1080, 2160):
        folder = site.folder / f"hls{height}"
        if not folder.exists():
            folder.mkdir()
            make_clip(folder / "index.m3u8", seed=height, hls_segment_s=1.0)
    before = site.num_requests.copy()
    _fetch(site.url("/variants.m3u8"), tmp_path, config)
    asked = {path for path, num in site.num_requests.items() if num > before[path] and path.endswith(".ts")}
    assert {path.split("/")[1] for path in asked} == {f"hls{height_px}"}


def test_fetch_no_format_within_the_policy_is_format_missing(site: Site, tmp_path: Path) -> None:
    site.pages["/variants.m3u8"] = ("application/vnd.apple.mpegurl", _VARIANTS.encode())
    with pytest.raises(AvgenError) as raised:
        _fetch(site.url("/variants.m3u8"), tmp_path, FetchConfig(max_height_px=240))
    assert raised.value.code == "format_missing"
    assert "Requested format is not available" in str(raised.value)
