"""Entry point of the yt-dlp process: a JSON request a line on stdin, JSON replies on stdout.

Requests are `list` and `find` (see crawl/ytdlp.py). Replies: `ready` once; then for each request any number of
`entry`, one `video` for a find, and at its end `done` or `failed` with the code of an error class. In between,
`turn` asks for the turn at a host, which is answered on stdin, and `said` reports what the host answered.
"""

import contextlib
import json
import os
import queue
import resource
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from yt_dlp.utils import is_html, unsmuggle_url
from yt_dlp.version import __version__ as ytdlp_version

from crawl.classify import classify
from crawl.formats import (
    FILES,
    check_bytes,
    check_video,
    choose_streams,
    stream_of,
    upload_date,
)
from crawl.fragments import cut_fragments
from crawl.policy import FetchConfig, FormatPolicy
from crawl.ytdlp_hooks import Downloader, Host, guard_network, load_plugins
from infra.errors import Deferred, ExtractorBug, NotMedia, TooLarge

# A page or manifest that does not fit is an attack or a mistake. Assumption, not measured.
_MEMORY_BYTES = 4 * 1024**3
# A channel lists tabs, a tab lists videos; nothing known nests deeper.
_MAX_LIST_DEPTH = 3
_MAX_REDIRECTS = 5
_SNIFF_BYTES = 512
_NO_SITES = ("generic", "html5")
_LISTS = ("playlist", "multi_video", "compat_list")
_LINKS = ("url", "url_transparent")

Reply = dict[str, Any]
# What yt-dlp calls an info dict; its keys differ by site.
Info = Mapping[str, Any]


def main() -> None:
    """Answer requests until stdin ends, then end this process and all that it started."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever else prints must not end up among the replies
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))

    def send(reply: Reply) -> None:
        replies.write(json.dumps(reply) + "\n")
        replies.flush()

    requests: queue.SimpleQueue[Reply] = queue.SimpleQueue()
    answers: queue.SimpleQueue[Reply] = queue.SimpleQueue()
    threading.Thread(target=_read_lines, args=(requests, answers), daemon=True).start()
    child = _Answerer(Host(send, answers.get))
    send({"reply": "ready"})
    while True:
        for reply in child.answer(requests.get()):
            send(reply)


def _read_lines(requests: "queue.SimpleQueue[Reply]", answers: "queue.SimpleQueue[Reply]") -> None:
    for line in sys.stdin:
        message = json.loads(line)
        (requests if "task" in message else answers).put(message)
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(0)


class _Answerer:
    """Answers requests, one after the other, with one downloader for all that have the same settings."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._settings: tuple[str, ...] = ()
        self._downloader: Downloader | None = None

    def answer(self, request: Mapping[str, Any]) -> Iterator[Reply]:
        try:
            config = FetchConfig.model_validate(request["config"])
            guard_network(allow_private=config.allow_private)
            ydl = self._downloader_of(config, request["identity"])
            if request["task"] == "list":
                found = islice(_entries(ydl, request["url"], _MAX_LIST_DEPTH), request["first_index"], None)
                for index, (url, kind) in enumerate(found, start=request["first_index"]):
                    yield {"reply": "entry", "index": index, "url": url, "kind": kind}
            else:
                # The name template is relative: yt-dlp would expand `~` and `$` in a folder's name.
                with contextlib.chdir(request["out_dir"]):
                    yield {"reply": "video", **_find(ydl, request, config)}
        except Exception as err:  # noqa: BLE001 - extractors raise anything; each kind is named by classify
            self._downloader = None
            named = classify(err)
            until_s = named.until_s if isinstance(named, Deferred) else 0.0
            yield {"reply": "failed", "code": named.code, "message": str(named), "until_s": until_s}
        else:
            yield {"reply": "done"}

    def _downloader_of(self, config: FetchConfig, identity: Mapping[str, Any]) -> Downloader:
        """The downloader of the request before when nothing has changed: to make one costs 70 ms of CPU."""
        settings = (config.model_dump_json(), json.dumps(identity, sort_keys=True))
        if not self._settings:
            load_plugins(config)
        if self._downloader is None or settings != self._settings:
            self._downloader = Downloader(config, identity, self._host)
            self._settings = settings
        self._downloader.begin()
        return self._downloader


# ---- list ----


def _entries(ydl: Downloader, url: str, depth: int, ie_key: str | None = None) -> Iterator[tuple[str, str]]:
    """Address and kind of the videos behind `url`; lists within lists are opened down to `depth`."""
    result = _open(ydl, url, ie_key)
    if result.get("_type", "video") not in _LISTS:
        yield unsmuggle_url(result.get("webpage_url") or url)[0], "video"
        return
    for entry in result.get("entries") or ():
        if not entry:
            continue
        if entry.get("_type", "video") not in _LINKS:
            yield _address_of_embedded(ydl, entry, page_url=url), "file"
        elif not _is_list(ydl, entry):
            yield unsmuggle_url(entry["url"])[0], "video"
        elif depth > 1:
            yield from _entries(ydl, entry["url"], depth - 1, entry.get("ie_key"))
        else:
            yield unsmuggle_url(entry["url"])[0], "list"


def _open(ydl: Downloader, url: str, ie_key: str | None = None) -> Info:
    """What the extractor says of an address, redirects between extractors followed."""
    for _ in range(_MAX_REDIRECTS):
        result = ydl.extract_info(url, download=False, process=False, ie_key=ie_key)
        if result is None:
            raise ExtractorBug(f"the extractor must return something, got nothing ({url})")
        if result.get("_type") not in _LINKS:
            return dict(result)
        url, ie_key = result["url"], result.get("ie_key")
    raise ExtractorBug(f"an address must lead somewhere within {_MAX_REDIRECTS} redirects ({url})")


def _is_list(ydl: Downloader, entry: Info) -> bool:
    ie_key = entry.get("ie_key")
    return bool(ie_key) and ydl.get_info_extractor(ie_key).is_single_video(entry["url"]) is False


def _address_of_embedded(ydl: Downloader, entry: Info, *, page_url: str) -> str:
    """The address of a video that a page shows: its own page if it has one, else its manifest or file."""
    if entry.get("webpage_url") not in (None, page_url):
        return str(entry["webpage_url"])
    ydl.choose = None
    chosen = ydl.process_ie_result({"id": "embedded", "title": "embedded", **entry}, download=False)
    best = (chosen.get("requested_formats") or [chosen])[0]
    return str(best.get("manifest_url") or best["url"])


# ---- find ----


def _find(ydl: Downloader, request: Mapping[str, Any], config: FetchConfig) -> Reply:
    """The video behind an address; its fragments, if it has any, are downloaded into the working directory."""
    url = request["url"]
    policy = FormatPolicy.model_validate(request["policy"])
    span = (request["start_s"], float("inf") if request["end_s"] is None else request["end_s"])
    ydl.choose = lambda formats: choose_streams(formats, policy)
    raw = _single_video(ydl.extract_info(url, download=False, process=False), url)
    if raw.get("_type", "video") == "video":
        check_video(raw, policy, [span])
    info = _single_video(ydl.process_ie_result(raw, download=False), url)
    check_video(info, policy, [span])
    formats = info.get("requested_formats") or [info]
    check_bytes(formats, max_bytes=config.max_bytes, subject=url)
    ydl.require_no_page(info, url)
    streams = [stream_of(chosen, cookie=ydl.cookies_for(chosen["url"])) for chosen in formats]
    described = _description(info) | {"streams": [_as_json(stream) for stream in streams]}
    if all(stream.protocol in FILES for stream in streams):
        return described | {"file": "", "file_start_s": 0.0, "file_end_s": None}
    return described | _downloaded(ydl, info, url, span=span, request=request, config=config)


def _downloaded(
    ydl: Downloader,
    info: dict[str, Any],
    url: str,
    *,
    span: tuple[float, float],
    request: Mapping[str, Any],
    config: FetchConfig,
) -> Reply:
    """Download the fragments that overlap the span, or all where the manifest does not say which these are."""
    start_s, end_s = cut_fragments(info.get("requested_formats") or [info], span, read=ydl.read_text)
    ydl.begin_download(ffmpeg=request["ffmpeg"], max_bytes=config.max_bytes)
    ydl.process_info(info)
    paths = [Path(download["filepath"]) for download in info.get("requested_downloads") or ()]
    path = paths[0] if paths else Path(info.get("filepath") or info.get("_filename") or "")
    if not path.is_file():
        raise ExtractorBug(f"yt-dlp must leave one file, it left none ({url})")
    if path.stat().st_size > config.max_bytes:
        raise TooLarge(
            f"a source must have at most {config.max_bytes} bytes, got {path.stat().st_size} ({url})"
        )
    with path.open("rb") as file:
        if is_html(file.read(_SNIFF_BYTES)):
            raise NotMedia(f"the address must hold media, it holds an HTML page ({url})")
    return {
        "file": path.name,
        "file_start_s": start_s,
        "file_end_s": None if end_s == float("inf") else end_s,
    }


def _single_video(info: Info | None, url: str) -> dict[str, Any]:
    """The one video that an address stands for, also when it is a list of one."""
    if info is not None and info.get("_type", "video") in _LISTS:
        entries = [entry for entry in islice(info.get("entries") or (), 2) if entry]
        if len(entries) != 1:
            found = "more than one" if entries else "none"
            raise NotMedia(f"the address must hold one video, it lists {found}; give it as a source ({url})")
        info = {"id": "embedded", "title": "embedded", "webpage_url": url, **_about(info), **entries[0]}
    if info is None:
        raise ExtractorBug(f"the extractor must return something, got nothing ({url})")
    return dict(info)


def _about(info: Info) -> Info:
    """What a list of one says of its video."""
    return {name: info[name] for name in ("title", "extractor", "extractor_key") if info.get(name)}


def _as_json(stream: Any) -> Reply:
    return {name: getattr(stream, name) for name in stream.__dataclass_fields__}


def _description(info: Info) -> Reply:
    """What yt-dlp knows of the video, under the field names of `Video`; unknown is an empty text."""
    # Where no site is known, the date is that of the file on its server.
    uploaded = None if info.get("extractor") in _NO_SITES else upload_date(info)
    texts: Iterable[tuple[str, tuple[str, ...]]] = (
        ("title", ("title",)),
        ("uploader", ("uploader", "channel")),
        ("uploader_id", ("uploader_id", "channel_id")),
        ("channel_id", ("channel_id", "uploader_id")),
        ("licence", ("license",)),
        ("extractor", ("extractor",)),
        ("video_id", ("id",)),
        ("webpage_url", ("webpage_url",)),
    )
    found: Reply = {
        field: next((str(info[name]) for name in names if info.get(name)), "") for field, names in texts
    }
    return found | {
        "upload_date": str(uploaded) if uploaded else "",
        "duration_s": float(info.get("duration") or 0),
        "tool_version": f"yt-dlp {ytdlp_version}",
    }


if __name__ == "__main__":
    main()
