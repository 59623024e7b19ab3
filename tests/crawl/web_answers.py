"""What the fake web answers: from one request to the bytes of one answer, with every way to misbehave.

A path may begin with a segment of modifiers, `/~cut=1000,first=2/bytes/50000/a.mp4`; relative links keep it:

    latency=S     wait before the answer           first=K     status, cut, reset, stall: the first K requests only
    status=CODE   this instead of the file         after=S     Retry-After of that status
    cut=N         end after N bytes of the body    reset=N     the same with a TCP reset     stall=N   then silence
    drip=S        a byte every S seconds           endless     the body without an end
    ranges=no     no Range, no Accept-Ranges       length=no   no Content-Length              chunked   in chunks
    etag=weak|none|new   (new: another each time)  modified=no no Last-Modified               gzip      compressed
    lie=start|total|etag|short|long|shift|less|missing|unasked|416|html   about parts: shift and less are honestly
                  another part than was asked for; unasked is a 206 for a whole file
    farewell      after the answer, a 408 that nobody asked for, and the end of the connection
    hangup        no answer but the end on a connection that has had one
    missing=TEXT  404 for paths with TEXT          cookie=N:V  403 without this cookie        auth=U:P  401 without
    type=A:B      Content-Type A/B                 code=CODE   status of a redirect

`?h.NAME=VALUE` adds a header to the answer.
"""

import base64
import gzip
import hashlib
import json
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

if TYPE_CHECKING:
    from tests.crawl.web import Site

_TYPES = {
    ".mp4": "video/mp4",
    ".m3u8": "application/vnd.apple.mpegurl",
    ".ts": "video/mp2t",
    ".mpd": "application/dash+xml",
    ".m4s": "video/iso.segment",
}
_HTML = "text/html; charset=utf-8"
_BOT_CHECK = b"<!DOCTYPE html><title>Attention</title><p>Sign in to confirm you're not a bot."
_CHALLENGE = (
    b"<!DOCTYPE html><title>Just a moment...</title><script src='/cdn-cgi/challenge-platform/x.js'></script>"
)
_ALIASES = {
    "/drip.mp4": "/~drip=0.05/zeros/1000000/drip.mp4",
    "/truncated.mp4": "/~cut=1000/zeros/100000/truncated.mp4",
    "/endless.mp4": "/~endless,length=no/zeros/65536/endless.mp4",
    "/silent.mp4": "/~latency=20/zeros/1/silent.mp4",
    "/redirect.mp4": "/redirect/0/clip.mp4",
}


@dataclass(frozen=True, slots=True)
class Request:
    """One request as the server saw it."""

    time_s: float
    method: str
    path: str
    query: str
    peer: str
    headers: Mapping[str, str]

    @property
    def range(self) -> str:
        return self.headers.get("range", "")

    @property
    def user_agent(self) -> str:
        return self.headers.get("user-agent", "")

    @property
    def cookies(self) -> str:
        return self.headers.get("cookie", "")


@dataclass(frozen=True, slots=True)
class Answer:
    status: int = 200
    content_type: str = _HTML
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


def page(status: int, words: str = "no", **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, _HTML, f"<!DOCTYPE html><title>{words}</title>".encode(), named)


def modifiers_of(path: str) -> tuple[dict[str, str], str]:
    """The modifiers at the start of a path, and the path without them."""
    path = _ALIASES.get(path, path)
    if not path.startswith("/~"):
        return {}, path
    first, _, rest = path[2:].partition("/")
    pairs = (text.partition("=") for text in first.split(","))
    return {name: value or "yes" for name, _, value in pairs}, f"/{rest}"


def answer_to(request: Request, site: "Site") -> tuple[Answer, dict[str, str]]:
    """The answer, and the modifiers that say how it is sent."""
    mods, path = modifiers_of(request.path)
    if site.num_requests[request.path] > int(mods.get("first", 10**9)):
        mods = {
            name: value for name, value in mods.items() if name not in ("status", "cut", "reset", "stall")
        }
    answer = _guarded(request, mods, path) or _found(request, site, mods, path)
    if answer.status == 200:
        answer = _with_validators(answer, site, mods, path)
        answer = _ranged(answer, request, mods)
    extra = {name[2:]: value for name, value in parse_qsl(request.query) if name.startswith("h.")}
    return replace(answer, headers={**answer.headers, **extra}), mods


def _guarded(request: Request, mods: Mapping[str, str], path: str) -> Answer | None:
    """What the modifiers answer without looking at a file."""
    if "status" in mods:
        after = {"Retry_After": mods["after"]} if "after" in mods else {}
        return page(int(mods["status"]), **after)
    if mods.get("missing", "\0") in path:
        return page(404, "not found")
    if "cookie" in mods and mods["cookie"].replace(":", "=") not in request.cookies.split("; "):
        return page(403, "a cookie is needed")
    if "auth" in mods:
        expected = "Basic " + base64.b64encode(mods["auth"].encode()).decode()
        if request.headers.get("authorization") != expected:
            return page(401, "a password is needed", WWW_Authenticate='Basic realm="site"')
    return None


def _found(request: Request, site: "Site", mods: Mapping[str, str], path: str) -> Answer:
    if path in site.statuses:
        return page(site.statuses[path])
    if path in site.pages:
        return Answer(200, *site.pages[path])
    kind, _, rest = path[1:].partition("/")
    make = _MADE.get(kind)
    if make:
        answer = make(rest, request, site, mods)
    elif path == "/robots.txt" and site.robots:
        answer = Answer(200, "text/plain", site.robots.encode())
    else:
        answer = _file(site.folder / path.lstrip("/"))
    if "type" in mods:
        answer = replace(answer, content_type=mods["type"].replace(":", "/"))
    return answer


def _file(path: Path) -> Answer:
    if not path.is_file():
        return page(404, "not found")
    body, status = path.read_bytes(), path.stat()
    headers = {
        "ETag": f'"{status.st_mtime_ns:x}-{status.st_size:x}"',
        "Last-Modified": formatdate(status.st_mtime, usegmt=True),
    }
    return Answer(200, _TYPES.get(path.suffix, "application/octet-stream"), body, headers)


@lru_cache(maxsize=8)
def made_bytes(name: str, num_bytes: int, edition: int = 0) -> bytes:
    """The body of `/bytes/<num_bytes>/<name>`: noise that depends on all three."""
    return random.Random(f"{name} {num_bytes} {edition}").randbytes(num_bytes)


def _bytes(rest: str, request: Request, site: "Site", mods: Mapping[str, str]) -> Answer:
    size, _, name = rest.partition("/")
    body = made_bytes(name, int(size), site.editions[f"/bytes/{rest}"])
    return Answer(200, _TYPES.get(Path(name).suffix, "video/mp4"), body)


def _zeros(rest: str, request: Request, site: "Site", mods: Mapping[str, str]) -> Answer:
    return Answer(200, "video/mp4", bytes(int(rest.partition("/")[0])))


def _status(rest: str, request: Request, site: "Site", mods: Mapping[str, str]) -> Answer:
    return page(int(rest[:3]))


def _redirect(rest: str, request: Request, site: "Site", mods: Mapping[str, str]) -> Answer:
    """`/redirect/<n>/<rest>`: n more hops, then `/<rest>`."""
    num_hops, _, target = rest.partition("/")
    left = int(num_hops)
    location = f"/redirect/{left - 1}/{target}" if left else f"/{target}"
    return page(int(mods.get("code", 302)), Location=location)


def _to(rest: str, request: Request, site: "Site", mods: Mapping[str, str]) -> Answer:
    """`/to?url=...`: a redirect to anything."""
    return page(int(mods.get("code", 302)), Location=dict(parse_qsl(request.query))["url"])


def _loop(rest: str, request: Request, site: "Site", mods: Mapping[str, str]) -> Answer:
    return page(302, Location="/loop/b" if rest == "a" else "/loop/a")


def _feed(rest: str, request: Request, site: "Site", mods: Mapping[str, str]) -> Answer:
    """`/feed/<n>.xml`: RSS with n enclosures, `/bytes/1000/<k>.mp4`."""
    base = f"http://{request.headers['host']}"
    items = "".join(
        f"<item><title>Clip {k}</title><guid>{k}</guid>"
        f'<enclosure url="{base}/bytes/1000/{k}.mp4" length="1000" type="video/mp4"/></item>'
        for k in range(int(rest.partition(".")[0]))
    )
    rss = f'<?xml version="1.0"?><rss version="2.0"><channel><title>Feed</title>{items}</channel></rss>'
    return Answer(200, "application/rss+xml", rss.encode())


def _gallery(rest: str, request: Request, site: "Site", mods: Mapping[str, str]) -> Answer:
    """`/gallery/<n>.html`: a page with n videos, `/bytes/1000/<k>.mp4`."""
    names = (f"/bytes/1000/{k}.mp4" for k in range(int(rest.partition(".")[0])))
    videos = "".join(f'<video><source src="{name}" type="video/mp4"></video>' for name in names)
    return Answer(200, _HTML, f"<!DOCTYPE html><title>Gallery</title>{videos}".encode())


def _bot_check(rest: str, request: Request, site: "Site", mods: Mapping[str, str]) -> Answer:
    """`/bot-check/words` and `/bot-check/challenge`: 403 pages as YouTube and Cloudflare send them."""
    if rest.startswith("challenge"):
        return Answer(403, _HTML, _CHALLENGE, {"cf-mitigated": "challenge"})
    return Answer(403, _HTML, _BOT_CHECK)


def _log(rest: str, request: Request, site: "Site", mods: Mapping[str, str]) -> Answer:
    """`/log`: what the server saw, for a test in another process."""
    seen = {
        "num_requests": site.num_requests,
        "num_connections": site.num_connections,
        "peak": site.peak,
        "banned": sorted(site.banned),
        "requests": [[entry.time_s, entry.path, entry.range] for entry in site.log],
    }
    return Answer(200, "application/json", json.dumps(seen).encode())


_MADE = {
    "bytes": _bytes,
    "zeros": _zeros,
    "status": _status,
    "redirect": _redirect,
    "to": _to,
    "loop": _loop,
    "feed": _feed,
    "gallery": _gallery,
    "bot-check": _bot_check,
    "log": _log,
}


def _with_validators(answer: Answer, site: "Site", mods: Mapping[str, str], path: str) -> Answer:
    """The answer with ETag, Last-Modified, compression."""
    etag = f'"{hashlib.sha1(path.encode()).hexdigest()[:12]}-{site.editions[path]}"'
    headers = {"ETag": etag, "Last-Modified": formatdate(site.started_s - 9000, usegmt=True)}
    headers |= answer.headers
    if mods.get("etag") == "weak":
        headers["ETag"] = f"W/{headers['ETag']}"
    elif mods.get("etag") == "none":
        del headers["ETag"]
    elif mods.get("etag") == "new":
        headers["ETag"] = f'"{time.monotonic_ns()}"'
    if mods.get("modified") == "no":
        del headers["Last-Modified"]
    if "gzip" in mods:
        headers["Content-Encoding"] = "gzip"
        answer = replace(answer, body=gzip.compress(answer.body))
    return replace(answer, headers=headers)


def _ranged(answer: Answer, request: Request, mods: Mapping[str, str]) -> Answer:
    """The part that was asked for, or what a liar sends instead."""
    total, lie = len(answer.body), mods.get("lie", "")
    if mods.get("ranges") == "no":
        return answer
    headers = {**answer.headers, "Accept-Ranges": "bytes"}
    condition = request.headers.get("if-range", "")
    is_same = condition in ("", answer.headers.get("ETag"), answer.headers.get("Last-Modified"))
    if not (request.range.startswith("bytes=") and is_same) and lie != "unasked":
        return replace(answer, headers=headers)
    first_text, _, last_text = request.range.removeprefix("bytes=").partition("-")
    first = int(first_text or 0)
    last = min(int(last_text or total), total - 1)
    if first > last or lie == "416":
        return replace(page(416), headers={"Content-Range": f"bytes */{total}"})
    first, last = first + (lie == "shift"), last - (lie == "less")
    part = answer.body[first : last + 1]
    shown_first, shown_total = first + (lie == "start"), total + (lie == "total")
    if lie != "missing":
        headers["Content-Range"] = f"bytes {shown_first}-{last}/{shown_total}"
    if lie == "etag":
        headers["ETag"] = '"another"'
    part = {"short": part[:-1], "long": part + b"x", "html": b"<html>"}.get(lie, part)
    return replace(answer, status=206, body=part, headers=headers)


def head_of(answer: Answer, mods: Mapping[str, str], *, keep_alive: bool) -> bytes:
    """Status line and headers."""
    try:
        reason = HTTPStatus(answer.status).phrase
    except ValueError:
        reason = "Odd"
    headers = {"Content-Type": answer.content_type, "Date": formatdate(usegmt=True), **answer.headers}
    if "chunked" in mods:
        headers["Transfer-Encoding"] = "chunked"
    elif mods.get("length") != "no":
        headers.setdefault("Content-Length", str(len(answer.body)))
    if not keep_alive:
        headers["Connection"] = "close"
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {answer.status} {reason}\r\n{lines}\r\n".encode("latin-1")
