"""The packets of a file's picture and sound, read once, on one clock: microseconds since the span's start.

Runs in the reading child. Zero is the earliest time stamp of the two streams plus the start of the span.
"""

import bisect
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import av
from av.container import InputContainer

from infra.errors import MediaTooLarge

US_PER_S = 1_000_000
_JUMPY_FLAG = 0x0200  # AVFMT_TS_DISCONT, ffmpeg libavformat/avformat.h: time stamps may start anew.
_JUMP_US = 10 * US_PER_S  # Source: ffmpeg 9, fftools, -dts_delta_threshold.
_MANY_TIMES = 4096


@dataclass(frozen=True, slots=True)
class Timed:
    """A packet with its place in time; a time that the container does not tell is none."""

    packet: av.Packet
    pts_us: int | None
    dts_us: int | None


def to_us(stamp: int, time_base: Fraction) -> int:
    """A time stamp in whole microseconds, the nearest."""
    scaled = stamp * time_base.numerator * US_PER_S
    return (2 * scaled + time_base.denominator) // (2 * time_base.denominator)


class Packets:
    """Reads packets of two streams and holds those that nobody has taken yet, one queue a stream."""

    def __init__(
        self,
        container: InputContainer,
        streams: tuple[av.VideoStream, av.AudioStream],
        *,
        span_us: tuple[int, float],
        max_held_bytes: int,
        tick: Callable[[], None],
    ) -> None:
        """Arguments: the span in the file's time; what may be held of both streams; what to call as we go."""
        start_us, stop_us = span_us
        self.origin_us = _earliest_us(container, streams) + start_us
        """The clock's zero in the file's own time stamps."""
        self.stop_us = stop_us - start_us
        """Where the span ends."""
        self._tick = tick
        self._packets = container.demux(*streams)
        self._is_over = False
        self._num_held_bytes, self._max_held_bytes = 0, max_held_bytes
        self._is_jumpy, self._jump_us = bool(container.format.flags & _JUMPY_FLAG), 0
        self._video_index = streams[0].index
        self._frame_us = round(US_PER_S / (streams[0].average_rate or 25))
        self.shown_us: list[int] = []
        """When the frames of the packets that were read are shown, in order."""
        # PyAV makes a new Fraction of every time base that is asked for.
        self._time_bases = {stream.index: stream.time_base or Fraction(1) for stream in streams}
        indices = list(self._time_bases)
        self._queues: dict[int, deque[Timed]] = {index: deque() for index in indices}
        self._read_us = dict.fromkeys(indices, -math.inf)
        self._ends_us = dict.fromkeys(indices, 0)
        self._cut_us: dict[int, float] = {}

    def queue(self, index: int) -> deque[Timed]:
        """Packets of a stream in the order in which they are decoded. `take` and `drop_first` remove them."""
        return self._queues[index]

    def take(self, index: int) -> Timed | None:
        """The next packet of a stream; none at its end."""
        self._tick()
        if not self._queues[index] and not self.read(index):
            return None
        timed = self._queues[index].popleft()
        self._num_held_bytes -= timed.packet.size
        return timed

    def drop_first(self, index: int, num_packets: int) -> None:
        """Forget the first packets of a queue."""
        for _ in range(num_packets):
            self._num_held_bytes -= self._queues[index].popleft().packet.size

    def is_over(self, index: int) -> bool:
        """Whether no packet of the stream is left to be read."""
        return self._is_over or self._read_us[index] >= self.stop_us

    def read_us(self, index: int) -> float:
        """All that is shown before this time has been read of a stream."""
        return math.inf if self.is_over(index) else self._read_us[index]

    def end_us(self, index: int) -> int:
        """Where that which has been read of a stream ends."""
        return self._ends_us[index]

    def forget_shown(self, time_us: float) -> None:
        """Shorten `shown_us` by what lies before a time."""
        if len(self.shown_us) > _MANY_TIMES:
            del self.shown_us[: bisect.bisect_left(self.shown_us, time_us)]

    def require_held(self, index: int, time_us: float) -> None:
        """Raise `MediaTooLarge` when packets before that time had to be thrown away."""
        if self._cut_us.get(index, time_us) < time_us:
            raise MediaTooLarge(
                "streams must be interleaved closely enough to be held,"
                " one of them came too far ahead of the other"
            )

    def read(self, index: int) -> bool:
        """Read on to the next packet of a stream; false at its end."""
        while not self.is_over(index):
            try:
                packet = next(self._packets)
            except av.MemoryError:
                raise
            except (StopIteration, av.FFmpegError, OSError):  # What is missing then shows in the length.
                self._is_over = True
                return False
            self._tick()
            if packet.size and self._queued(packet) and packet.stream_index == index:
                return True
        return False

    def drain(self) -> None:
        """Read the rest away."""
        for index, queue in self._queues.items():
            self.drop_first(index, len(queue))
            self._cut_us[index] = -math.inf
        for index in self._queues:
            while self.read(index):
                pass

    def _queued(self, packet: av.Packet) -> bool:
        """Queue a packet; false when it lies behind the span or there is no room."""
        index = packet.stream_index
        timed = self._timed(packet)
        stamps = [stamp for stamp in (timed.dts_us, timed.pts_us) if stamp is not None]
        if stamps:
            self._read_us[index] = max(self._read_us[index], stamps[0])
            end_us = max(self._ends_us[index], stamps[-1] + self._duration_us(packet))
            self._ends_us[index] = int(min(end_us, self.stop_us))
        if self.is_over(index):
            return False
        if self._num_held_bytes + packet.size > self._max_held_bytes:
            self._cut_us.setdefault(index, stamps[0] if stamps else 0)
        if index in self._cut_us:
            return False
        # What an edit list hides is decoded, for others refer to it, and not shown.
        if index == self._video_index and timed.pts_us is not None and not packet.is_discard:
            bisect.insort(self.shown_us, timed.pts_us)
        self._num_held_bytes += packet.size
        self._queues[index].append(timed)
        return True

    def _duration_us(self, packet: av.Packet) -> int:
        if packet.duration:
            return to_us(packet.duration, self._time_bases[packet.stream_index])
        return self._frame_us if packet.stream_index == self._video_index else 0

    def _timed(self, packet: av.Packet) -> Timed:
        if self._is_jumpy and packet.dts is not None:
            self._follow_jump(packet)
        time_base = self._time_bases[packet.stream_index]
        pts_us, dts_us = (
            None if stamp is None else to_us(stamp, time_base) - self.origin_us
            for stamp in (packet.pts, packet.dts)
        )
        return Timed(packet, pts_us, dts_us)

    def _follow_jump(self, packet: av.Packet) -> None:
        """Let time stamps that start anew, as in joined recordings, go on where the stream was."""
        assert packet.dts is not None
        time_base = self._time_bases[packet.stream_index]
        dts_us = to_us(packet.dts, time_base) - self.origin_us
        late_us = dts_us + self._jump_us - self._read_us[packet.stream_index]
        if _JUMP_US < abs(late_us) < math.inf:
            self._jump_us -= round(late_us)
        shift = round(self._jump_us / US_PER_S / time_base)
        packet.dts += shift
        if packet.pts is not None:
            packet.pts += shift


def _earliest_us(container: InputContainer, streams: tuple[av.VideoStream, av.AudioStream]) -> int:
    starts = [
        to_us(stream.start_time, stream.time_base)
        for stream in streams
        if stream.start_time is not None and stream.time_base is not None
    ]
    return min(starts, default=container.start_time or 0)
