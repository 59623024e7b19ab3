"""A small site on the loopback interface that does what the web does: videos, lists, and ways to fail."""

import argparse
import base64
import contextlib
import itertools
import select
import socket
import socketserver
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio_ffmpeg

from tests.crawl.web_answers import Answer, Request, answer_to, head_of, page

FFMPEG = Path(imageio_ffmpeg.get_ffmpeg_exe())
_FAREWELL = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def make_clip(path: Path, *, seed: int = 0, hls_segment_s: float = 0.0) -> Path:
    """Two seconds of test picture and tone; `.m3u8` and `.mpd` make segments of `hls_segment_s` beside it."""
    video = ["-f", "lavfi", "-i", f"testsrc=size=64x64:rate=10:duration=2,hue=h={seed * 40}"]
    audio = ["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=16000:duration=2"]
    encode = ["-c:v", "libx264", "-preset", "ultrafast", "-g", "10", "-pix_fmt", "yuv420p", "-c:a", "aac"]
    muxer = {
        ".m3u8": ["-f", "hls", "-hls_time", str(hls_segment_s), "-hls_playlist_type", "vod"],
        ".mpd": ["-f", "dash", "-seg_duration", str(hls_segment_s)],
    }.get(path.suffix, [])
    command = [
        str(FFMPEG),
        "-v",
        "error",
        "-threads",
        "1",
        *video,
        *audio,
        *encode,
        "-shortest",
        *muxer,
        str(path),
    ]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path


@dataclass(frozen=True, slots=True)
class Limit:
    """How fast one address may ask: over it 429, and after `num_strikes` of those 403 for ever."""

    requests_per_s: float
    burst: float = 1.0
    num_strikes: int = 3


class Site:
    """Files by path, plus addresses that misbehave (see web_answers.py); keeps count of what was asked."""

    def __init__(
        self,
        folder: Path,
        *,
        latency_s: float = 0.0,
        limit: Limit | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.folder = folder
        self.latency_s = latency_s
        self.limit = limit
        self.robots = ""
        self.proxy_login = ""
        """`user:password` that it wants as a proxy."""
        self.pages: dict[str, tuple[str, bytes]] = {}
        self.editions: Counter[str] = Counter()
        """Of the files that are made up; one more makes other bytes and another ETag."""
        self.statuses: dict[str, int] = {}
        """Paths that answer nothing but this status."""
        self.num_requests: Counter[str] = Counter()
        self.num_connections = 0
        self.log: deque[Request] = deque(maxlen=100_000)
        self.peak: Counter[str] = Counter()
        """Most requests at once by first segment of the path, and of all of them under "/"."""
        self.banned: set[str] = set()
        self.started_s = time.time()
        self.stopping = threading.Event()
        self._open: Counter[str] = Counter()
        self._buckets: dict[str, tuple[float, float, int]] = {}
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Connection,), {"site": self}))
        self._scheme = "https" if tls else "http"
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def url(self, path: str) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}{path}"

    def asked(self, path: str) -> list[Request]:
        """The requests for a path so far, in order."""
        return [request for request in self.log if request.path == path]

    def start(self) -> None:
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()

    def stop(self) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self.drop_connections()

    def drop_connections(self) -> None:
        """End all, also those on which nobody asks anything."""
        self._server.drop_connections()

    @contextlib.contextmanager
    def counted(self, request: Request) -> Iterator[None]:
        """Keeps the books of one request from its arrival to the end of its answer."""
        prefixes = ("/", "/" + request.path.split("/")[1])
        with self._lock:
            self.num_requests[request.path] += 1
            self.log.append(request)
            for prefix in prefixes:
                self._open[prefix] += 1
                self.peak[prefix] = max(self.peak[prefix], self._open[prefix])
        try:
            yield
        finally:
            with self._lock:
                self._open.subtract(prefixes)

    def refusal(self, request: Request) -> Answer | None:
        """429 or 403 for an address that asks too fast."""
        if self.limit is None or request.path == "/log":
            return None
        with self._lock:
            tokens, since_s, strikes = self._buckets.get(request.peer, (self.limit.burst, request.time_s, 0))
            tokens = min(self.limit.burst, tokens + (request.time_s - since_s) * self.limit.requests_per_s)
            is_fast = tokens < 1.0
            strikes += is_fast
            self._buckets[request.peer] = (tokens - (not is_fast), request.time_s, strikes)
            if strikes >= self.limit.num_strikes:
                self.banned.add(request.peer)
        if request.peer in self.banned:
            return page(403, "banned")
        return page(429, "slow down", Retry_After="1") if is_fast else None

    def login_refusal(self, request: Request) -> Answer | None:
        """407 for a stranger who wants us as a proxy."""
        login = "Basic " + base64.b64encode(self.proxy_login.encode()).decode()
        is_known = not self.proxy_login or request.headers.get("proxy-authorization") == login
        return None if is_known or request.method not in ("CONNECT", "PROXY") else page(407, "who are you")


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 256

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._connections: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def drop_connections(self) -> None:
        for connection in tuple(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients may go away whenever they like; anything else is printed."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Connection(socketserver.StreamRequestHandler):
    site: Site
    disable_nagle_algorithm = True
    num_answers = 0

    def handle(self) -> None:
        with self.site._lock:
            self.site.num_connections += 1
        while request := self._request():
            with self.site.counted(request):
                is_open = self._answer(request)
            if not is_open or request.headers.get("connection") == "close":
                break

    def _request(self) -> Request | None:
        """The next request; None at the end of the connection."""
        words = self.rfile.readline(65536).decode("latin-1").split()
        if len(words) != 3:
            return None
        headers = {}
        while (line := self.rfile.readline(65536)) not in (b"\r\n", b"\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        method, target, _ = words
        if target.startswith("http://"):  # Asked as a proxy: it serves every host itself.
            target, method = "/" + target.split("/", 3)[3], "PROXY"
        elif method == "CONNECT":
            target = f"/connect/{target}"
        path, _, query = target.partition("?")
        return Request(time.time(), method, path, query, self.client_address[0], headers)

    def _answer(self, request: Request) -> bool:
        """Send the answer; False when the connection ends with it."""
        if request.path == "/drip-headers.mp4":
            return self._drip(b"HTTP/1.1 200 OK\r\nX-Long: ", [b"x"] * 65536, 0.05)
        refusal = self.site.refusal(request) or self.site.login_refusal(request)
        if request.method == "CONNECT" and not refusal:
            return self._tunnel(request.path.removeprefix("/connect/"))
        answer, mods = (refusal, {}) if refusal else answer_to(request, self.site)
        self.site.stopping.wait(float(mods.get("latency", self.site.latency_s)))
        if "hangup" in mods and self.num_answers:
            return False
        self.num_answers += 1
        ends = {"cut", "reset", "stall", "drip", "endless"} & mods.keys() or mods.get("length") == "no"
        head = head_of(answer, mods, keep_alive=not ends)
        if request.method == "HEAD":
            self.wfile.write(head)
        elif "drip" in mods:
            self._drip(head, (answer.body[i : i + 1] for i in range(len(answer.body))), float(mods["drip"]))
        elif "endless" in mods:
            self._drip(head, itertools.repeat(answer.body), 0.001)
        elif {"cut", "reset", "stall"} & mods.keys():
            self._break_off(head, answer.body, mods)
        elif "chunked" in mods:
            self.wfile.write(head + _chunked(answer.body) + b"0\r\n\r\n")
        else:
            self.wfile.write(head + answer.body)
        if "farewell" in mods:
            time.sleep(0.02)  # The client has read the answer and put the connection away.
            self.wfile.write(_FAREWELL)
        return not ends and "farewell" not in mods

    def _tunnel(self, target: str) -> bool:
        """What a proxy does for https: bytes go both ways until one side ends."""
        host, _, port = target.rpartition(":")
        try:
            far = socket.create_connection((host, int(port)), timeout=5)
        except OSError:
            self.wfile.write(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
            return False
        with far:
            self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            other = {far: self.connection, self.connection: far}
            while True:
                for ready in select.select(list(other), [], [])[0]:
                    block = ready.recv(65536)
                    if not block:
                        return False
                    other[ready].sendall(block)

    def _drip(self, head: bytes, pieces: Iterable[bytes], pause_s: float) -> bool:
        self.wfile.write(head)
        for piece in pieces:
            if self.site.stopping.wait(pause_s):
                break
            self.wfile.write(piece)
        return False

    def _break_off(self, head: bytes, body: bytes, mods: Mapping[str, str]) -> None:
        ((name, value),) = ((name, mods[name]) for name in ("cut", "reset", "stall") if name in mods)
        sent = body[: int(value)]
        self.wfile.write(head + (_chunked(sent) if "chunked" in mods else sent))
        if name == "stall":
            self.site.stopping.wait(20)
        elif name == "reset":
            time.sleep(0.05)  # So that the client has read what was sent: a reset drops what it has not.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()


def _chunked(body: bytes) -> bytes:
    pieces = (body[start : start + 5000] for start in range(0, len(body), 5000))
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[Site]:
    """The site with its files and pages in `folder`."""
    make_clip(folder / "clip.mp4")
    for number in (1, 2):
        make_clip(folder / f"other{number}.mp4", seed=number)
    (folder / "hls").mkdir()
    make_clip(folder / "hls" / "index.m3u8", hls_segment_s=1.0)
    (folder / "dash").mkdir()
    make_clip(folder / "dash" / "index.mpd", hls_segment_s=1.0)
    site = Site(folder)
    html, rss = "text/html; charset=utf-8", "application/rss+xml"
    enclosures = "".join(
        f"<item><title>Clip {name}</title><guid>{name}</guid>"
        f'<enclosure url="{site.url(f"/{name}.mp4")}"/></item>'
        for name in ("clip", "other1", "other2")
    )
    local = '<item><title>l</title><enclosure url="file:///etc/passwd"/></item>'
    head = '<?xml version="1.0"?><rss version="2.0"><channel><title>Feed</title>'
    site.pages = {
        "/page.html": (html, _page("One clip", "clip")),
        "/two.html": (html, _page("Two clips", "other1", "other2")),
        "/text.html": (html, b"<!DOCTYPE html><html><title>words</title><body>no video here</body></html>"),
        "/feed.xml": (rss, f"{head}{enclosures}</channel></rss>".encode()),
        "/evil.xml": (rss, f"{head}{local}{enclosures}</channel></rss>".encode()),
        "/empty.xml": (rss, f"{head}</channel></rss>".encode()),
        "/html-as-video.mp4": ("video/mp4", b"<!DOCTYPE html><html><title>404</title></html>"),
        "/html.mp4": (html, b"<!DOCTYPE html><html><title>404</title></html>"),
        "/words-as-html.mp4": (html, b"these are only words, and many of them"),
        "/words.mp4": ("text/plain", b"these are only words, and many of them"),
        "/empty.mp4": ("video/mp4", b""),
        "/tone.mp3": ("audio/mpeg", b"ID3" + b"\0" * 100),
    }
    site.start()
    try:
        yield site
    finally:
        site.stop()


def _page(title: str, *names: str) -> bytes:
    videos = "".join(f'<video controls><source src="/{name}.mp4" type="video/mp4"></video>' for name in names)
    return f"<!DOCTYPE html><html><head><title>{title}</title></head><body>{videos}</body></html>".encode()


def _main() -> None:
    """Serve until standard input ends: `python -m tests.crawl.web [FOLDER]` prints its port."""
    parser = argparse.ArgumentParser(description="Serve files and misbehaviour on the loopback interface.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("/nonexistent"))
    parser.add_argument("--latency-s", type=float, default=0.0)
    parser.add_argument(
        "--requests-per-s", type=float, default=0.0, help="over it 429, then a ban; 0: no limit"
    )
    parser.add_argument("--burst", type=float, default=1.0)
    options = parser.parse_args()
    limit = Limit(options.requests_per_s, options.burst) if options.requests_per_s else None
    site = Site(options.folder, latency_s=options.latency_s, limit=limit)
    site.start()
    print(site.port, flush=True)
    sys.stdin.read()
    site.stop()


if __name__ == "__main__":
    _main()
