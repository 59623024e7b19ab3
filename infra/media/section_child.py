"""The remuxing child: a span of a file that is read by byte ranges, or whole files, copied into one file.

Nothing is decoded. What is written holds the packets that reader_child.py would read for the span from the whole
file, in their order and with their time stamps, so both decode to the same frames and samples. It is read back and
compared before it counts.

A request comes as a JSON line on stdin, the answer goes as one to stdout. In between, lines on stdout ask for
bytes (`file`, `first`, `last`); on stdin come a JSON line (`num_bytes`, `total_bytes`) and the bytes. An empty
line on stdout says that work goes on. The other end is crawl/section.py.
"""

import heapq
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from hashlib import sha256
from itertools import chain, dropwhile, islice
from typing import Any

import av
from av.audio.codeccontext import AudioCodecContext
from av.video.codeccontext import VideoCodecContext
from av.video.plane import VideoPlane

from infra.errors import AvgenError, MediaTooLarge, TooShort, Truncated
from infra.media.decoding import reason_of
from infra.media.packets import US_PER_S
from infra.media.range_file import RangeFile, WholeNeeded
from infra.media.remux import (
    BLIND_PREROLL_S,
    MATROSKA,
    MP4,
    MPEGTS,
    PREROLL_S,
    Copied,
    Source,
    Track,
    Writer,
    open_container,
    out_format,
    seal,
    sources_of,
    tracks_of,
    zero_us,
)
from infra.units import BYTES_PER_MIB

Request = dict[str, Any]
Answer = dict[str, Any]

_SUFFIXES = {MP4: ".mp4", MATROSKA: ".mkv", MPEGTS: ".ts"}
_MAX_LEAD_US = 60 * US_PER_S  # Assumption, not measured: key frames are closer; an index is missing beyond.
_MAX_END_GAP_US = US_PER_S  # Assumption, not measured: a header and the last packet differ by less.
_MAX_SKEW_US = 10 * US_PER_S  # Assumption, not measured: a stream that is further behind has ended.
_SEARCH_BYTES = 16 * BYTES_PER_MIB  # Assumption, not measured: more than an index.
_SEARCH_RATIO, _MIN_SEARCH_BYTES = 1 / 8, 4 * BYTES_PER_MIB
"""Matroska without an index is read from its beginning; more than this share of a file is no search."""


class ParentGone(Exception):
    """Nobody is there any more who would answer."""


def cut(sources: Sequence[Source], files: Sequence[RangeFile], request: Request) -> Answer:
    """Copy a span; what the file covers then, in seconds from the zero of the sources.

    Raises:
        TooShort: the picture ends before the span.
        Truncated: packets are missing that the header tells of.
        MediaTooLarge: what is copied is more than may be.
        DiskFull: there is no room.
        WholeNeeded: the span cannot be copied exactly.
    """
    origin_us, picture = zero_us(sources), tracks_of(sources)[0]
    start_s, end_s = request["start_s"], request["end_s"]
    start_us = origin_us + round(start_s * US_PER_S)
    stop_us = math.inf if end_s is None else origin_us + round(end_s * US_PER_S)
    if picture.has_own_end and picture.stated_end_us <= start_us:
        raise _too_short(picture, start_us)
    is_head = start_s <= PREROLL_S
    if out_format(sources) == MPEGTS:  # The reader enters it by a search that ends elsewhere in a copy.
        is_head = end_s is not None and end_s <= BLIND_PREROLL_S
        if not is_head:
            raise WholeNeeded(f"a container must have an index, {MPEGTS} has none")
    writer = Writer(request["out"], sources, request["max_bytes"])
    for file, source in zip(files, sources, strict=True):
        file.budget_bytes = _search_bytes(source, file)
    head = None if is_head else next(_pictures(sources[0]), None)
    packets = _all(sources) if is_head else _entered(sources, start_s)
    found = list(islice(packets, 1))
    for file in files:
        file.budget_bytes = math.inf
    writer.write(_within(chain(found, packets), sources, span_us=(start_us, stop_us)))
    require_ends(sources, stop_us)
    if picture.end_us <= start_us:
        raise _too_short(picture, start_us)
    require_same(_copy(request), writer, origin_us)
    section_us = zero_us([_copy(request)]) - writer.shift_us - origin_us
    if head:
        require_own_key(head.packet, sources[0], _copy(request))
        require_same_start(request, writer, start_s - section_us / US_PER_S)
    return {
        "start_s": section_us / US_PER_S,
        "end_s": (picture.end_us - origin_us) / US_PER_S,
        "suffix": _SUFFIXES[writer.format],
    }


def merge(sources: Sequence[Source], request: Request) -> Answer:
    """Copy all of the sources into one file. Raises: as `cut`."""
    writer = Writer(request["out"], sources, request["max_bytes"])
    writer.write(_within(_all(sources), sources, span_us=(-math.inf, math.inf)))
    require_ends(sources, math.inf)
    require_same(_copy(request), writer, zero_us(sources))
    return {"suffix": _SUFFIXES[writer.format]}


def require_ends(sources: Sequence[Source], stop_us: float) -> None:
    """Raise `Truncated` when a stream was not read to the end of the span nor to its own end."""
    tracks = tracks_of(sources)
    end_us = max(track.end_us for track in tracks)
    for track in tracks:
        must_us = min(stop_us, track.stated_end_us)
        is_us = track.end_us if track.has_own_end else end_us  # One end is stated for both then.
        if not track.is_over and must_us < math.inf and is_us < must_us - _MAX_END_GAP_US:
            raise Truncated(
                f"{track.stream.type} must go on to {must_us / US_PER_S:.3f} s as the header says,"
                f" it ends at {is_us / US_PER_S:.3f} s"
            )


def require_same(copy: Source, writer: Writer, origin_us: int) -> None:
    """Raise `WholeNeeded` unless the copy holds what was written, and shows it."""
    digests = {index: sha256() for index in writer.digests}
    for copied in copy.packets():
        index = copied.track.out_index
        digests[index].update(seal(copied.pts_us, copied.packet.size))
        if copied.packet.is_discard and copied.pts_us >= max(
            writer.first_us[index], origin_us + writer.shift_us
        ):
            raise WholeNeeded("the copy must show all that the file shows, it does not")
    for index, digest in writer.digests.items():
        if digest.digest() != digests[index].digest():
            raise WholeNeeded(f"the copy must hold the packets that were written, stream {index} does not")


def require_own_key(head: av.Packet, source: Source, copy: Source) -> None:
    """Raise `WholeNeeded` when the copy's first key frame looks different to a decoder that saw the source's.

    Decoders remember what only a first packet says: parameter sets, or the coder whose mistakes are to be made.
    """
    key = next(_pictures(copy), None)
    if key is None or not key.packet.is_keyframe:
        return
    context = source.tracks[head.stream_index].stream.codec_context
    own_context = key.track.stream.codec_context
    assert isinstance(context, VideoCodecContext) and isinstance(own_context, VideoCodecContext)
    context.decode(head)
    context.flush_buffers()
    if _looks(context, key.packet) != _looks(own_context, key.packet):
        raise WholeNeeded("a key frame must decode by itself, it needs what came before")


def require_same_start(request: Request, writer: Writer, start_s: float) -> None:
    """Raise `WholeNeeded` unless the reader hears the same in the copy as in the source.

    Wherever it enters the picture, the frames are the same. The state of a decoder of sound, and where its samples
    are put, depends on the first packet.
    """
    entered = _entered([_copy(request)], start_s)
    first = next((copied for copied in entered if copied.track.out_index), None)
    if first is None or first.pts_us == writer.first_us[1]:
        return
    copy = _copy(request)
    start_us = zero_us([copy]) + round(start_s * US_PER_S)
    times, digest = _heard(copy.packets(), start_us)
    late_times, late_digest = _heard(_entered([_copy(request)], start_s), start_us)
    num_before = sum(num_samples for pts_s, num_samples in times if pts_s < late_times[0][0])
    context = first.track.stream.codec_context
    assert isinstance(context, AudioCodecContext)
    if (late_times[0][0] - times[0][0]) * context.sample_rate != num_before or digest != late_digest:
        raise WholeNeeded("the copy must sound as the file does, it does not")


def _pictures(source: Source) -> Iterator[Copied]:
    return (copied for copied in source.packets() if not copied.track.out_index)


def _looks(context: VideoCodecContext, packet: av.Packet) -> list[bytes]:
    """Hashes of the planes that a packet decodes to by itself."""
    frames = [*context.decode(packet), *context.decode(None)]
    return [sha256(_rows(frame, plane)).digest() for frame in frames for plane in frame.planes]


def _rows(frame: av.VideoFrame, plane: VideoPlane) -> bytes:
    """A plane without what fills up its lines."""
    num_bytes = plane.width * -(-frame.format.components[0].bits // 8)
    lines = memoryview(plane)
    starts = range(0, plane.height * plane.line_size, plane.line_size)
    return b"".join(lines[start : start + num_bytes] for start in starts)


def _heard(packets: Iterable[Copied], start_us: int) -> tuple[list[tuple[Fraction, int]], bytes]:
    """When frames of sound begin and how many samples they have; a hash of what is heard from a time on."""
    times: list[tuple[Fraction, int]] = []
    digest = sha256()
    for copied in packets:
        context = copied.track.stream.codec_context
        for frame in context.decode(copied.packet) if isinstance(context, AudioCodecContext) else ():
            times.append(((frame.pts or 0) * copied.track.time_base, frame.samples))
            if times[-1][0] * US_PER_S >= start_us:
                num_channels = 1 if frame.format.is_planar else frame.layout.nb_channels
                for plane in frame.planes:
                    digest.update(memoryview(plane)[: frame.samples * frame.format.bytes * num_channels])
    return times, digest.digest()


def _copy(request: Request) -> Source:
    """What was written, opened again."""
    return sources_of([open_container(f"file:{request['out']}")])[0]


def _within(
    packets: Iterable[Copied], sources: Sequence[Source], span_us: tuple[float, float]
) -> Iterator[Copied]:
    """Those of the packets that are decoded for a span, as packets.py has it."""
    (start_us, stop_us), origin_us, tracks = span_us, zero_us(sources), tracks_of(sources)
    for copied in packets:
        track, dts_us = copied.track, copied.dts_us
        if track is tracks[0] and track.first_us == math.inf:
            _require_near(copied, start_us)
        if copied.packet.is_discard and copied.pts_us >= origin_us:
            raise WholeNeeded("an edit list must only hide a beginning, it hides more")
        track.is_over = track.is_over or dts_us >= stop_us
        if not track.is_over:
            yield copied
        elif all(track.is_over for track in tracks) or dts_us > stop_us + _MAX_SKEW_US:
            return


def _require_near(first: Copied, start_us: float) -> None:
    is_behind = first.pts_us > max(start_us, first.track.start_us)
    if is_behind or first.dts_us < start_us - _MAX_LEAD_US:
        raise WholeNeeded(
            f"the key frame before {start_us / US_PER_S:.3f} s must be found, got {first.pts_us / US_PER_S:.3f} s"
        )


def _search_bytes(source: Source, file: RangeFile) -> float:
    if source.format != MATROSKA:
        return _SEARCH_BYTES
    return min(_SEARCH_BYTES, max(_MIN_SEARCH_BYTES, _SEARCH_RATIO * file.total_bytes))


def _all(sources: Sequence[Source]) -> Iterator[Copied]:
    """The packets of one file, or of two as they lie in one that was merged from them."""
    return heapq.merge(*(source.packets() for source in sources), key=_place(out_format(sources)))


def _entered(sources: Sequence[Source], start_s: float) -> Iterator[Copied]:
    """What the reader reads for a span: of a file, or of what two would be if they were merged."""
    picture, sound = sources[0], sources[-1]
    is_one = len(sources) == 1
    picture.enter(start_s, (picture.container.start_time or 0) if is_one else zero_us(sources))
    if is_one:
        return picture.packets()
    pictures = picture.packets()
    first = next(pictures, None)
    if first is None:
        return iter(())
    sound.seek(first.dts_us)
    place = _place(out_format(sources))
    if out_format(sources) == MATROSKA:  # It is read on from the key frame.
        sounds: Iterator[Copied] = dropwhile(lambda copied: place(copied) < place(first), sound.packets())
    else:
        sounds = _from_last(sound.packets(), first.dts_us)
    return heapq.merge(chain([first], pictures), sounds, key=place)


def _place(format: str) -> Callable[[Copied], tuple[int, int]]:
    """Where packets lie among those of another file: by their time in the container that they go into."""
    tick_us = 1000 if format == MATROSKA else 1
    return lambda copied: ((copied.dts_us + tick_us // 2) // tick_us, copied.track.out_index)


def _from_last(packets: Iterator[Copied], time_us: int) -> Iterator[Copied]:
    """Packets from the last one on that begins at or before a time, to the nearest tick, as MP4 is searched."""
    last = next(packets, None)
    for copied in packets:
        assert last is not None
        if copied.dts_us > time_us + copied.track.time_base * US_PER_S / 2:
            return chain([last, copied], packets)
        last = copied
    return iter([last] if last else [])


def _too_short(picture: Track, start_us: int) -> TooShort:
    end_us = max(picture.end_us, picture.stated_end_us)
    return TooShort(
        f"a picture must go on beyond the start of the span at {start_us / US_PER_S:.3f} s,"
        f" it ends at {end_us / US_PER_S:.3f} s"
    )


def _ask(file: int, first: int, last: int) -> tuple[bytes, int]:
    """Bytes of one of the parent's files, and its length."""
    print(json.dumps({"file": file, "first": first, "last": last}), flush=True)
    line = sys.stdin.buffer.readline()
    if not line:
        raise ParentGone
    answer = json.loads(line)
    found = sys.stdin.buffer.read(answer["num_bytes"])
    if len(found) < answer["num_bytes"]:
        raise ParentGone
    return found, answer["total_bytes"]


def _work(request: Request) -> Answer:
    if request["do"] == "merge":
        return merge(sources_of([open_container(f"file:{path}") for path in request["paths"]]), request)
    files = [RangeFile(partial(_ask, index)) for index in range(request["num_files"])]
    return cut(sources_of([open_container(file) for file in files]), files, request)


def answer(request: Request) -> Answer:
    """What the file covers, why the whole is needed, or the code and message of the error that it ends in."""
    try:
        return _work(request)
    except WholeNeeded as err:
        return {"whole": str(err)}
    except AvgenError as err:
        return {"code": err.code, "message": str(err)}
    except MemoryError as err:
        message = f"a media child must fit in its memory limit, got {err}"
        return {"code": MediaTooLarge.code, "message": message}
    except av.FFmpegError as err:
        return {"whole": f"a file must be read in parts without errors, got {reason_of(err)}"}


def main() -> None:
    """Answer one request."""
    av.logging.set_level(av.logging.PANIC)
    line = sys.stdin.buffer.readline()
    if line:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
