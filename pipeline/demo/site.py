"""The demo's own web site on the loopback interface: pages, films, a feed, a playlist, broken things."""

import html
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any

from infra.errors import ConfigError
from pipeline.demo.clips import (
    BAD_CLIPS,
    BUNNY_FILE,
    GOOD_CLIPS,
    HLS_FOLDER,
    HLS_PLAYLIST,
    TEXT_FILE,
    TRUNCATED_FILE,
)

FEED_PATH = "/feed.xml"
FEED_FILES = ("testcard.mp4", "testcard_hd.mp4", "fractal.mp4", "automaton.mp4")
PAIR_PATH = "/pair.html"
PAIR_FILES = ("weave.mp4", "bars.mp4")
WATCH_FILES = ("life.mp4", "carpet.mp4", BUNNY_FILE, "blurred.mp4", "silent.mp4")
"""Films that have a page each, `/watch/<name>.html`."""
MIRROR_FILES = ("fractal.mp4", "life.mp4")
"""Films that are to be had at a second address."""
GONE_PATH = "/media/gone.mp4"
PRIVATE_PATH = "/media/private.mp4"

_CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".xml": "application/rss+xml; charset=utf-8",
    ".mp4": "video/mp4",
    ".m3u8": "application/vnd.apple.mpegurl",
    ".ts": "video/mp2t",
}
_HOST = "127.0.0.1"
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_CHUNK_BYTES = 1 << 18


@contextmanager
def serve_site(folder: Path, *, port: int = 0) -> Iterator[str]:
    """Serve the media of `make_demo_media` while the context lasts; it yields the base URL, without a slash.

    Args:
        folder: the media.
        port: where to listen; 0 takes any free one. A source's id holds the port, so a run that is to be
            resumed needs the same one.

    Raises:
        ConfigError: the port is taken.
    """
    try:
        server = _Server((_HOST, port), _Handler)
    except OSError as err:
        raise ConfigError(
            f"port {port} of {_HOST} must be free for the demo's site, got {err.strerror}; pass another or 0"
        ) from err
    base_url = f"http://{_HOST}:{server.server_port}"
    server.pages = {path: text.encode() for path, text in site_pages(base_url).items()}
    server.files = site_files(folder)
    thread = threading.Thread(target=server.serve_forever, name="demo-site", daemon=True)
    thread.start()
    try:
        yield base_url
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def site_pages(base_url: str) -> dict[str, str]:
    """Text of every page and of the feed, by path."""
    pages = {watch_path(name): _video_page(_title(name), [f"/watch/{name}"]) for name in WATCH_FILES}
    pages[PAIR_PATH] = _video_page("Two films", [f"/pair/{name}" for name in PAIR_FILES])
    pages[FEED_PATH] = _feed(base_url)
    direct = [f"/media/{clip.file_name}" for clip in BAD_CLIPS if clip.file_name not in WATCH_FILES]
    direct += [f"/mirror/{name}" for name in MIRROR_FILES]
    direct += [f"/media/{TRUNCATED_FILE}", f"/media/{TEXT_FILE}", GONE_PATH, PRIVATE_PATH]
    pages["/"] = _index([*pages, f"/{HLS_FOLDER}/{HLS_PLAYLIST}", *direct])
    return pages


def site_files(folder: Path) -> dict[str, Path]:
    """The file behind every other path. Nothing else of the folder can be asked for."""
    names = [clip.file_name for clip in (*GOOD_CLIPS, *BAD_CLIPS)] + [BUNNY_FILE, TRUNCATED_FILE, TEXT_FILE]
    files = {f"/media/{name}": folder / name for name in names}
    for place, placed in (
        ("feed", FEED_FILES),
        ("pair", PAIR_FILES),
        ("watch", WATCH_FILES),
        ("mirror", MIRROR_FILES),
    ):
        files |= {f"/{place}/{name}": folder / name for name in placed}
    files |= {f"/{HLS_FOLDER}/{path.name}": path for path in (folder / HLS_FOLDER).iterdir()}
    return files


def watch_path(file_name: str) -> str:
    """Path of the page of one film."""
    return f"/watch/{PurePosixPath(file_name).stem}.html"


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes `start` to `stop`, half-open."""

    start: int
    stop: int


def parse_range(header: str, num_bytes: int) -> ByteRange | None:
    """The one range that a Range header asks for; None when it asks for none that we serve, so all is sent.

    Raises:
        ValueError: the range is well-formed and outside of the file.

    Source: RFC 9110, section 14.1.2.
    """
    match = _RANGE.fullmatch(header.strip())
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, stop = max(0, num_bytes - int(last)), num_bytes
    else:
        start, stop = int(first), min(int(last) + 1, num_bytes) if last else num_bytes
        if last and int(last) < start:
            return None
    if start >= stop:
        raise ValueError(f"a range must lie within {num_bytes} bytes, got {header!r}")
    return ByteRange(start, stop)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    pages: Mapping[str, bytes]
    files: Mapping[str, Path]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up early is no event; anything else is told."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    server: _Server

    def do_GET(self) -> None:
        """Answer with what the path names."""
        path = self.path.partition("?")[0]
        content_type = _CONTENT_TYPES.get(PurePosixPath(path).suffix, _CONTENT_TYPES[".html"])
        if path == PRIVATE_PATH:
            self._send_page(HTTPStatus.FORBIDDEN, _page("Forbidden", "Not for you."), _CONTENT_TYPES[".html"])
        elif path in self.server.pages:
            self._send_page(HTTPStatus.OK, self.server.pages[path], content_type)
        elif path in self.server.files:
            self._send_file(self.server.files[path], content_type)
        else:
            self._send_page(
                HTTPStatus.NOT_FOUND, _page("Not found", "Nothing here."), _CONTENT_TYPES[".html"]
            )

    do_HEAD = do_GET  # the senders leave the body out

    def log_message(self, *args: object) -> None:
        """Nothing: stdout and stderr are the demo's."""

    def _send_page(self, status: HTTPStatus, body: bytes | str, content_type: str) -> None:
        content = body.encode() if isinstance(body, str) else body
        self._send_head(status, content_type, len(content), {})
        if self.command != "HEAD":
            self.wfile.write(content)

    def _send_file(self, path: Path, content_type: str) -> None:
        num_bytes = path.stat().st_size
        try:
            byte_range = parse_range(self.headers.get("Range", ""), num_bytes)
        except ValueError:
            unsatisfied = {"Content-Range": f"bytes */{num_bytes}"}
            self._send_head(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, content_type, 0, unsatisfied)
            return
        headers = {"Accept-Ranges": "bytes"}
        status = HTTPStatus.OK
        if byte_range is None:
            byte_range = ByteRange(0, num_bytes)
        else:
            status = HTTPStatus.PARTIAL_CONTENT
            headers["Content-Range"] = f"bytes {byte_range.start}-{byte_range.stop - 1}/{num_bytes}"
        self._send_head(status, content_type, byte_range.stop - byte_range.start, headers)
        if self.command != "HEAD":
            self._copy(path, byte_range)

    def _send_head(
        self, status: HTTPStatus, content_type: str, num_bytes: int, headers: Mapping[str, str]
    ) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": content_type,
            "Content-Length": str(num_bytes),
            **headers,
        }.items():
            self.send_header(name, value)
        self.end_headers()

    def _copy(self, path: Path, byte_range: ByteRange) -> None:
        with path.open("rb") as file:
            file.seek(byte_range.start)
            left = byte_range.stop - byte_range.start
            while left > 0:
                chunk = file.read(min(left, _CHUNK_BYTES))
                self.wfile.write(chunk)
                left -= len(chunk)


def _title(file_name: str) -> str:
    return PurePosixPath(file_name).stem.replace("_", " ").capitalize()


def _page(title: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title></head>\n"
        f"<body><h1>{html.escape(title)}</h1>\n{body}\n</body></html>\n"
    )


def _video_page(title: str, paths: list[str]) -> str:
    return _page(title, "\n".join(f'<video controls src="{html.escape(path)}"></video>' for path in paths))


def _index(paths: list[str]) -> str:
    items = "\n".join(
        f'<li><a href="{html.escape(path)}">{html.escape(path)}</a></li>' for path in sorted(paths)
    )
    return _page("Demo films", f"<ul>\n{items}\n</ul>")


def _feed(base_url: str) -> str:
    items = "\n".join(
        f"<item><title>{html.escape(_title(name))}</title><guid>{base_url}/feed/{name}</guid>"
        f'<enclosure url="{base_url}/feed/{name}" type="video/mp4" length="0"/></item>'
        for name in FEED_FILES
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<rss version="2.0"><channel><title>Demo feed</title>'
        f"<link>{base_url}/</link><description>Four films</description>\n{items}\n</channel></rss>\n"
    )
