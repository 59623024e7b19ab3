"""Download of HLS and DASH fragments by yt-dlp, so that it can be resumed, and one file of them by ffmpeg."""

import contextlib
import hashlib
import json
import math
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yt_dlp.downloader.dash import DashSegmentsFD
from yt_dlp.downloader.fragment import FragmentFD
from yt_dlp.downloader.hls import HlsFD
from yt_dlp.networking.common import Request

from crawl.formats import Info, Span
from crawl.fragments import Cut, cut_dash, cut_playlist, require_finished
from crawl.ytdlp_hooks import Downloader
from infra.errors import ExtractorBug, FormatMissing, TooLarge, Undecodable

_NAME_NUM_HEX = 16
_HLS = frozenset({"m3u8", "m3u8_native"})
# Containers that fragments come in. Others are not tried: a playlist among them could name any file.
_CONTAINERS = "mov,mpegts,matroska,webm,aac,mp3,ac3,eac3"
_MP4_EXTS = frozenset({"mp4", "m4a", "ts", "aac", "mp3"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragments:
    """Fragments that were joined to one file."""

    path: Path
    start_s: float
    end_s: float


def download_fragments(
    ydl: Downloader, formats: Sequence[Info], *, span: Span, out_dir: Path, ffmpeg: Path, max_bytes: int
) -> Fragments:
    """Download what covers `span` of the formats, one or video and audio, and put it into one file.

    Complete fragments that an earlier call left in `out_dir` are not asked for again.

    Raises:
        TooShort: the video ends before the span begins.
        NotMedia, FormatMissing: it is live; it is encrypted for good.
        Undecodable: the fragments are no media.
        SourceUnavailable, TransientError: what the host says.
    """
    parts = [_download(ydl, chosen, span=span, out_dir=out_dir, max_bytes=max_bytes) for chosen in formats]
    start_s = min(part.start_s for part in parts)
    is_mp4 = all(chosen.get("ext") in _MP4_EXTS for chosen in formats)
    joined = out_dir / ("media.mp4" if is_mp4 else "media.mkv")
    _join(parts, joined, start_s=start_s, ffmpeg=ffmpeg)
    for part in parts:
        part.path.unlink()
    return Fragments(path=joined, start_s=start_s, end_s=min(part.end_s for part in parts))


def _download(ydl: Downloader, chosen: Info, *, span: Span, out_dir: Path, max_bytes: int) -> Fragments:
    info = dict(chosen)
    cut = _cut_hls(ydl, info, span) if info["protocol"] in _HLS else _cut_dash(info, span)
    name = f"{info['format_id']} {cut}"
    path = out_dir / f"fragments-{hashlib.sha256(name.encode()).hexdigest()[:_NAME_NUM_HEX]}"

    def check_bytes(progress: Mapping[str, Any]) -> None:
        num_bytes = progress.get("downloaded_bytes") or 0
        if num_bytes > max_bytes:
            raise TooLarge(
                f"a source must have at most {max_bytes} bytes, got {num_bytes} or more ({info['url']})"
            )

    downloader = (_Hls if info["protocol"] in _HLS else _Dash)(ydl, ydl.params)
    downloader.add_progress_hook(check_bytes)
    is_complete, _ = downloader.download(str(path), info)
    if not is_complete:
        raise ExtractorBug(
            f"yt-dlp must download all fragments or say why not, it did neither ({info['url']})"
        )
    if cut is None:
        return Fragments(path=path, start_s=0.0, end_s=math.inf)
    return Fragments(path=path, start_s=cut.start_s, end_s=cut.end_s)


def _cut_hls(ydl: Downloader, info: dict[str, Any], span: Span) -> Cut | None:
    """Put the playlist of what is wanted into `info`, which yt-dlp then takes instead of asking for it."""
    text = info.get("hls_media_playlist_data")
    if not text:
        response = ydl.urlopen(Request(info["url"], headers=info.get("http_headers") or {}))
        info["url"] = response.url
        text = response.read().decode("utf-8", "replace")
    require_finished(text, info["url"])
    if not HlsFD.can_download(text, info):
        raise FormatMissing(f"a stream must not be encrypted for good, this is ({info['url']})")
    info["hls_media_playlist_data"], cut = (
        cut_playlist(text, span) if info.get("format_index") is None else (text, None)
    )
    return cut


def _cut_dash(info: dict[str, Any], span: Span) -> Cut | None:
    info["fragments"], cut = cut_dash(list(info["fragments"]), span)
    return cut


class _Resumable(FragmentFD):
    """An append that a kill cut short is undone before the next fragment is appended.

    yt-dlp notes the number of fragments after it has appended one, and not how long the file was. Killed between
    the two, or while it appends, it would append a fragment twice, or behind the half of one.
    """

    def _prepare_frag_download(self, ctx: dict[str, Any]) -> None:
        _rewind(Path(self.temp_name(ctx["filename"])), Path(self.ytdl_filename(ctx["filename"])))
        super()._prepare_frag_download(ctx)

    def _append_fragment(self, ctx: dict[str, Any], frag_content: bytes) -> None:
        ctx.setdefault("extra_state", {})["num_bytes"] = ctx["dest_stream"].tell() + len(frag_content)
        super()._append_fragment(ctx, frag_content)


class _Hls(_Resumable, HlsFD):
    pass


class _Dash(_Resumable, DashSegmentsFD):
    pass


def _rewind(part: Path, notes: Path) -> None:
    """Cut the file back to its last complete fragment; without notes of that, begin anew."""
    for fragment in part.parent.glob(f"{part.name}-Frag*"):
        fragment.unlink()
    try:
        num_bytes = int(json.loads(notes.read_text())["downloader"]["extra_state"]["num_bytes"])
        if part.stat().st_size < num_bytes:
            raise ValueError("less than was noted")
    except (OSError, ValueError, KeyError, TypeError):
        part.unlink(missing_ok=True)
        notes.unlink(missing_ok=True)
        return
    with part.open("rb+") as file:
        file.truncate(num_bytes)


def _join(parts: Sequence[Fragments], joined: Path, *, start_s: float, ffmpeg: Path) -> None:
    """Copy the packets of the parts into one file, which begins at `start_s` of the source.

    Raises:
        Undecodable: the parts are no media.
    """
    inputs: list[str] = []
    for part in parts:
        inputs += ["-itsoffset", f"{part.start_s - start_s:.6f}", "-protocol_whitelist", "file"]
        inputs += ["-format_whitelist", _CONTAINERS, "-i", f"file:{part.path}"]
    maps = ["-map", "0:v:0", "-map", "1:a:0" if len(parts) > 1 else "0:a:0?"]
    command = [str(ffmpeg), "-nostdin", "-v", "error", "-y", *inputs, *maps, "-c", "copy", f"file:{joined}"]
    with contextlib.chdir(joined.parent):
        done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode != 0:
        said = " ".join(done.stderr.decode("utf-8", "replace").split())[-300:]
        raise Undecodable(f"fragments must be media that ffmpeg copies, it says: {said or done.returncode}")
