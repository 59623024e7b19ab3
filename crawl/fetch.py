"""A fetch job -> its media file in the store, and where it came from.

file:  copied            s3:  read by ranges          an address of a plain media file:  Http
any other http(s) address:  yt-dlp finds the streams; plain ones are read by Http, fragments by yt-dlp
"""

import errno
import hashlib
import math
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from crawl.blocklist import Blocklist
from crawl.formats import Stream, Video
from crawl.frontier import FetchJob
from crawl.items import SourceItem, local_path, video_key
from crawl.kinds import format_policy, licence_of
from crawl.object_url import is_object_url
from crawl.section import Section, SectionLimits, fetch_section, merge, sections_of
from crawl.sidecar import sidecar_of
from crawl.source_bucket import download_object
from crawl.source_web import is_plain_media
from crawl.store import StoredFile, copy_local, sha256_of, store
from crawl.web import Web
from infra.config import storable_text
from infra.errors import AvgenError, DiskFull, NotMedia, StorageUnavailable, TransientError
from infra.root import Root

_PART_NUM_HEX = 32
_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})
Span = tuple[float, float]
_WHOLE: Span = (0.0, math.inf)


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where a file came from and under which terms; every field is an empty text when unknown."""

    url: str
    """The canonical address that was asked for."""
    title: str = ""
    uploader: str = ""
    channel_id: str = ""
    """The site's id of the channel or uploader: what a takedown by channel names."""
    video_id: str = ""
    """The site's id of the video, as in `youtube:dQw4w9WgXcQ`."""
    licence: str = ""
    """What the page or sidecar says, else the default of the source kind."""
    extractor: str = ""
    """The yt-dlp extractor, or "file", "http", "object"."""
    format_id: str = ""
    """The format or formats that were chosen."""
    webpage_url: str = ""
    upload_date: str = ""
    """ISO 8601 date."""
    opt_out: str = ""
    """Signals against use for machine learning that the host sent, as in "X-Robots-Tag: noai"."""
    tool_versions: str = ""
    """What fetched it."""
    problem: str = ""
    """What could not be read of the metadata beside a local file."""
    fetched_at: str
    """ISO 8601, UTC, whole seconds."""

    def __post_init__(self) -> None:
        """Write lone surrogates (bytes of odd file names, broken titles) as escapes: tables hold Unicode."""
        for name in self.__dataclass_fields__:
            object.__setattr__(self, name, storable_text(getattr(self, name)))


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedMedia:
    """A file in the media store."""

    source_id: str
    media_key: str
    """Relative to the root: `media/<aa>/<sha256>.<ext>`."""
    sha256: str
    media_bytes: int
    media_start_s: float = 0.0
    """The time in the source at which the file begins; more than 0 when only a section was fetched."""
    provenance: Provenance
    is_new: bool = True
    """False for a file that an earlier run has fetched and recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Got:
    """A complete file that is not in the store yet."""

    path: Path
    provenance: Provenance
    is_whole: bool = True
    """Whether it is all of the video, which serves every span of it."""
    start_s: float = 0.0
    """The time in the source at which it begins."""
    sha256: str = ""
    """Empty: not known yet."""


class Fetcher:
    """Fetches jobs for one worker, from any number of threads at once."""

    def __init__(self, web: Web, *, root: Root | Path, ffmpeg: Path, blocklist: Blocklist) -> None:
        self._config = web.config
        self._root = Root.of(root)
        self._ffmpeg = ffmpeg
        self._limits = SectionLimits(
            timeout_s=web.config.timeout_s,
            stall_s=web.config.stall_timeout_s,
            max_bytes=web.config.max_bytes,
        )
        self._blocklist = blocklist
        self._cutters = threading.BoundedSemaphore(web.config.cutters)
        self._http, self._extractors = web.http, web.extractors

    def fetch(self, job: FetchJob, *, now: Callable[[], datetime]) -> list[FetchedMedia]:
        """Put the media of a job into the store: one record an item, in their order.

        What was read before a passing failure stays under `partial/` for the next attempt; otherwise nothing does.

        Raises:
            SourceUnavailable, MediaError: asking again will not help.
            TransientError: it may. Deferred: nothing was tried.
            ConfigError: yt-dlp does not start.
        """
        for item in job.items:
            self._blocklist.check_item(item)
        with _os_errors_named(job.url), self._part_dir(job) as part_dir:
            fetched_at = now().astimezone(UTC).isoformat(timespec="seconds")
            licence = licence_of(job.items[0].kind)
            origin = Provenance(url=job.url, licence=licence, fetched_at=fetched_at)
            media: list[FetchedMedia] = []
            for section in self._sections(job):
                got = self._get(job, section, part_dir, origin)
                stored = self._store(got)
                if got.is_whole:
                    return [_fetched(item, got, stored) for item in job.items]
                media += [_fetched(item, got, stored) for item in job.items if _is_within(item, section)]
        order = {item.source_id: index for index, item in enumerate(job.items)}
        return sorted(media, key=lambda fetched: order[fetched.source_id])

    # ---- one section of one video ----

    def _sections(self, job: FetchJob) -> tuple[Span, ...]:
        if not self._config.sections or not job.url.startswith("http"):
            return (_WHOLE,)
        spans = [(item.span_start_s, item.span_end_s) for item in job.items]
        return sections_of(spans, self._config.section_gap_s)

    def _get(self, job: FetchJob, section: Span, part_dir: Path, origin: Provenance) -> _Got:
        if job.url.startswith("file:"):
            return self._get_local(job, part_dir, origin)
        if is_object_url(job.url):
            return self._get_object(job, part_dir, origin)
        if is_plain_media(job.url):
            try:
                return self._get_plain(job, section, part_dir, origin)
            except NotMedia:
                # A page at an address that ends like a media file.
                pass
        return self._get_video(job, section, part_dir, origin)

    def _get_local(self, job: FetchJob, part_dir: Path, origin: Provenance) -> _Got:
        path = local_path(job.url)
        copy = part_dir / "copy"
        sha256 = copy_local(path, copy, max_bytes=self._config.max_bytes)
        known = asdict(sidecar_of(path))
        known["title"] = known["title"] or path.stem
        known["extractor"] = known["extractor"] or "file"
        known["licence"] = known["licence"] or origin.licence
        return _Got(path=copy, provenance=replace(origin, tool_versions=_tools(), **known), sha256=sha256)

    def _get_object(self, job: FetchJob, part_dir: Path, origin: Provenance) -> _Got:
        part = part_dir / "object"
        sha256 = download_object(job.url, part, self._config).sha256
        tools = _tools(f"botocore {version('botocore')}")
        known = replace(origin, title=_name_of(job.url), extractor="object", tool_versions=tools)
        return _Got(path=part, provenance=known, sha256=sha256)

    def _get_plain(self, job: FetchJob, section: Span, part_dir: Path, origin: Provenance) -> _Got:
        tools = _tools(f"urllib3 {version('urllib3')}")
        known = replace(
            origin, title=_name_of(job.url), extractor="http", webpage_url=job.url, tool_versions=tools
        )
        stream = Stream(
            url=job.url,
            protocol=job.url.partition(":")[0],
            ext="",
            format_id="",
            http_headers={},
            has_video=True,
            has_audio=True,
        )
        return self._read_streams((stream,), section, part_dir, known)

    def _get_video(self, job: FetchJob, section: Span, part_dir: Path, origin: Provenance) -> _Got:
        video = self._extractors.find(
            job.url,
            policy=format_policy(job.items[0].kind, self._config),
            span=section,
            out_dir=part_dir,
            ffmpeg=self._ffmpeg,
        )
        key = video_key(video.webpage_url or job.url) or f"{video.extractor}:{video.video_id}"
        self._blocklist.check_video(
            webpage_url=video.webpage_url,
            video_key=key,
            channel_id=video.channel_id,
            uploader=video.uploader,
            uploader_id=video.uploader_id,
        )
        known = _described(origin, video, key)
        if video.file:
            is_whole = (video.file_start_s, video.file_end_s) == _WHOLE
            path = part_dir / video.file
            return _Got(path=path, provenance=known, is_whole=is_whole, start_s=video.file_start_s)
        return self._read_streams(video.streams, section, part_dir, known)

    def _read_streams(
        self, streams: Sequence[Stream], section: Span, part_dir: Path, known: Provenance
    ) -> _Got:
        """The wanted part of the streams where their hosts give parts, else all of them, in one file."""
        if section != _WHOLE:
            start_s, end_s = section
            out = part_dir / "section"
            with self._cutters:
                cut = fetch_section(
                    streams, start_s=start_s, end_s=end_s, http=self._http, out=out, limits=self._limits
                )
            if isinstance(cut, Section):
                return _Got(path=cut.path, provenance=known, is_whole=False, start_s=cut.start_s)
        paths = [part_dir / f"stream{index}" for index in range(len(streams))]
        files = [
            self._http.download(stream.url, path, headers=stream.http_headers, chunk_bytes=stream.chunk_bytes)
            for stream, path in zip(streams, paths, strict=True)
        ]
        signs = sorted({sign for file in files for sign in file.opt_out})
        known = replace(known, opt_out="; ".join(signs))
        if len(files) == 1:
            return _Got(path=paths[0], provenance=known, sha256=files[0].sha256)
        with self._cutters:
            return _Got(path=merge(paths, out=part_dir / "merged", limits=self._limits), provenance=known)

    # ---- around it ----

    def _store(self, got: _Got) -> StoredFile:
        sha256 = got.sha256 or sha256_of(got.path)
        self._blocklist.check_bytes(sha256)
        return store(got.path, sha256=sha256, root=self._root)

    @contextmanager
    def _part_dir(self, job: FetchJob) -> Iterator[Path]:
        """The folder of what is read of a job. It stays when trying again may go on from it."""
        folder = self._root.partial_dir / part_name(job.url)
        folder.mkdir(parents=True, exist_ok=True)
        keep = False
        try:
            yield folder
        except AvgenError as err:
            keep = isinstance(err, TransientError)
            raise
        finally:
            if not keep or not any(folder.iterdir()):
                shutil.rmtree(folder, ignore_errors=True)


def part_name(url: str) -> str:
    """Name below `partial/` of the folder of what was read of an address."""
    return hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()[:_PART_NUM_HEX]


@contextmanager
def _os_errors_named(url: str) -> Iterator[None]:
    """Our own disks are at fault for an OSError that nothing below has named."""
    try:
        yield
    except OSError as err:
        if err.errno in _FULL_ERRNOS:
            raise DiskFull(f"the disk of the root must have room, got {err} ({url})") from err
        raise StorageUnavailable(f"the media store must be readable and writable, got {err} ({url})") from err


def _is_within(item: SourceItem, section: Span) -> bool:
    return section[0] <= item.span_start_s and item.span_end_s <= section[1]


def _fetched(item: SourceItem, got: _Got, stored: StoredFile) -> FetchedMedia:
    return FetchedMedia(
        source_id=item.source_id,
        media_key=stored.media_key,
        sha256=stored.sha256,
        media_bytes=stored.media_bytes,
        media_start_s=got.start_s,
        provenance=got.provenance,
    )


def _described(origin: Provenance, video: Video, key: str) -> Provenance:
    return replace(
        origin,
        title=video.title,
        uploader=video.uploader,
        channel_id=video.channel_id,
        video_id=key,
        licence=video.licence or origin.licence,
        extractor=video.extractor,
        format_id="+".join(stream.format_id for stream in video.streams),
        webpage_url=video.webpage_url,
        upload_date=video.upload_date,
        tool_versions=_tools(video.tool_version),
    )


def _name_of(url: str) -> str:
    """The file name in an address, without its suffix: the best title that there is."""
    return PurePosixPath(unquote(urlsplit(url).path)).stem


def _tools(*others: str) -> str:
    return ", ".join((f"avgen {version('avgen')}", *others))
