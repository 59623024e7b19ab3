"""Packets of one or two files -> one file, with their time stamps as they are. Runs in the remuxing child."""

import errno
import math
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from hashlib import sha256
from itertools import chain
from typing import NamedTuple

import av
from av.container import InputContainer, OutputContainer
from av.stream import Disposition

from infra.errors import DiskFull, MediaTooLarge, MissingStream, Undecodable
from infra.media.child import FORMAT_WHITELIST, PROTOCOL_WHITELIST
from infra.media.decoding import reason_of
from infra.media.packets import US_PER_S, to_us
from infra.media.range_file import RangeFile, WholeNeeded

CopiedStream = av.VideoStream | av.AudioStream

PREROLL_S, BLIND_PREROLL_S = 0.5, 30.0
"""How far before a span reader_child.py enters a file with an index, and one without."""
# Times survive in a file of the same kind: Matroska counts milliseconds, MP4 samples, MPEG-TS 90,000ths.
MP4, MATROSKA, MPEGTS = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "mpegts"
_MUXERS = {MP4: ("mp4", "mov"), MATROSKA: ("matroska",), MPEGTS: ("mpegts",)}
_LATE_US = US_PER_S  # Of what is joined as Matroska, which has no negative times. Priming takes less.
_MAX_TIMESCALE = 2**31 - 1  # Source: ffmpeg 8.1, libavformat/movenc.c, option movie_timescale.
_ORDER_PACKETS = 64  # More than a coder of pictures reorders, with the sound in between.
_TICK_PAUSE_S = 0.5
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Track:
    """A stream that is copied, and what was copied of it. Times are microseconds of the source."""

    def __init__(self, container: InputContainer, stream: CopiedStream) -> None:
        self.stream = stream
        self.time_base = stream.time_base or Fraction(1)  # PyAV makes a new one whenever it is asked.
        self.out_index = int(isinstance(stream, av.AudioStream))
        start, duration = stream.start_time, stream.duration
        self.start_us = (container.start_time or 0) if start is None else to_us(start, self.time_base)
        self.has_own_end = duration is not None
        if duration is not None:
            self.stated_end_us: float = self.start_us + to_us(duration, self.time_base)
        elif container.duration is not None:  # Matroska's counts from zero. Source: RFC 9559, section 5.1.2.
            late_us = 0 if container.format.name == MATROSKA else container.start_time or 0
            self.stated_end_us = container.duration + late_us
        else:
            self.stated_end_us = math.inf
        self.first_us, self.end_us = math.inf, -math.inf
        self.is_over = False
        """Whether it was read up to the end of the span."""


class Copied(NamedTuple):
    """A packet on its way, and when it is shown and decoded, in microseconds of the source."""

    packet: av.Packet
    track: Track
    pts_us: int
    dts_us: int


class Source:
    """An open file and the streams of it that are copied."""

    def __init__(self, container: InputContainer, streams: Sequence[CopiedStream]) -> None:
        self.container, self.format = container, container.format.name
        self.tracks = {stream.index: Track(container, stream) for stream in streams}

    def packets(self) -> Iterator[Copied]:
        """What is read from here on, up to what cannot be read; packets that tell no time are left out."""
        packets = self.container.demux(*(track.stream for track in self.tracks.values()))
        while True:
            tick()
            try:
                packet = next(packets)
            except av.MemoryError:
                raise
            except (StopIteration, av.FFmpegError):  # What is missing then shows in the length.
                return
            stamp = packet.pts if packet.dts is None else packet.dts
            if packet.size and stamp is not None:  # The empty ones at the end belong to no stream.
                track = self.tracks[packet.stream_index]
                packet.pts, packet.dts = stamp if packet.pts is None else packet.pts, stamp
                yield Copied(packet, track, to_us(packet.pts, track.time_base), to_us(stamp, track.time_base))

    def enter(self, start_s: float, origin_us: int) -> None:
        """Go where reader_child.py goes for a span, in a file with an index that begins at `origin_us`."""
        self.seek(round(max(0, start_s - PREROLL_S) * US_PER_S) + origin_us)

    def seek(self, time_us: int) -> None:
        """Go to the last key frame, or packet of sound, at or before a time."""
        try:
            self.container.seek(time_us)
        except av.MemoryError:
            raise
        except av.FFmpegError as err:
            raise WholeNeeded(f"a file must be searched by time, it cannot be: {reason_of(err)}") from err


def open_container(file: RangeFile | str) -> InputContainer:
    """The file; it cannot name others.

    Raises:
        Undecodable: it is no container that we take.
    """
    options = {"protocol_whitelist": PROTOCOL_WHITELIST, "format_whitelist": FORMAT_WHITELIST}
    try:
        return av.open(file, "r", container_options=options, metadata_errors="ignore")
    except av.MemoryError:
        raise
    except (av.FFmpegError, UnicodeError, ArithmeticError) as err:
        raise Undecodable(f"the header must be readable, got {reason_of(err)}") from err


def sources_of(containers: Sequence[InputContainer]) -> list[Source]:
    """What is copied: picture and sound of one file, or the picture of the first and the sound of the second.

    Raises:
        MissingStream: there is no picture, or no sound in a file that is there for it.
        WholeNeeded: a container that cannot be searched, or a codec that is not known.
    """
    for container in containers:
        if container.format.name not in _MUXERS:
            raise WholeNeeded(f"a container must have an index, {container.format.name} has none")
    videos, audios = containers[0].streams.video, containers[-1].streams.audio
    pictures = [stream for stream in videos if not stream.disposition & Disposition.attached_pic]
    if not pictures or (len(containers) > 1 and not audios):
        raise MissingStream("picture is required, and sound in a file that is there for it: there is none")
    streams: list[CopiedStream] = [pictures[0], *audios[:1]]
    if any(stream.codec_context is None for stream in streams):
        raise WholeNeeded("a codec must be known to be copied, one is not")
    if len(containers) == 1:
        return [Source(containers[0], streams)]
    return [Source(container, [stream]) for container, stream in zip(containers, streams, strict=True)]


def tracks_of(sources: Sequence[Source]) -> list[Track]:
    """The picture, and the sound if there is any."""
    return [track for source in sources for track in source.tracks.values()]


def zero_us(sources: Sequence[Source]) -> int:
    """Where the clock of the reader starts: at the earliest time stamp of picture and sound."""
    return min(track.start_us for track in tracks_of(sources))


def out_format(sources: Sequence[Source]) -> str:
    """The kind of container that keeps the times of one file, or takes two."""
    formats = {source.format for source in sources}
    return formats.pop() if len(formats) == 1 else MATROSKA


class Writer:
    """Writes packets into a new file: the same packets, the same bytes."""

    def __init__(self, path: str, sources: Sequence[Source], max_bytes: int) -> None:
        self.format = out_format(sources)
        self.shift_us = _LATE_US if len(sources) > 1 and self.format == MATROSKA else 0
        """By how much later things are than in the sources."""
        self.digests = {track.out_index: sha256() for track in tracks_of(sources)}
        """Of time stamps and sizes."""
        self.first_us: dict[int, int] = {}
        """Time stamps of the first packets."""
        self._path, self._tracks, self._num_free_bytes = path, tracks_of(sources), max_bytes
        self._container = self._begun()
        self._streams = list(self._container.streams)
        self._time_bases = [stream.time_base or Fraction(1) for stream in self._streams]
        if len(sources) == 1 and self._time_bases != [track.time_base for track in self._tracks]:
            raise WholeNeeded(f"times must stay as they are, {self.format} cannot keep them")

    def write(self, packets: Iterable[Copied]) -> None:
        """Write packets, and the end of the file. Raises: as `run`."""
        stamped = (self._stamped(copied) for copied in packets)
        try:
            for packet in in_order(stamped) if self.format == MATROSKA else stamped:
                self._container.mux_one(packet)
            self._container.close()
        except av.MemoryError:
            raise
        except av.FFmpegError as err:
            raise _write_error(err) from err

    def _begun(self) -> OutputContainer:
        for muxer in _MUXERS[self.format]:
            container = av.open(self._path, "w", format=muxer, options=self._options())
            try:
                for track in self._tracks:
                    container.add_stream_from_template(track.stream, opaque=True)
                container.start_encoding()
                return container
            except ValueError:  # PyAV's word for a codec that a container does not take.
                pass
            except av.FFmpegError as err:
                raise _write_error(err) from err
        raise WholeNeeded(f"{self.format} must take the codecs of picture and sound, it does not")

    def _options(self) -> dict[str, str]:
        """Nothing of today, nothing of this program; every time of a track can be told."""
        options = {"fflags": "+bitexact"}
        if self.format == MPEGTS:
            return options | {"mpegts_copyts": "1"}
        if self.format != MP4:
            return options
        picture_hz = self._tracks[0].time_base.denominator
        contexts = (track.stream.codec_context for track in self._tracks)
        rates_hz = [context.sample_rate for context in contexts if isinstance(context, av.AudioCodecContext)]
        timescale = math.lcm(picture_hz, *rates_hz)
        if not 0 < timescale <= _MAX_TIMESCALE:
            raise WholeNeeded(f"times must be told by one clock, got {picture_hz} and {rates_hz} Hz")
        return options | {
            "movie_timescale": str(timescale),
            "video_track_timescale": str(picture_hz),
            "use_editlist": "1",
        }

    def _stamped(self, copied: Copied) -> av.Packet:
        """The packet with the time stamps that it has in the new file."""
        packet, track = copied.packet, copied.track
        self._num_free_bytes -= packet.size
        if self._num_free_bytes < 0:
            raise MediaTooLarge("what is copied must not be larger than a file may be, it is")
        track.first_us = min(track.first_us, copied.pts_us)
        track.end_us = max(track.end_us, copied.pts_us + to_us(packet.duration or 0, track.time_base))
        time_base = self._time_bases[track.out_index]
        if self.shift_us or time_base != track.time_base:
            shift = Fraction(self.shift_us, US_PER_S)
            packet.pts, packet.dts, packet.duration = (
                math.floor((stamp * track.time_base + late) / time_base + Fraction(1, 2))
                for stamp, late in (
                    (packet.pts or 0, shift),
                    (packet.dts or 0, shift),
                    (packet.duration or 0, 0),
                )
            )
        packet.stream, packet.time_base = self._streams[track.out_index], time_base
        pts_us = to_us(packet.pts or 0, time_base)
        self.first_us.setdefault(track.out_index, pts_us)
        self.digests[track.out_index].update(seal(pts_us, packet.size))
        return packet


def in_order(packets: Iterable[av.Packet]) -> Iterator[av.Packet]:
    """Packets with times of decoding that keep their order in the file; Matroska stores no such times."""
    waiting: deque[av.Packet] = deque()
    for packet in chain(packets, [None] * _ORDER_PACKETS):
        if packet is not None:
            waiting.append(packet)
        if waiting and (packet is None or len(waiting) > _ORDER_PACKETS):
            waiting[0].dts = min(later.pts or 0 for later in waiting)
            yield waiting.popleft()


def seal(pts_us: int, num_bytes: int) -> bytes:
    """What tells a packet from others."""
    return f"{pts_us} {num_bytes}\n".encode()


def _write_error(err: av.FFmpegError) -> Exception:
    if err.errno in _FULL:
        return DiskFull(f"the scratch folder must have room for a section, got {reason_of(err)}")
    return WholeNeeded(f"the packets must fit in the container that they come from, got {reason_of(err)}")


class _Ticker:
    """Says that the child is at work, now and then."""

    def __init__(self) -> None:
        self._next_s = 0.0

    def __call__(self) -> None:
        if time.monotonic() > self._next_s:
            self._next_s = time.monotonic() + _TICK_PAUSE_S
            print(flush=True)


tick = _Ticker()
