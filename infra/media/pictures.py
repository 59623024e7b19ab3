"""A stream's picture at a constant rate, from no more decoded frames than that takes.

Runs in the reading child. Row i is the source frame nearest to its instant, or the one still on display there.
A frame that becomes no row and that no other frame refers to is not decoded: rows are the same, only cheaper.
"""

import bisect
import math
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
from av.filter import Graph

from infra.media.decoding import Decoding, filtered, plane_HB
from infra.media.packets import US_PER_S, Packets, Timed, to_us

MAX_KEY_FRAMES = 4
"""Of a window, evenly apart: some coders have nothing but key frames."""
_FEW_LINES = 32  # One of so many tells nearly all frames apart that differ.
# A byte a sample, a plane a component: what nearly all video is decoded to.
_PLANAR_8_BIT = frozenset(f"{family}{chroma}p" for family in ("yuv", "yuvj") for chroma in (420, 422, 444))
_MAX_WAITING_PACKETS = 2000  # A minute or so of what is skipped and has no key frame; bounds what is held.


class PictureReader:
    """Decoded frames by the index of their row; rows are asked for in rising order."""

    def __init__(
        self,
        packets: Packets,
        stream: av.VideoStream,
        *,
        frame_rate_fps: Fraction,
        source_rate_fps: Fraction,
        is_interlaced: bool,
    ) -> None:
        self._packets, self._stream = packets, stream
        self._row_us = float(US_PER_S / frame_rate_fps)
        self._time_base = stream.time_base or Fraction(1)
        # The last frame that is not later than an instant is shown: half a frame earlier, it is the nearest.
        self._lead_us = round(US_PER_S / (2 * max(source_rate_fps, frame_rate_fps)))
        self._is_interlaced = is_interlaced  # Fields are made whole from neighbours, so all must be there.
        self._decoding = Decoding(stream.codec_context.decode)
        self._frames = self._decode()
        self._shown: av.VideoFrame | None = None
        self._coming: tuple[int, av.VideoFrame] | None = None
        self._taken_keys: list[Timed] = []
        self._last_us = 0
        self._next_row = 0

    def frame(self, row: int) -> av.VideoFrame | None:
        """The decoded frame of a row, the same object while it looks the same; none when there is no frame."""
        before = self._shown
        shown = self._frame(row)
        if before is not None and shown is not None and shown is not before and _are_alike(before, shown):
            self._shown = before
        return self._shown

    def _frame(self, row: int) -> av.VideoFrame | None:
        self._next_row = row
        limit_us = self._limit_us(row)
        self._packets.forget_shown(self._instant_us(row) - US_PER_S)
        while True:
            self._coming = self._coming or next(self._frames, None)
            if self._coming is None or (self._shown is not None and self._coming[0] > limit_us):
                return self._shown
            self._shown, self._coming = self._coming[1], None

    def skip_to(self, row: int) -> None:
        """Make no row before this one: go on at the last key frame that it can be decoded from."""
        self._next_row = row
        limit_us = self._limit_us(row)
        waiting = self._packets.queue(self._stream.index)
        keys = (index for index, timed in enumerate(waiting) if _key_us(timed) <= limit_us)
        last_key = max(keys, default=None)
        if last_key is not None:
            self._packets.drop_first(self._stream.index, last_key)
            self._stream.codec_context.flush_buffers()
            self._frames, self._shown, self._coming = self._decode(), None, None
        elif len(waiting) > _MAX_WAITING_PACKETS:
            self.frame(row)

    def key_frames(self, first_row: int, end_row: int) -> Iterator[av.VideoFrame]:
        """Some key frames shown from one row up to another, decoded by themselves."""
        begin_us, end_us = self._instant_us(first_row), self._instant_us(end_row)
        waiting = self._packets.queue(self._stream.index)
        self._taken_keys = [timed for timed in self._taken_keys if _key_us(timed) >= begin_us]
        keys = [timed for timed in (*self._taken_keys, *waiting) if begin_us <= _key_us(timed) < end_us]
        if not keys:
            return
        context = av.CodecContext.create(self._stream.codec_context.name, "r")
        assert isinstance(context, av.VideoCodecContext)
        context.extradata = self._stream.codec_context.extradata
        context.thread_count = 1
        decoding = Decoding(context.decode)
        for timed in keys[:: math.ceil(len(keys) / MAX_KEY_FRAMES)]:
            yield from [*decoding.frames(timed.packet), *decoding.frames(None)][:1]
            context.flush_buffers()

    def require_most(self) -> None:
        """Raise `Undecodable` when most packets were broken."""
        self._decoding.require_most()

    def _instant_us(self, row: int) -> float:
        return row * self._row_us

    def _limit_us(self, row: int) -> float:
        """The latest that a frame may begin which a row shows."""
        return self._instant_us(row) + self._lead_us

    def _decode(self) -> Iterator[tuple[int, av.VideoFrame]]:
        """Frames in the order in which they are shown, with their times."""
        whole = _Deinterlacer(self._stream) if self._is_interlaced else None
        context = self._stream.codec_context
        while True:
            timed = self._packets.take(self._stream.index)
            if timed is not None:
                self._taken_keys += [timed] if timed.packet.is_keyframe else []
                context.skip_frame = "DEFAULT" if self._is_needed(timed) else "NONREF"
            for frame in self._decoding.frames(timed.packet if timed else None):
                for shown in whole(frame) if whole else (frame,):
                    yield self._time_us(shown), shown
            if timed is None:
                return

    def _time_us(self, frame: av.VideoFrame) -> int:
        stamp = frame.pts if frame.pts is not None else frame.dts
        if stamp is None:
            self._last_us += 2 * self._lead_us
            return self._last_us
        # The deinterlacer changes the time base; PyAV gives the last frames of a decoder none.
        time_base = (frame.time_base if self._is_interlaced else None) or self._time_base
        self._last_us = to_us(stamp, time_base) - self._packets.origin_us
        return self._last_us

    def _is_needed(self, timed: Timed) -> bool:
        """Whether a frame will be shown by a row that is still to be made; true where that cannot be told."""
        if self._is_interlaced or timed.pts_us is None:
            return True
        if timed.packet.is_discard:
            return False
        following_us = self._following_us(timed.pts_us)
        row = math.ceil((timed.pts_us - self._lead_us) / self._row_us)
        return self._limit_us(max(row, self._next_row)) < following_us or self._shown is None

    def _following_us(self, pts_us: int) -> float:
        """When the frame after a given one is shown; infinite after the last one."""
        times_us = self._packets.shown_us
        while True:
            place = bisect.bisect_right(times_us, pts_us)
            following_us = times_us[place] if place < len(times_us) else math.inf
            if following_us <= self._packets.read_us(self._stream.index):
                return following_us
            self._packets.read(self._stream.index)


class _Deinterlacer:
    """Makes whole frames of fields, one of each two."""

    def __init__(self, stream: av.VideoStream) -> None:
        self._graph = Graph()
        self._graph.threads = 1
        nodes = [
            self._graph.add_buffer(template=stream),
            self._graph.add("bwdif", "mode=send_frame:deint=interlaced"),
            self._graph.add("buffersink"),
        ]
        self._graph.link_nodes(*nodes).configure()

    def __call__(self, frame: av.VideoFrame) -> Iterator[av.VideoFrame]:
        return filtered(self._graph, frame, av.VideoFrame)


def _are_alike(a: av.VideoFrame, b: av.VideoFrame) -> bool:
    """Whether two frames are the same picture in every pixel, as in slides and held drawings."""
    looks = {(frame.width, frame.height, frame.format.name) for frame in (a, b)}
    if len(looks) > 1 or a.format.name not in _PLANAR_8_BIT:
        return False
    pairs = [tuple(map(plane_HB, planes)) for planes in zip(a.planes, b.planes, strict=True)]
    return all(np.array_equal(a_HB[::_FEW_LINES], b_HB[::_FEW_LINES]) for a_HB, b_HB in pairs) and all(
        np.array_equal(a_HB, b_HB) for a_HB, b_HB in pairs
    )


def _key_us(timed: Timed) -> float:
    """When a key frame is shown; infinite for what is none, or does not say."""
    return timed.pts_us if timed.packet.is_keyframe and timed.pts_us is not None else math.inf
