"""The reading child: for a JSON request a line on stdin, a JSON answer on stdout and arrays in shared memory.

An empty line on stdout says that the child has taken up the request, or goes on with it. See reader.py.
"""

import errno
import json
import math
import mmap
import os
import sys
import time
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray

from infra.errors import MediaError, MediaTooLarge, Undecodable
from infra.media.decoding import plane_HB, reason_of
from infra.media.header import facts_of, is_indexed, open_file
from infra.media.packets import US_PER_S, Packets
from infra.media.pictures import MAX_KEY_FRAMES, PictureReader
from infra.media.scaling import Scaler
from infra.media.sound import SLACK_SAMPLES, SoundReader
from infra.units import BYTES_PER_MIB, frames_to_samples

Request = dict[str, Any]
Answer = dict[str, Any]

_TICK_PAUSE_S = 0.5
_PREROLL_S = 0.5  # Longer than a frame is on display, and than any sound decoder takes to settle.
_BLIND_PREROLL_S = 30.0  # Longer than key frames are apart: a file without an index is entered anywhere.
_OVERRUN_RATIO, _OVERRUN_S = 1.03, 2.0  # Assumption, not measured: containers round, streams end unevenly.
_MANY_BYTES = 256 * BYTES_PER_MIB


class _Memory:
    """Arrays in the file that both processes map. Those of the file before are overwritten."""

    def __init__(self, fd: int) -> None:
        self._fd, self._num_bytes, self._map = fd, 0, mmap.mmap(fd, mmap.PAGESIZE)

    def restart(self) -> None:
        """Give all of it away again; what one large source took goes back to the system."""
        if len(self._map) > _MANY_BYTES:
            self._map.madvise(mmap.MADV_REMOVE)
        self._num_bytes = 0

    def place(self, shape: tuple[int, ...], dtype: type[np.generic]) -> tuple[int, NDArray[Any]]:
        """A new array and where it lies."""
        offset, num_items = self._num_bytes, math.prod(shape)
        end = offset + num_items * np.dtype(dtype).itemsize
        self._num_bytes = -(-end // mmap.PAGESIZE) * mmap.PAGESIZE
        if self._num_bytes > len(self._map):
            os.ftruncate(self._fd, self._num_bytes)
            self._map = mmap.mmap(self._fd, self._num_bytes)
        return offset, np.frombuffer(self._map, dtype, num_items, offset).reshape(shape)


class _Source:
    """An open file and the window of it that is being looked at.

    The buffers begin with the window: C channels, T samples; N frames and then K key frames, B bytes each.
    """

    def __init__(self, container: InputContainer, request: Request, memory: _Memory) -> None:
        self._memory = memory
        memory.restart()
        self._frame_rate_fps = Fraction(*request["frame_rate_fps"])
        self._window_frames: int = request["window_frames"]
        video, audio = (container.streams[request[name]] for name in ("video_stream", "audio_stream"))
        assert isinstance(video, av.VideoStream) and isinstance(audio, av.AudioStream)
        _seek(container, request["start_s"])
        self._video, self._audio = video.index, audio.index
        self._packets = Packets(
            container,
            (video, audio),
            span_us=(round(request["start_s"] * US_PER_S), _stop_us(request)),
            max_held_bytes=request["skew_mib"] * BYTES_PER_MIB,
            tick=_Ticker(),
        )
        self._scaler = Scaler(
            short_side_px=request["short_side_px"], aspect=video.sample_aspect_ratio or Fraction(1)
        )
        self._pictures = PictureReader(
            self._packets,
            video,
            frame_rate_fps=self._frame_rate_fps,
            source_rate_fps=Fraction(*request["source_rate_fps"]),
            is_interlaced=request["is_interlaced"],
        )
        self._sound = SoundReader(self._packets, audio)
        self._rate_hz = audio.codec_context.sample_rate
        if not self._rate_hz or not audio.codec_context.channels:
            raise Undecodable("the header must state the rate and the channels of the sound, it does not")
        num_samples = self._num_samples(0, self._window_frames) + 1 + SLACK_SAMPLES
        shape = (audio.codec_context.channels, num_samples)
        self._sound_offset, self._sound_CT = memory.place(shape, np.float32)
        self._rows_offset, self._rows_NB = 0, np.empty((0, 0), np.uint8)
        self._first, self._num_frames, self._num_rows = 0, 0, 0

    def sound(self) -> Answer:
        """Decode the window's sound; how many frames of the window picture and sound both cover."""
        end = self._first + self._window_frames
        if self._packets.stop_us < math.inf:
            end = min(end, math.floor(self._packets.stop_us * self._frame_rate_fps / US_PER_S))
        num_samples = self._sound.fill(self._sound_CT, self._num_samples(self._first, end))
        end_us = end * US_PER_S / self._frame_rate_fps
        while self._packets.read_us(self._video) < end_us and self._packets.read(self._video):
            pass
        if self._packets.is_over(self._video):
            end = min(end, math.ceil(self._packets.end_us(self._video) * self._frame_rate_fps / US_PER_S))
        while end > self._first and self._num_samples(self._first, end) > num_samples:
            end -= 1
        self._num_frames = max(0, end - self._first)
        for stream in (self._video, self._audio):
            self._packets.require_held(stream, float(end * US_PER_S / self._frame_rate_fps))
        return {
            "num_frames": self._num_frames,
            "has_ended": self._num_frames < self._window_frames,
            "offset": self._sound_offset,
            "shape": self._sound_CT.shape,
            "num_samples": self._num_samples(self._first, self._first + self._num_frames),
        }

    def key_frames(self) -> Answer:
        """Decode some key frames of the window by themselves."""
        num_keys = 0
        for frame in self._pictures.key_frames(self._first, self._first + self._num_frames):
            self._write(self._window_frames + num_keys, frame)
            num_keys += 1
        return self._rows(self._window_frames, num_keys)

    def pictures(self) -> Answer:
        """Decode the window's frames."""
        before = None
        for row in range(self._num_rows, self._num_frames):
            frame = self._pictures.frame(self._first + row)
            if frame is None:
                raise Undecodable("decoding must give a frame, got none")
            if frame is before:
                self._rows_NB[row] = self._rows_NB[row - 1]
            else:
                self._write(row, frame)
            before = frame
        self._num_rows = max(self._num_rows, self._num_frames)
        return self._rows(0, self._num_frames)

    def advance(self, num_frames: int) -> Answer:
        """Let the window begin so many frames later."""
        self._sound.forget(self._sound_CT, self._num_samples(self._first, self._first + num_frames))
        self._first += num_frames
        num_left = max(0, self._num_rows - num_frames)
        if num_left:
            self._rows_NB[:num_left] = self._rows_NB[num_frames : self._num_rows]
        elif num_frames > self._num_rows:
            self._pictures.skip_to(self._first)
        self._num_rows = num_left
        return {}

    def finish(self) -> Answer:
        """Read the rest of the file without decoding it; where its longer stream ends."""
        self._packets.drain()
        self._pictures.require_most()
        return {"end_s": max(map(self._packets.end_us, (self._video, self._audio))) / US_PER_S}

    def _num_samples(self, first: int, end: int) -> int:
        first_sample, end_sample = (
            frames_to_samples(frame, sample_rate_hz=self._rate_hz, frame_rate_fps=self._frame_rate_fps)
            for frame in (first, end)
        )
        return end_sample - first_sample

    def _write(self, row: int, frame: av.VideoFrame) -> None:
        scaled = self._scaler(frame)
        if not len(self._rows_NB):
            shape = (self._window_frames + MAX_KEY_FRAMES, scaled.width * scaled.height * 3 // 2)
            self._rows_offset, self._rows_NB = self._memory.place(shape, np.uint8)
        position = 0
        for plane in scaled.planes:
            end = position + plane.width * plane.height
            self._rows_NB[row, position:end].reshape(plane.height, -1)[:] = plane_HB(plane)
            position = end

    def _rows(self, first: int, num_rows: int) -> Answer:
        width_px, height_px = self._scaler.size_px
        num_bytes = self._rows_NB.shape[1]
        return {
            "offset": self._rows_offset + first * num_bytes,
            "shape": (num_rows, num_bytes),
            "width_px": width_px,
            "height_px": height_px,
        }


def _seek(container: InputContainer, start_s: float) -> None:
    """Go to where the span can be decoded from: the frame on display at its start must be there."""
    from_s = max(0, start_s - (_PREROLL_S if is_indexed(container) else _BLIND_PREROLL_S))
    if from_s or is_indexed(container):  # Its first frames may have been read.
        container.seek(round(from_s * av.time_base) + (container.start_time or 0))


def _stop_us(request: Request) -> float:
    """Where reading ends at the latest: what comes long after the header's end does so by a jump of time."""
    if request["end_s"] is not None:
        return round(request["end_s"] * US_PER_S)
    if not request["duration_s"]:
        return math.inf
    return round((max(request["start_s"], _OVERRUN_RATIO * request["duration_s"]) + _OVERRUN_S) * US_PER_S)


class _Ticker:
    """Says that the child is at work, now and then."""

    def __init__(self) -> None:
        self._next_s = time.monotonic() + _TICK_PAUSE_S

    def __call__(self) -> None:
        if time.monotonic() > self._next_s:
            self._next_s = time.monotonic() + _TICK_PAUSE_S
            print(flush=True)


class _Server:
    """Answers one request after another. One file is open at a time."""

    def __init__(self, memory: _Memory) -> None:
        self._memory = memory
        self._probed: tuple[str, InputContainer] | None = None
        self._source: _Source | None = None

    def answer(self, request: Request) -> Answer:
        """What is asked for, or the code and message of the error that it ends in."""
        try:
            return self._work(request)
        except MediaError as err:
            return {"code": err.code, "message": str(err)}
        except MemoryError as err:
            return _too_large(err)
        except (av.FFmpegError, OSError, UnicodeError, ArithmeticError) as err:
            if getattr(err, "errno", None) == errno.ENOMEM:
                return _too_large(err)
            what = "header" if request["do"] == "probe" else "file"
            return {"code": Undecodable.code, "message": f"the {what} must be readable, got {reason_of(err)}"}

    def _work(self, request: Request) -> Answer:
        match request["do"]:
            case "probe":
                self._source = None
                self._probed = (request["path"], open_file(request["path"]))
                return facts_of(self._probed[1])
            case "open":
                self._source = None  # Its buffers go before others are made.
                self._source = _Source(self._container(request["path"]), request, self._memory)
                return {}
        assert self._source is not None
        if request["do"] == "advance":
            return self._source.advance(request["num_frames"])
        source = self._source
        looks = {
            "sound": source.sound,
            "key_frames": source.key_frames,
            "pictures": source.pictures,
            "finish": source.finish,
        }
        return looks[request["do"]]()

    def _container(self, path: str) -> InputContainer:
        """The open file; the one whose header was read last is not opened again when it can be rewound."""
        probed, self._probed = self._probed, None
        if probed and probed[0] == path and is_indexed(probed[1]):
            return probed[1]
        return open_file(path)


def _too_large(err: Exception) -> Answer:
    return {"code": MediaTooLarge.code, "message": f"a media child must fit in its memory limit, got {err}"}


def main() -> None:
    """Answer until stdin ends."""
    av.logging.set_level(av.logging.PANIC)
    server = _Server(_Memory(int(sys.argv[1])))
    for line in sys.stdin:
        print(flush=True)  # Taken up: from here on the file is to blame.
        print(json.dumps(server.answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
