"""Entry point of the yt-dlp process: JSON lines on stdin and stdout.

In come tasks, `find` and `entries` (see crawl/ytdlp.py), and answers to `turn`. Out go `ready` once, and for each
task any number of `turn`, `said` and `entry`, one `found` for a find, and at its end `done` or `failed` with the
code of an error class.
"""

import io
import json
import os
import queue
import resource
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import yt_dlp
from yt_dlp.utils import unsmuggle_url

from crawl.classify import classify
from crawl.formats import (
    FRAGMENTS,
    Info,
    check_bytes,
    check_video,
    choose_streams,
    is_part,
    stream_of,
    upload_date,
)
from crawl.policy import FetchConfig, FormatPolicy
from crawl.ytdlp_fragments import download_fragments
from crawl.ytdlp_hooks import Downloader, Gate, install
from infra.errors import AvgenError, BotCheck, ExtractorBug, NotMedia, RateLimited

# A page or manifest that does not fit is an attack or a mistake. Assumption, not measured.
_MEMORY_BYTES = 4 * 1024**3
# A channel lists tabs, a tab lists videos; nothing known nests deeper.
_MAX_LIST_DEPTH = 3
_MAX_REDIRECTS = 5
_NO_SITES = ("generic", "html5")
_LISTS = ("playlist", "multi_video", "compat_list")
_LINKS = ("url", "url_transparent")

Reply = dict[str, object]


def main() -> None:
    """Do tasks until stdin ends, then end this process and all that it started."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever else prints must not end up among the replies
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    tasks: queue.SimpleQueue[str] = queue.SimpleQueue()
    answers: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read_lines, args=(tasks, answers), daemon=True).start()
    send = partial(_send, replies)
    gate = Gate(send, answers)
    worker = _Worker(gate)
    send({"reply": "ready"})
    while True:
        for reply in _answer(worker, gate, json.loads(tasks.get())):
            send(reply)


def _send(replies: Any, reply: Mapping[str, object]) -> None:
    replies.write(json.dumps(reply) + "\n")
    replies.flush()


def _read_lines(tasks: "queue.SimpleQueue[str]", answers: "queue.SimpleQueue[str]") -> None:
    for line in sys.stdin:
        (tasks if line.startswith('{"task"') else answers).put(line)
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(0)


def _answer(worker: "_Worker", gate: Gate, task: Mapping[str, Any]) -> Iterator[Reply]:
    failure: AvgenError | None = None
    try:
        yield from worker.replies(task)
    except Exception as err:  # noqa: BLE001 - extractors raise anything; each kind is named by classify
        failure = classify(err)
    failure = gate.refusal or failure
    if isinstance(failure, BotCheck | RateLimited) and failure is not gate.refusal:
        gate.note(failure.code, str(failure))
    gate.end_turn()
    if failure:
        until_s = getattr(failure, "until_s", 0.0)
        yield {"reply": "failed", "code": failure.code, "message": str(failure), "until_s": until_s}
    else:
        yield {"reply": "done"}


class _Silence:
    """A yt-dlp logger that says nothing: errors are raised, and the rest is for terminals."""

    def debug(self, message: str) -> None:
        """Drop it."""

    info = warning = error = debug


class _Worker:
    """Does tasks with one YoutubeDL, which costs more to build than most tasks, until its parameters change."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._built_from: object = None
        self._ydl: Downloader

    def replies(self, task: Mapping[str, Any]) -> Iterator[Reply]:
        """What a task yields."""
        config = FetchConfig.model_validate(task["config"])
        ydl = self._downloader(config, dict(task["parameters"]))
        if task["task"] == "entries":
            yield from _listing(ydl, self._gate, task["url"], task["first_index"])
        else:
            yield {"reply": "found", "video": _find(ydl, self._gate, task, config)}

    def _downloader(self, config: FetchConfig, parameters: dict[str, Any]) -> Downloader:
        proxy_url = parameters.pop("proxy", "")
        self._gate.begin(proxy_url=proxy_url, allow_private=config.allow_private)
        if self._built_from != (config, parameters):
            install(self._gate, config)
            self._built_from = config, dict(parameters)
            self._ydl = Downloader(_parameters(config) | _with_cookie_file(parameters), self._gate)
        self._ydl.begin()
        return self._ydl


def _with_cookie_file(parameters: dict[str, Any]) -> dict[str, Any]:
    """yt-dlp rewrites a cookie file that is a path, so it gets text."""
    if "cookiefile" in parameters:
        parameters["cookiefile"] = io.StringIO(parameters["cookiefile"])
    return parameters


def _parameters(config: FetchConfig) -> dict[str, Any]:
    return {
        "quiet": True,
        "no_warnings": True,
        "noprogress": True,
        "logger": _Silence(),
        "color": "never",
        "cachedir": False,
        "noplaylist": True,
        "extract_flat": "in_playlist",
        "playlist_items": "1:2",
        # The formats are chosen afterwards; yt-dlp must only not refuse them.
        "format": lambda context: context["formats"][-1:],
        "allow_unplayable_formats": False,
        "enable_file_urls": False,
        # An invented X-Forwarded-For header would pretend to be elsewhere.
        "geo_bypass": False,
        "proxy": "",
        "http_headers": {"User-Agent": config.agent()},
        "socket_timeout": config.stall_timeout_s,
        "extractor_retries": config.num_reconnects,
        "retries": config.num_reconnects,
        "fragment_retries": config.num_reconnects,
        "skip_unavailable_fragments": False,
        "hls_prefer_native": True,
        "updatetime": False,
    }


# ---- find ----


def _find(ydl: Downloader, gate: Gate, task: Mapping[str, Any], config: FetchConfig) -> Reply:
    """The fields of `Video`; fragments are in `out_dir` afterwards."""
    url = task["url"]
    span = (task["start_s"], task["end_s"])
    policy = FormatPolicy.model_validate(task["policy"])
    info = _single_video(ydl, url)
    check_video(info, policy, [span])
    chosen = choose_streams(info.get("formats") or [info], policy)
    if not is_part([span]):
        check_bytes(chosen, max_bytes=config.max_bytes, subject=url)
    jar = ydl.cookiejar
    streams = [stream_of(known, cookie=jar.get_cookie_header(known["url"]) or "") for known in chosen]
    video = _description(info) | {"streams": [_fields(stream) for stream in streams]}
    if chosen[0]["protocol"] in FRAGMENTS:
        gate.is_media = True
        file = download_fragments(
            ydl,
            [{**info, **known} for known in chosen],
            span=span,
            out_dir=Path(task["out_dir"]),
            ffmpeg=Path(task["ffmpeg"]),
            max_bytes=config.max_bytes,
        )
        video |= {"file": file.path.name, "file_start_s": file.start_s, "file_end_s": file.end_s}
    return video


def _fields(record: Any) -> Reply:
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


def _single_video(ydl: Downloader, url: str) -> Info:
    """The one video that an address stands for, also when it is a list of one."""
    address, ie_key = url, None
    for _ in range(_MAX_LIST_DEPTH):
        info = ydl.extract_info(address, download=False, ie_key=ie_key)
        if info is None:
            raise ExtractorBug(f"the extractor must return something, got nothing ({url})")
        if info.get("_type", "video") == "video":
            return dict(info)
        entries = [entry for entry in info.get("entries") or () if entry]
        if len(entries) != 1:
            found = "more than one" if entries else "none"
            raise NotMedia(f"the address must hold one video, it lists {found}; give it as a source ({url})")
        if entries[0].get("_type", "video") == "video":
            return {**entries[0], **_about(info)}
        address, ie_key = entries[0]["url"], entries[0].get("ie_key")
    raise NotMedia(f"the address must hold one video, it holds lists within lists ({url})")


def _about(info: Info) -> Info:
    """What a list of one says of its video."""
    return {name: info[name] for name in ("title", "webpage_url", "extractor") if info.get(name)}


def _description(info: Info) -> Reply:
    """What yt-dlp knows of the video, under the field names of `Video`; unknown is an empty text."""
    # Where no site is known, the date is that of the file on its server.
    uploaded = None if info.get("extractor") in _NO_SITES else upload_date(info)
    return {
        "webpage_url": str(info.get("webpage_url") or ""),
        "video_id": str(info.get("id") or ""),
        "extractor": str(info.get("extractor") or ""),
        "title": str(info.get("title") or ""),
        "uploader": str(info.get("uploader") or info.get("channel") or ""),
        "uploader_id": str(info.get("uploader_id") or info.get("channel_id") or ""),
        "channel_id": str(info.get("channel_id") or info.get("uploader_id") or ""),
        "licence": str(info.get("license") or ""),
        "upload_date": str(uploaded or ""),
        "duration_s": float(info.get("duration") or 0),
        "tool_version": f"yt-dlp {yt_dlp.version.__version__}",
    }


# ---- entries ----


def _listing(ydl: Downloader, gate: Gate, url: str, first_index: int) -> Iterator[Reply]:
    for index, (address, kind) in enumerate(_entries(ydl, url, _MAX_LIST_DEPTH)):
        if index >= first_index:
            gate.end_turn()
            yield {"reply": "entry", "index": index, "url": address, "kind": kind}


def _entries(ydl: Downloader, url: str, depth: int, ie_key: str | None = None) -> Iterator[tuple[str, str]]:
    """Address and kind of what is behind `url`; lists within lists are opened down to `depth`."""
    result = _open(ydl, url, ie_key)
    if result.get("_type", "video") not in _LISTS:
        yield unsmuggle_url(result.get("webpage_url") or url)[0], "video"
        return
    for entry in result.get("entries") or ():
        if not entry:
            continue
        if entry.get("_type", "video") not in _LINKS:
            yield _embedded(ydl, entry, page_url=url)
        elif not _is_list(ydl, entry):
            yield unsmuggle_url(entry["url"])[0], "video"
        elif depth > 1:
            yield from _entries(ydl, entry["url"], depth - 1, entry.get("ie_key"))
        else:
            yield unsmuggle_url(entry["url"])[0], "list"


def _open(ydl: Downloader, url: str, ie_key: str | None) -> Info:
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


def _embedded(ydl: Downloader, entry: Info, *, page_url: str) -> tuple[str, str]:
    """The address of a video that a page shows: its own page if it has one, else its manifest or file."""
    if entry.get("webpage_url") not in (None, page_url):
        return str(entry["webpage_url"]), "video"
    chosen = ydl.process_ie_result({"id": "embedded", "title": "embedded", **entry}, download=False)
    return str(chosen.get("manifest_url") or chosen["url"]), "file"


if __name__ == "__main__":
    main()
