"""What files beside a local media file say about it: yt-dlp's `.info.json`, Kodi's and Jellyfin's `.nfo`.

Beside `Film.mkv` these are read, and each fills what those before it left open:

1. `Film.info.json`
2. `Film.nfo`, or, where there is none and `Film.mkv` is the only media file of its folder, `movie.nfo`
3. `tvshow.nfo` of its folder or of the one above: the studio of a series

A sidecar that cannot be read costs what it would have said, never the video: `Sidecar.problem` says so. They are
written by others: they are read up to a size, only regular files, and of XML only one element, without a document
type, so that there are no entities to expand.
"""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path
from urllib.parse import urlsplit
from xml.etree import ElementTree

from crawl.source_dir import is_media_name
from infra.config import storable_text

# A file with many comments is larger, and is said to be. Assumption, not measured.
_INFO_MAX_BYTES = 16 * 1024**2
_NFO_MAX_BYTES = 1024**2
_TEXT_MAX_CHARS = 1000
_BLANKS = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")
_ROOT = re.compile(r"<(movie|episodedetails|musicvideo|tvshow)[\s>]")
_LONE_URL = re.compile(r"\s*(https?://\S+)\s*")
_COMPACT_DATE = re.compile(r"(\d{4})(\d\d)(\d\d)")
# Pages of the ids of `uniqueid`. Source: Kodi wiki, "NFO files/Movies"; an id of another form is no id.
_PAGES = {
    "imdb": (re.compile(r"tt\d+"), "https://www.imdb.com/title/{}/"),
    "tmdb": (re.compile(r"\d+"), "https://www.themoviedb.org/movie/{}"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """What the sidecars of one file say; every field is an empty text where they say nothing."""

    title: str = ""
    uploader: str = ""
    """The channel, the studio, or the artist of a music video."""
    channel_id: str = ""
    """The site's id of the channel or uploader."""
    licence: str = ""
    upload_date: str = ""
    """ISO 8601 date: of the upload, else of the first showing."""
    webpage_url: str = ""
    """An http(s) address without credentials."""
    extractor: str = ""
    """The yt-dlp extractor that fetched the file."""
    problem: str = ""
    """Why a sidecar could not be read, one line."""


def sidecar_of(path: Path) -> Sidecar:
    """What the files beside the media file `path` say. Raises nothing because of what they hold."""
    read = [
        _read(path.with_suffix(".info.json"), _of_info, _INFO_MAX_BYTES),
        _read(_nfo_of(path), _of_nfo, _NFO_MAX_BYTES),
        *(_read(folder / "tvshow.nfo", _of_show, _NFO_MAX_BYTES) for folder in path.parents[:2]),
    ]
    said = {field.name: _first(getattr(sidecar, field.name) for sidecar in read) for field in fields(Sidecar)}
    problems = (sidecar.problem for sidecar in read if sidecar.problem)
    return Sidecar(**said | {"problem": "; ".join(problems)})


def _nfo_of(path: Path) -> Path:
    own, shared = path.with_suffix(".nfo"), path.with_name("movie.nfo")
    if own.exists() or not shared.exists():
        return own
    return shared if sum(is_media_name(other.name) for other in path.parent.iterdir()) == 1 else own


def _read(path: Path, parse: Callable[[bytes], Sidecar], max_bytes: int) -> Sidecar:
    try:
        if not path.is_file():
            return Sidecar()
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise ValueError(f"more than {max_bytes} bytes")
        return parse(content)
    except (OSError, ValueError, RecursionError, ElementTree.ParseError) as err:
        return Sidecar(problem=_one_line(f"a sidecar must be readable, got {path}: {err}"))


def _of_info(content: bytes) -> Sidecar:
    info = json.loads(content)
    if not isinstance(info, dict):
        raise ValueError(f"no object but {type(info).__name__}")

    def first(*names: str) -> str:
        return _first(_text(info.get(name)) for name in names)

    return Sidecar(
        title=first("title", "fulltitle"),
        uploader=first("uploader", "channel", "creator"),
        channel_id=first("channel_id", "uploader_id"),
        licence=first("license"),
        upload_date=_first(_iso_date(first(name)) for name in ("upload_date", "release_date")),
        webpage_url=_first(_web_url(first(name)) for name in ("webpage_url", "original_url")),
        extractor=first("extractor"),
    )


def _of_nfo(content: bytes) -> Sidecar:
    text = _decoded(content)
    lone_url = _LONE_URL.fullmatch(text)  # What a scraper shall look up, written instead of its findings.
    if lone_url:
        return Sidecar(webpage_url=_web_url(lone_url[1]))
    root = _element(text)
    return Sidecar(
        title=_texts(root, "title"),
        uploader=_texts(root, "studio") or _texts(root, "artist"),
        upload_date=_first(_iso_date(_texts(root, name)) for name in ("premiered", "aired", "releasedate")),
        webpage_url=_page(root),
    )


def _of_show(content: bytes) -> Sidecar:
    return Sidecar(uploader=_texts(_element(_decoded(content)), "studio"))


def _decoded(content: bytes) -> str:
    is_utf16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    return content.decode("utf-16" if is_utf16 else "utf-8-sig")


def _element(text: str) -> ElementTree.Element:
    """The first element that is about a video, alone: a file may go on with further episodes or an address."""
    start = _ROOT.search(text)
    if start is None:
        raise ValueError("no <movie>, <episodedetails>, <musicvideo> or <tvshow>")
    end_tag = f"</{start[1]}>"
    end = text.find(end_tag, start.start())
    if end < 0:
        raise ValueError(f"no {end_tag}")
    # No document type can come with the element, so every entity in it is undefined and nothing is expanded.
    return ElementTree.fromstring(text[start.start() : end + len(end_tag)])


def _texts(root: ElementTree.Element, name: str) -> str:
    """What the children of this name hold, none of them twice."""
    return ", ".join(dict.fromkeys(filter(None, (_text(child.text) for child in root.findall(name)))))


def _page(root: ElementTree.Element) -> str:
    """The page of the best id of the video that has one; ids of a series or an episode at TMDB have none."""
    ids = sorted(root.findall("uniqueid"), key=lambda element: element.get("default") != "true")
    for element in ids:
        site, number = element.get("type", ""), _text(element.text)
        if site in _PAGES and (site == "imdb" or root.tag == "movie"):
            form, page = _PAGES[site]
            if form.fullmatch(number):
                return page.format(number)
    return ""


def _first(texts: Iterable[str]) -> str:
    return next((text for text in texts if text), "")


def _text(value: object) -> str:
    """A text or number as a short line; anything else is no text."""
    return _one_line(str(value)) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _one_line(text: str) -> str:
    return storable_text(_BLANKS.sub(" ", text).strip()[:_TEXT_MAX_CHARS])


def _iso_date(text: str) -> str:
    try:
        return date.fromisoformat(_COMPACT_DATE.sub(r"\1-\2-\3", text[:10])).isoformat()
    except ValueError:
        return ""


def _web_url(text: str) -> str:
    """An address that may be stored and shown: no other scheme, no credentials."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return ""
    return text if parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc else ""
