import errno
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.crawl.web import Site
from tests.crawl.web_answers import made_bytes
from tests.crawl.web_client import failure, http_client

_ROOT = Path(__file__).resolve().parents[2]
_SIZE = 300_000


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _ranges(site: Site, path: str) -> list[str]:
    return [request.range for request in site.asked(path)]


# ---- one call ----


def test_download_whole_file_is_hashed_and_asked_for_once(site: Site, tmp_path: Path) -> None:
    path = f"/bytes/{_SIZE}/whole.mp4"
    with http_client() as http:
        download = http.download(site.url(path), tmp_path / "part")
    body = made_bytes("whole.mp4", _SIZE)
    assert (download.sha256, download.num_bytes) == (_sha256(body), _SIZE)
    assert (download.url, download.content_type, download.opt_out) == (site.url(path), "video/mp4", ())
    assert (tmp_path / "part").read_bytes() == body
    assert _ranges(site, path) == [""]


@pytest.mark.parametrize(
    "how", ["chunked", "length=no", "ranges=no", "etag=none", "type=application:x-unknown"]
)
def test_download_server_that_says_less_is_fetched_as_well(how: str, site: Site, tmp_path: Path) -> None:
    path = f"/~{how}/bytes/{_SIZE}/less.mp4"
    with http_client() as http:
        download = http.download(site.url(path), tmp_path / "part")
    assert download.sha256 == _sha256(made_bytes("less.mp4", _SIZE))
    assert _ranges(site, path) == [""]


def test_download_redirect_is_followed_and_the_last_address_is_named(site: Site, tmp_path: Path) -> None:
    with http_client() as http:
        download = http.download(site.url("/redirect/2/bytes/1000/end.mp4"), tmp_path / "part")
    assert download.url == site.url("/bytes/1000/end.mp4")
    assert download.sha256 == _sha256(made_bytes("end.mp4", 1000))


@pytest.mark.parametrize(
    ("path", "code", "words"),
    [
        ("/html.mp4", "not_media", ["the server says text/html"]),
        ("/html-as-video.mp4", "not_media", ["begins like an HTML page"]),
        ("/words-as-html.mp4", "not_media", ["text/html"]),
        ("/empty.mp4", "not_media", ["holds 0 bytes"]),
        ("/~chunked/bytes/0/empty-chunks.mp4", "not_media", ["holds 0 bytes"]),
        ("/~length=no/bytes/0/empty-close.mp4", "not_media", ["holds 0 bytes"]),
        ("/~gzip/zeros/1000000/bomb.mp4", "not_media", ["content-encoding gzip"]),
        ("/bytes/100/br.mp4?h.Content-Encoding=br", "not_media", ["content-encoding br"]),
        ("/~lie=unasked/bytes/1000/unasked.mp4", "network", ["status 200, got 206"]),
        ("/~lie=416,status=416/bytes/1000/x.mp4", "network", ["got status 416"]),
    ],
)
def test_download_what_is_no_media_is_refused(
    path: str, code: str, words: list[str], site: Site, tmp_path: Path
) -> None:
    asked = path.partition("?")[0]
    before = site.num_requests[asked]
    with http_client() as http, failure(code, *words, site.url(asked)):
        http.download(site.url(path), tmp_path / "part")
    assert site.num_requests[asked] - before == (2 if "unasked" in path else 1)
    assert (tmp_path / "part").read_bytes() == b""
    assert not (tmp_path / "part.json").exists()


@pytest.mark.parametrize("how", ["", "~chunked/", "~length=no/"])
def test_download_more_than_max_bytes_is_too_large(how: str, site: Site, tmp_path: Path) -> None:
    path = f"/{how}bytes/{_SIZE}/large.mp4"
    before = site.num_requests[path]
    with http_client(max_bytes=_SIZE - 1) as http, failure("too_large", f"at most {_SIZE - 1} bytes"):
        http.download(site.url(path), tmp_path / "part")
    with http_client(max_bytes=_SIZE) as http:
        assert http.download(site.url(path), tmp_path / "part").num_bytes == _SIZE
    assert site.num_requests[path] - before == 2


def test_download_endless_body_ends_at_max_bytes(site: Site, tmp_path: Path) -> None:
    with http_client(max_bytes=_SIZE) as http, failure("too_large", f"at most {_SIZE} bytes"):
        http.download(site.url("/endless.mp4"), tmp_path / "part")


@pytest.mark.parametrize(
    ("path", "limits", "words", "num_requests"),
    [
        ("/~drip=0.02/zeros/9999/d1", {"timeout_s": 0.5}, "must finish within 0.5 s", 1),
        ("/drip-headers.mp4", {"timeout_s": 0.5}, "must finish within 0.5 s", 1),
        ("/~latency=3/zeros/9999/d2", {"stall_timeout_s": 0.3}, "must answer within 0.3 s", 1),
        ("/~stall=50/zeros/9999/d3", {"stall_timeout_s": 0.3, "num_reconnects": 1}, "must answer within 0.3 s", 2),
    ],
)  # fmt: skip
def test_download_slow_host_is_a_timeout(
    path: str, limits: dict[str, Any], words: str, num_requests: int, site: Site, tmp_path: Path
) -> None:
    before = site.num_requests[path]
    with http_client(**limits) as http, failure("timeout", words, site.url(path)):
        http.download(site.url(path), tmp_path / "part")
    assert site.num_requests[path] - before == num_requests


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_download_disk_without_room_is_disk_full_and_resumed_when_there_is(
    number: int, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, write, num_written = f"/bytes/{_SIZE}/full-{number}.mp4", os.write, [0]

    def write_until_full(fd: int, block: bytes) -> int:
        if num_written[0] == 1000:
            raise OSError(number, os.strerror(number))
        num_written[0] += (written := write(fd, block[: 1000 - num_written[0]]))
        return written

    with http_client() as http:
        with (
            monkeypatch.context() as patch,
            failure("disk_full", os.strerror(number), str(tmp_path / "part")),
        ):
            patch.setattr(os, "write", write_until_full)
            http.download(site.url(path), tmp_path / "part")
        assert http.download(site.url(path), tmp_path / "part").sha256 == _sha256(
            made_bytes(f"full-{number}.mp4", _SIZE)
        )


def test_download_from_many_threads_stays_apart_and_within_the_limit(site: Site, tmp_path: Path) -> None:
    def fetch(number: int) -> bool:
        path = f"/~latency=0.01/bytes/5000/many-{number}.mp4"
        download = http.download(site.url(path), tmp_path / str(number))
        return download.sha256 == _sha256(made_bytes(f"many-{number}.mp4", 5000))

    limit = {"127.0.0.1": {"requests_per_s": 100_000, "connections": 5}}
    num_connections = site.num_connections
    with http_client(hosts=limit) as http, ThreadPoolExecutor(16) as pool:
        assert all(pool.map(fetch, range(60)))
    assert site.peak["/~latency=0.01"] == 5
    assert site.num_connections - num_connections <= 6  # One more may have asked for robots.txt.


# ---- resumed ----


@pytest.mark.parametrize("how", ["cut", "reset", "cut,chunked", "stall"])
def test_download_broken_body_is_resumed_within_the_call(how: str, site: Site, tmp_path: Path) -> None:
    kind, _, rest = how.partition(",")
    path = f"/~{kind}=70000,first=2,{rest}/bytes/{_SIZE}/{how}.mp4"
    with http_client(stall_timeout_s=0.3) as http:
        download = http.download(site.url(path), tmp_path / "part")
    assert download.sha256 == _sha256(made_bytes(f"{how}.mp4", _SIZE))
    assert _ranges(site, path) == ["", "bytes=70000-", "bytes=140000-"]


def test_download_that_breaks_too_often_says_what_is_missing(site: Site, tmp_path: Path) -> None:
    path = f"/~cut=1000/bytes/{_SIZE}/often.mp4"
    with http_client(num_reconnects=2) as http, failure("network", "1000 bytes read, 297000 more expected"):
        http.download(site.url(path), tmp_path / "part")
    assert _ranges(site, path) == ["", "bytes=1000-", "bytes=2000-"]


@pytest.mark.parametrize("num_bytes", sorted({1, _SIZE - 1, *random.Random(7).sample(range(2, _SIZE), 4)}))
def test_download_next_call_asks_only_for_what_is_missing(num_bytes: int, site: Site, tmp_path: Path) -> None:
    path = f"/~cut={num_bytes},first=1/bytes/{_SIZE}/next.mp4"
    with http_client(num_reconnects=0) as http:
        with failure("network", f"{num_bytes} bytes read, {_SIZE - num_bytes} more expected"):
            http.download(site.url(path), tmp_path / "part")
        assert (tmp_path / "part").stat().st_size == num_bytes
        assert http.download(site.url(path), tmp_path / "part").sha256 == _sha256(
            made_bytes("next.mp4", _SIZE)
        )
    first, second = site.asked(path)
    assert (first.range, second.range) == ("", f"bytes={num_bytes}-")
    assert second.headers["if-range"].startswith('"')


def test_download_complete_part_is_not_asked_for_again(site: Site, tmp_path: Path) -> None:
    path = "/bytes/3000000/again.mp4"
    with http_client() as http:
        first = http.download(site.url(path), tmp_path / "part")
        assert http.download(site.url(path), tmp_path / "part") == first
    assert _ranges(site, path) == [""]


def test_download_signed_address_that_changed_is_resumed(site: Site, tmp_path: Path) -> None:
    path = f"/~cut=5000,first=1/bytes/{_SIZE}/signed.mp4"
    with http_client(num_reconnects=0) as http:
        with failure("network", "5000 bytes read"):
            http.download(site.url(f"{path}?signature=1"), tmp_path / "part")
        download = http.download(site.url(f"{path}?signature=2"), tmp_path / "part")
    assert download.sha256 == _sha256(made_bytes("signed.mp4", _SIZE))
    assert _ranges(site, path) == ["", "bytes=5000-"]


@pytest.mark.parametrize("how", ["", "ranges=no", "etag=none", "etag=weak"])
def test_download_file_that_changed_is_fetched_whole(how: str, site: Site, tmp_path: Path) -> None:
    """Without a strong ETag it is Last-Modified that would have to change, so here the file stays."""
    rest = f"/bytes/{_SIZE}/changed-{how}.mp4"
    path = f"/~cut=5000,first=1,{how}{rest}"
    with http_client(num_reconnects=0) as http:
        with failure("network", "5000 bytes read"):
            http.download(site.url(path), tmp_path / "part")
        site.editions[rest] += how == ""
        download = http.download(site.url(path), tmp_path / "part")
    assert download.sha256 == _sha256(made_bytes(f"changed-{how}.mp4", _SIZE, site.editions[rest]))
    assert _ranges(site, path) == ["", "bytes=5000-"]


@pytest.mark.parametrize("how", ["etag=none,modified=no", "etag=weak,modified=no"])
def test_download_without_a_validator_begins_anew(how: str, site: Site, tmp_path: Path) -> None:
    path = f"/~cut=5000,first=1,{how}/bytes/{_SIZE}/anew.mp4"
    with http_client() as http:
        assert http.download(site.url(path), tmp_path / "part").sha256 == _sha256(
            made_bytes("anew.mp4", _SIZE)
        )
    assert _ranges(site, path) == ["", ""]


@pytest.mark.parametrize(
    "lie", ["start", "total", "etag", "short", "long", "shift", "less", "missing", "416", "html"]
)
def test_download_part_that_is_a_lie_is_never_glued(lie: str, site: Site, tmp_path: Path) -> None:
    path = f"/~cut=5000,first=1,lie={lie}/bytes/{_SIZE}/lie-{lie}.mp4"
    with http_client() as http:
        download = http.download(site.url(path), tmp_path / "part")
    assert download.sha256 == _sha256(made_bytes(f"lie-{lie}.mp4", _SIZE))
    assert _ranges(site, path) == ["", "bytes=5000-", ""]


@pytest.mark.parametrize("lie", ["start", "total", "short", "shift", "less", "missing", "416"])
def test_download_second_lie_is_a_network_failure(lie: str, site: Site, tmp_path: Path) -> None:
    path = f"/~cut=5000,lie={lie}/bytes/{_SIZE}/lies-{lie}.mp4"
    with http_client() as http, failure("network", "part"):
        http.download(site.url(path), tmp_path / "part")
    assert _ranges(site, path) == ["", "bytes=5000-", "", "bytes=5000-"]


def test_download_part_of_a_file_of_another_length_is_never_glued(site: Site, tmp_path: Path) -> None:
    rest = f"/bytes/{_SIZE}/longer.mp4"
    with http_client(num_reconnects=0) as http:
        with failure("network", "5000 bytes read"):
            http.download(site.url(f"/~cut=5000{rest}"), tmp_path / "part")
        with failure("network", f"got bytes 240000-299999/{_SIZE + 1}"):
            http.download(site.url(f"/~lie=total{rest}"), tmp_path / "part", chunk_bytes=80_000)
    first_bytes = [asked.partition("-")[0] for asked in _ranges(site, f"/~lie=total{rest}")]
    assert first_bytes == ["bytes=5000", "bytes=0", "bytes=80000", "bytes=160000", "bytes=240000"]


@pytest.mark.parametrize(("how", "num_requests"), [("x", 4), ("ranges=no", 1), ("etag=none,modified=no", 2)])
def test_download_in_chunks_asks_for_parts(how: str, num_requests: int, site: Site, tmp_path: Path) -> None:
    path = f"/~{how}/bytes/{_SIZE}/chunks.mp4"
    with http_client() as http:
        download = http.download(site.url(path), tmp_path / "part", chunk_bytes=80_000)
    assert download.sha256 == _sha256(made_bytes("chunks.mp4", _SIZE))
    parts = ["bytes=0-79999", "bytes=80000-159999", "bytes=160000-239999", "bytes=240000-319999"]
    assert _ranges(site, path) == (["bytes=0-79999", ""] if num_requests == 2 else parts[:num_requests])


@pytest.mark.parametrize("size", [1, 79_999, 80_000, 80_001, 160_000])
def test_download_in_chunks_of_any_remainder(size: int, site: Site, tmp_path: Path) -> None:
    with http_client() as http:
        url = site.url(f"/bytes/{size}/remainder.mp4")
        download = http.download(url, tmp_path / "part", chunk_bytes=80_000)
    assert (download.sha256, download.num_bytes) == (_sha256(made_bytes("remainder.mp4", size)), size)


def test_download_in_chunks_empty_file_is_not_media(site: Site, tmp_path: Path) -> None:
    with http_client() as http, failure("not_media", "holds 0 bytes"):
        http.download(site.url("/bytes/0/empty-chunk.mp4"), tmp_path / "part", chunk_bytes=80_000)


def test_download_rate_limit_within_a_resume_ends_the_call(site: Site, tmp_path: Path) -> None:
    path = f"/~cut=5000/bytes/{_SIZE}/limited.mp4"
    with http_client(num_reconnects=0) as http, failure("network", "5000 bytes read"):
        http.download(site.url(path), tmp_path / "part")
    limited = site.url(f"/~status=429,after=7/bytes/{_SIZE}/limited.mp4")
    with http_client() as http, failure("rate_limited", "429 Too Many Requests", "Retry-After: 7"):
        http.download(limited, tmp_path / "part")
    assert (tmp_path / "part").stat().st_size == 5000


# ---- killed ----

_VICTIM = """
import sys
from pathlib import Path
from tests.crawl.web_client import http_client
with http_client() as http:
    http.download(sys.argv[1], Path(sys.argv[2]))
"""


def test_download_of_a_killed_process_is_resumed(site: Site, tmp_path: Path) -> None:
    path = f"/~stall=123456,first=1/bytes/{_SIZE}/killed.mp4"
    part = tmp_path / "part"
    command = [sys.executable, "-c", _VICTIM, site.url(path), str(part)]
    victim = subprocess.Popen(command, cwd=_ROOT)
    while victim.poll() is None and not ((tmp_path / "part.json").exists() and part.stat().st_size == 123456):
        time.sleep(0.01)
    victim.kill()
    assert victim.wait() == -signal.SIGKILL
    with http_client(num_reconnects=0) as http:
        assert http.download(site.url(path), part).sha256 == _sha256(made_bytes("killed.mp4", _SIZE))
    assert _ranges(site, path) == ["", "bytes=123456-"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    num_bytes=st.integers(0, 3000),
    note_chars=st.integers(0, 400) | st.none(),
    is_changed=st.booleans(),
    tail=st.binary(max_size=3),
)
def test_download_never_has_a_wrong_hash_whatever_is_left_of_a_part(
    num_bytes: int, note_chars: int | None, is_changed: bool, tail: bytes, site: Site, tmp_path: Path
) -> None:
    """A part cut anywhere, its note cut, gone or whole, one that is too long, a file that changed meanwhile."""
    part, rest = tmp_path / "part", "/bytes/3000/left.mp4"
    with http_client(num_reconnects=0) as http:
        part.unlink(missing_ok=True)
        with failure("network", "2900 bytes read, 100 more expected"):
            http.download(site.url(f"/~cut=2900{rest}"), part)
        note = (tmp_path / "part.json").read_text()
        (tmp_path / "part.json").write_text(note[:note_chars])
        body = part.read_bytes()
        part.write_bytes(body[:num_bytes] if num_bytes < 2900 else body + bytes(200) + tail)
        site.editions[rest] += is_changed
        expected = made_bytes("left.mp4", 3000, site.editions[rest])
        assert http.download(site.url(rest), part).sha256 == _sha256(expected)
        assert part.read_bytes() == expected
