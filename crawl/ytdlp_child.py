"""Entry point of the yt-dlp process: a JSON request a line on stdin, JSON replies on stdout.

Requests are `list` and `fetch` (see crawl/ytdlp.py). Replies: `ready` once; then for each request any number
of `entry`, one `fetched` for a fetch, and at its end `done` or `failed` with the code of an error class.
"""

import contextlib
import datetime
import io
import json
import os
import queue
import resource
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yt_dlp
from yt_dlp.extractor import gen_extractor_classes
from yt_dlp.utils import is_html, unsmuggle_url

from crawl.classify import classify
from crawl.policy import FetchConfig
from infra.errors import ExtractorBug, NotMedia, TooLarge

# A page or manifest that does not fit is an attack or a mistake. Assumption, not measured.
_MEMORY_BYTES = 4 * 1024**3
# A channel lists tabs, a tab lists videos; nothing known nests deeper.
_MAX_LIST_DEPTH = 3
_MAX_REDIRECTS = 5
_SNIFF_BYTES = 512

Reply = dict[str, str]
# What yt-dlp calls an info dict; its keys differ by site.
Info = Mapping[str, Any]


def main() -> None:
    """Answer requests until stdin ends, then end this process and all that it started."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever else prints must not end up among the replies
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read_requests, args=(requests,), daemon=True).start()
    _send(replies, {"reply": "ready"})
    while True:
        for reply in _answer(json.loads(requests.get())):
            _send(replies, reply)


def _send(replies: Any, reply: Reply) -> None:
    replies.write(json.dumps(reply) + "\n")
    replies.flush()


def _read_requests(requests: "queue.SimpleQueue[str]") -> None:
    for line in sys.stdin:
        requests.put(line)
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(0)


def _answer(request: Mapping[str, Any]) -> Iterator[Reply]:
    try:
        config = FetchConfig.model_validate(request["config"])
        if request["task"] == "list":
            with _Downloader(_parameters(config)) as ydl:
                yield from (
                    {"reply": "entry", "url": url} for url in _entries(ydl, request["url"], _MAX_LIST_DEPTH)
                )
        else:
            # The name template is relative: yt-dlp would expand `~` and `$` in a folder's name.
            with contextlib.chdir(request["out_dir"]):
                yield {"reply": "fetched", **_fetch(request["url"], request["ffmpeg"], config)}
    except Exception as err:  # noqa: BLE001 - extractors raise anything; each kind is named by classify
        named = classify(err)
        yield {"reply": "failed", "code": named.code, "message": str(named)}
    else:
        yield {"reply": "done"}


class _Downloader(yt_dlp.YoutubeDL):
    """YoutubeDL that remembers which addresses were served as HTML."""

    def __init__(self, parameters: dict[str, Any]) -> None:
        self.html_urls: set[str] = set()
        super().__init__(parameters)

    def add_default_info_extractors(self) -> None:
        """Register the extractors that are on by default.

        The inherited method also matches their names against options that are not used here, which is 52 of
        the 133 ms of a small fetch (measured with cProfile, 2026-11-23).
        """
        for extractor in gen_extractor_classes():
            if extractor._ENABLED:
                self.add_info_extractor(extractor)

    def urlopen(self, req: Any) -> Any:
        response = super().urlopen(req)
        if response.headers.get("Content-Type", "").lower().startswith("text/html"):
            self.html_urls.add(response.url)
        return response


class _Silence:
    """A yt-dlp logger that says nothing: errors are raised, and the rest is for terminals."""

    def debug(self, message: str) -> None:
        """Drop it."""

    info = warning = error = debug


def _parameters(config: FetchConfig) -> dict[str, Any]:
    parameters: dict[str, Any] = {
        "quiet": True,
        "no_warnings": True,
        "noprogress": True,
        "logger": _Silence(),
        "color": "never",
        "cachedir": False,
        "noplaylist": True,
        "socket_timeout": config.stall_timeout_s,
        "extractor_retries": config.num_retries,
        "sleep_interval_requests": config.request_pause_s,
    }
    if config.user_agent:
        parameters["http_headers"] = {"User-Agent": config.user_agent}
    if config.proxy:
        parameters["proxy"] = config.proxy
    if config.cookies_path is not None:
        # Text, not a path: yt-dlp rewrites the cookie file that it is given.
        parameters["cookiefile"] = io.StringIO(config.cookies_path.read_text())
    return parameters


# ---- list ----


def _entries(ydl: _Downloader, url: str, depth: int, ie_key: str | None = None) -> Iterator[str]:
    """Addresses of the videos behind `url`; lists within lists are opened down to `depth`."""
    result = _open(ydl, url, ie_key)
    if result.get("_type", "video") not in ("playlist", "multi_video", "compat_list"):
        yield unsmuggle_url(result.get("webpage_url") or url)[0]
        return
    for entry in result.get("entries") or ():
        if not entry:
            continue
        if entry.get("_type", "video") not in ("url", "url_transparent"):
            yield _address_of_embedded(ydl, entry, page_url=url)
        elif depth > 1 and _is_list(ydl, entry):
            yield from _entries(ydl, entry["url"], depth - 1, entry.get("ie_key"))
        else:
            yield unsmuggle_url(entry["url"])[0]


def _open(ydl: _Downloader, url: str, ie_key: str | None) -> Info:
    """What the extractor says of an address, redirects between extractors followed."""
    for _ in range(_MAX_REDIRECTS):
        result = ydl.extract_info(url, download=False, process=False, ie_key=ie_key)
        if result is None:
            raise ExtractorBug(f"the extractor must return something, got nothing ({url})")
        if result.get("_type") not in ("url", "url_transparent"):
            return dict(result)
        url, ie_key = result["url"], result.get("ie_key")
    raise ExtractorBug(f"an address must lead somewhere within {_MAX_REDIRECTS} redirects ({url})")


def _is_list(ydl: _Downloader, entry: Info) -> bool:
    ie_key = entry.get("ie_key")
    return bool(ie_key) and ydl.get_info_extractor(ie_key).is_single_video(entry["url"]) is False


def _address_of_embedded(ydl: _Downloader, entry: Info, *, page_url: str) -> str:
    """The address of a video that a page shows: its own page if it has one, else its manifest or file."""
    if entry.get("webpage_url") not in (None, page_url):
        return str(entry["webpage_url"])
    chosen = ydl.process_ie_result({"id": "embedded", "title": "embedded", **entry}, download=False)
    best = (chosen.get("requested_formats") or [chosen])[0]
    return str(best.get("manifest_url") or best["url"])


# ---- fetch ----


def _fetch(url: str, ffmpeg: str, config: FetchConfig) -> Reply:
    """Download one video into the working directory."""
    with _Downloader(_parameters(config) | _fetch_parameters(ffmpeg, config)) as ydl:
        info = _single_video(ydl.extract_info(url, download=False), url)
        _require_media(ydl, info, url)
        result = ydl.process_ie_result(info, download=True)
        path = _only_file(result, url)
        _require_media(ydl, info, url)
    if path.stat().st_size > config.max_bytes:
        raise TooLarge(
            f"a source must have at most {config.max_bytes} bytes, got {path.stat().st_size} ({url})"
        )
    with path.open("rb") as file:
        if is_html(file.read(_SNIFF_BYTES)):
            raise NotMedia(f"the address must hold media, it holds an HTML page ({url})")
    return {"file": path.name, **_description(result)}


def _fetch_parameters(ffmpeg: str, config: FetchConfig) -> dict[str, Any]:
    def check_size(progress: Mapping[str, Any]) -> None:
        num_bytes = max(progress.get("downloaded_bytes") or 0, progress.get("total_bytes") or 0)
        if num_bytes > config.max_bytes:
            raise TooLarge(f"a source must have at most {config.max_bytes} bytes, got {num_bytes} or more")

    return {
        "format": config.format_selector(),
        "outtmpl": "media.%(ext)s",
        "overwrites": True,
        "updatetime": False,
        "retries": config.num_retries,
        "fragment_retries": config.num_retries,
        "skip_unavailable_fragments": False,
        "hls_prefer_native": True,
        "allow_unplayable_formats": False,
        "enable_file_urls": False,
        "playlist_items": "1:2",
        "ffmpeg_location": ffmpeg,
        "progress_hooks": [check_size],
    }


def _single_video(info: Info | None, url: str) -> dict[str, Any]:
    """The one video that an address stands for, also when it is a list of one."""
    if info is not None and info.get("_type", "video") != "video":
        entries = [entry for entry in info.get("entries") or () if entry]
        if len(entries) != 1:
            found = "more than one" if entries else "none"
            raise NotMedia(f"the address must hold one video, it lists {found}; give it as a source ({url})")
        info = entries[0]
    if info is None:
        raise ExtractorBug(f"the extractor must return something, got nothing ({url})")
    return dict(info)


def _require_media(ydl: _Downloader, info: Info, url: str) -> None:
    if info.get("is_live") or info.get("live_status") in ("is_live", "is_upcoming"):
        raise NotMedia(f"the address must hold a finished video, it is a live stream ({url})")
    if info.get("url") in ydl.html_urls:
        raise NotMedia(f"the address must hold media, the server says text/html ({url})")


def _only_file(result: Info, url: str) -> Path:
    downloads: Iterable[Info] = result.get("requested_downloads") or ()
    paths = [Path(download["filepath"]) for download in downloads]
    if len(paths) != 1 or not paths[0].is_file():
        raise ExtractorBug(f"yt-dlp must leave one file, it left {len(paths)} ({url})")
    return paths[0]


def _description(result: Info) -> Reply:
    """What yt-dlp knows of the video, under the field names of `Provenance`; unknown is an empty text."""
    date = str(result.get("upload_date") or "")
    return {
        "title": str(result.get("title") or ""),
        "uploader": str(result.get("uploader") or result.get("channel") or ""),
        "channel_id": str(result.get("channel_id") or result.get("uploader_id") or ""),
        "licence": str(result.get("license") or ""),
        "extractor": str(result.get("extractor") or ""),
        "format_id": str(result.get("format_id") or ""),
        "webpage_url": str(result.get("webpage_url") or ""),
        "upload_date": str(datetime.date.fromisoformat(date)) if date else "",
    }


if __name__ == "__main__":
    main()
