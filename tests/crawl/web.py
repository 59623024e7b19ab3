"""A small site on the loopback interface that does what the web does: videos, lists, and ways to fail."""

import contextlib
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import imageio_ffmpeg

FFMPEG = Path(imageio_ffmpeg.get_ffmpeg_exe())
_DRIP_PAUSE_S = 0.05


def make_clip(path: Path, *, seed: int = 0, hls_segment_s: float = 0.0) -> Path:
    """Two seconds of test picture and tone; `.m3u8` makes segments of `hls_segment_s` beside the playlist."""
    video = ["-f", "lavfi", "-i", f"testsrc=size=64x64:rate=10:duration=2,hue=h={seed * 40}"]
    audio = ["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=16000:duration=2"]
    encode = ["-c:v", "libx264", "-preset", "ultrafast", "-g", "10", "-pix_fmt", "yuv420p", "-c:a", "aac"]
    muxer = (
        ["-f", "hls", "-hls_time", str(hls_segment_s), "-hls_playlist_type", "vod"] if hls_segment_s else []
    )
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


class Site:
    """Files by path, plus addresses that misbehave; counts the requests of each path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.num_requests: Counter[str] = Counter()
        self.pages: dict[str, tuple[str, bytes]] = {}
        handler = type("Handler", (_Handler,), {"site": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.stopping = threading.Event()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}{path}"

    def start(self) -> None:
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()

    def stop(self) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.site.num_requests[path] += 1
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if path.startswith("/status/"):
                self._send(
                    "text/html", b"<!DOCTYPE html><title>no</title>", status=int(path.split("/")[2][:3])
                )
            elif path == "/drip.mp4":
                self._drip()
            elif path == "/drip-headers.mp4":
                self._drip_headers()
            elif path == "/silent.mp4":
                self.site.stopping.wait(20)
            elif path == "/truncated.mp4":
                self._truncate()
            elif path == "/endless.mp4":
                self._endless()
            elif path == "/redirect.mp4":
                self._send("text/plain", b"", status=302, location="/clip.mp4")
            elif path in self.site.pages:
                content_type, body = self.site.pages[path]
                self._send(content_type, body)
            else:
                self._send_file(self.site.folder / path.lstrip("/"))

    do_HEAD = do_GET

    def _send(self, content_type: str, body: bytes, *, status: int = 200, location: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if location:
            self.send_header("Location", location)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _send_file(self, path: Path) -> None:
        types = {".mp4": "video/mp4", ".m3u8": "application/vnd.apple.mpegurl", ".ts": "video/mp2t"}
        if path.is_file():
            self._send(types.get(path.suffix, "application/octet-stream"), path.read_bytes())
        else:
            self._send("text/html", b"<!DOCTYPE html><title>not found</title>", status=404)

    def _video_headers(self, num_bytes: int | None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "video/mp4")
        if num_bytes is not None:
            self.send_header("Content-Length", str(num_bytes))
        self.end_headers()

    def _drip(self) -> None:
        self._video_headers(1_000_000)
        while not self.site.stopping.wait(_DRIP_PAUSE_S):
            self.wfile.write(b"\0")

    def _drip_headers(self) -> None:
        self.wfile.write(b"HTTP/1.0 200 OK\r\nX-Long: ")
        while not self.site.stopping.wait(_DRIP_PAUSE_S):
            self.wfile.write(b"x")

    def _truncate(self) -> None:
        self._video_headers(100_000)
        self.wfile.write(b"\0" * 1_000)

    def _endless(self) -> None:
        self._video_headers(None)
        while not self.site.stopping.is_set():
            self.wfile.write(b"\0" * 65536)
            time.sleep(0.001)

    def log_message(self, format: str, *args: object) -> None:
        """Tests read results, not logs."""


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[Site]:
    """The site with its files and pages in `folder`."""
    make_clip(folder / "clip.mp4")
    for number in (1, 2):
        make_clip(folder / f"other{number}.mp4", seed=number)
    (folder / "hls").mkdir()
    make_clip(folder / "hls" / "index.m3u8", hls_segment_s=1.0)
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
