"""One ffmpeg child turns a file into frames and samples on one clock, opened once for all of them.

    file -> ffmpeg -> video   I420 frames at a constant rate, short side scaled, bt709, limited range
                   -> native  float32 samples, the stream's own rate and channels
                   -> 48 kHz mono float32, 16 kHz mono int16

Every pipe starts at the container's time zero: a late stream is preceded by its first frame or by silence.
So frame `i` and sample `i * rate / fps` belong to the same instant in all of them.
"""

import fcntl
import math
import os
import selectors
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import ffmpeg
import numpy as np
from numpy.typing import NDArray

from infra.errors import MediaTimeout, MediaTooLarge, Undecodable
from infra.media.child import (
    FORMAT_WHITELIST,
    PROTOCOL_WHITELIST,
    end_child,
    last_line,
    local_url,
    raise_if_killed,
    spawn,
)
from infra.media.probe import Probe
from infra.units import BYTES_PER_MIB, frames_to_s, frames_to_samples

EMBED_RATE_HZ = 48_000
"""Rate of the mono signal for audio embeddings. Source: CLAP, arXiv 2211.06687, section 4.1."""

_HD_HEIGHT_PX = 720  # Untagged video of this height and more is taken for bt709, as players do.
_F_SETPIPE_SZ = 1031  # linux/fcntl.h; fewer wake-ups than the default 64 KiB
_PIPE_BYTES = BYTES_PER_MIB
_READ_BYTES = BYTES_PER_MIB
_FRAME_TAG = b"FRAME\n"
_STDERR_TAIL_BYTES = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeLimits:
    """What a decoding child may take before it is killed."""

    stall_s: float = 60.0
    """Longest silence of the child while it is being waited for."""
    memory_mib: int = 4096
    """Address space of the child."""
    skew_mib: int = 512
    """Bytes of one stream that may be held while another is waited for (badly interleaved files)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A run of frames with exactly the samples that belong to it.

    H, W: rows and columns of a frame; the short side is the size that was asked for.
    N frames, C channels, T samples at the native rate, E at 48 kHz, S at the output rate.
    """

    start_frame: int
    i420_NB: NDArray[np.uint8]
    """One planar YUV 4:2:0 frame a row, H*W*3/2 bytes, limited-range bt709."""
    height_px: int
    width_px: int
    native_TC: NDArray[np.float32]
    embed_E: NDArray[np.float32]
    output_S: NDArray[np.int16]

    @property
    def num_frames(self) -> int:
        """Frames in the segment."""
        return len(self.i420_NB)

    @property
    def luma_NHW(self) -> NDArray[np.uint8]:
        """Luma planes, a view."""
        num_luma = self.height_px * self.width_px
        return self.i420_NB[:, :num_luma].reshape(-1, self.height_px, self.width_px)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodePlan:
    """What to make of a source: the sampling of its frames and sound."""

    frame_rate_fps: Fraction
    short_side_px: int
    sample_rate_hz: int
    """Rate of the mono output samples."""
    start_s: float = 0.0
    end_s: float = math.inf
    """Only `[start_s, end_s)` of the file is read; frame 0 is at `start_s`."""


class Decoder:
    """Reads consecutive segments out of a running ffmpeg child. Made by `open_decoder`."""

    def __init__(self, pipes: "_Pipes", probe: Probe, plan: DecodePlan) -> None:
        self._pipes = pipes
        self._probe = probe
        self._plan = plan
        self._next_frame = 0
        self._ended = False
        self._height_px, self._width_px = 0, 0

    def read(self, num_frames: int) -> Segment:
        """The next `num_frames` frames with their samples; fewer where the shorter stream ends.

        Raises:
            Undecodable: the child failed, or ended without a frame.
            MediaTimeout: the child stalled.
            MediaTooLarge: the streams are interleaved too far apart to be held.
        """
        if not self._width_px:
            self._read_header()
        first, frame_bytes = self._next_frame, self._height_px * self._width_px * 3 // 2
        wanted = self._byte_counts(first, first + num_frames, frame_bytes)
        available = self._pipes.wait_for(wanted)
        end = self._common_end(first, num_frames, available, frame_bytes)
        taken = {
            name: self._pipes.take(name, count)
            for name, count in self._byte_counts(first, end, frame_bytes).items()
        }
        self._next_frame = end
        self._ended = end - first < num_frames
        return self._segment(first, taken)

    def finish(self) -> float:
        """Read the rest away; seconds from time zero to the end of the longest stream.

        Raises:
            Undecodable: the child failed.
        """
        left = self._pipes.drain()
        read_s = frames_to_s(self._next_frame, self._plan.frame_rate_fps)
        frame_bytes = self._height_px * self._width_px * 3 // 2 + len(_FRAME_TAG)
        video_s = frames_to_s(left["video"] // frame_bytes, self._plan.frame_rate_fps)
        return read_s + max(video_s, left["output"] / (2 * self._plan.sample_rate_hz))

    @property
    def ended(self) -> bool:
        """Whether the last read met the end of a stream."""
        return self._ended

    def _read_header(self) -> None:
        """Learn the frame size from the stream itself, which knows of rotation and aspect ratio."""
        line = self._pipes.take_line("video")
        fields = {field[:1]: field[1:] for field in line.decode("ascii", "replace").split()[1:]}
        self._width_px, self._height_px = int(fields["W"]), int(fields["H"])

    def _byte_counts(self, first: int, end: int, frame_bytes: int) -> dict[str, int]:
        def num_samples(rate_hz: int) -> int:
            rate_fps = self._plan.frame_rate_fps
            return frames_to_samples(
                end, sample_rate_hz=rate_hz, frame_rate_fps=rate_fps
            ) - frames_to_samples(first, sample_rate_hz=rate_hz, frame_rate_fps=rate_fps)

        probe = self._probe
        return {
            "video": (end - first) * (frame_bytes + len(_FRAME_TAG)),
            "native": num_samples(probe.sample_rate_hz) * probe.num_audio_channels * 4,
            "embed": num_samples(EMBED_RATE_HZ) * 4,
            "output": num_samples(self._plan.sample_rate_hz) * 2,
        }

    def _common_end(self, first: int, num_frames: int, available: Mapping[str, int], frame_bytes: int) -> int:
        """Last frame index that every stream covers."""

        def covers(end: int) -> bool:
            needed = self._byte_counts(first, end, frame_bytes)
            return all(available[name] >= count for name, count in needed.items())

        end = first + num_frames
        while end > first and not covers(end):
            end -= 1
        return end

    def _segment(self, first: int, taken: Mapping[str, bytes]) -> Segment:
        tagged_bytes = self._height_px * self._width_px * 3 // 2 + len(_FRAME_TAG)
        tagged_NB = np.frombuffer(taken["video"], np.uint8).reshape(-1, tagged_bytes)
        return Segment(
            start_frame=first,
            i420_NB=tagged_NB[:, len(_FRAME_TAG) :],
            height_px=self._height_px,
            width_px=self._width_px,
            native_TC=np.frombuffer(taken["native"], "<f4").reshape(-1, self._probe.num_audio_channels),
            embed_E=np.frombuffer(taken["embed"], "<f4"),
            output_S=np.frombuffer(taken["output"], "<i2"),
        )


@contextmanager
def open_decoder(
    path: Path, probe: Probe, plan: DecodePlan, *, binary: Path, limits: DecodeLimits
) -> Iterator[Decoder]:
    """Run ffmpeg over the file at `path`; it is killed when the block is left early.

    The file must have an audio stream.
    """
    with _Pipes.opened(("video", "native", "embed", "output")) as (reads, writes):
        command = _decode_command(path, probe, plan, binary=binary, fds=writes)
        process = spawn(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=tuple(writes.values()),
            max_bytes=limits.memory_mib * BYTES_PER_MIB,
        )
        for fd in writes.values():
            os.close(fd)
        writes.clear()
        try:
            yield Decoder(_Pipes(process, reads, limits, path.name), probe, plan)
        finally:
            end_child(process)
            assert process.stderr is not None
            process.stderr.close()


def _decode_command(
    path: Path, probe: Probe, plan: DecodePlan, *, binary: Path, fds: Mapping[str, int]
) -> list[str]:
    span = {} if plan.start_s == 0 else {"ss": plan.start_s}
    if plan.end_s != math.inf:
        span["t"] = plan.end_s - plan.start_s
    source = ffmpeg.input(
        local_url(path),
        **span,
        protocol_whitelist=PROTOCOL_WHITELIST,
        format_whitelist=FORMAT_WHITELIST,
        threads=1,
    )
    video = _scaled(source[str(probe.video_stream_index)], probe, plan)
    # async=1 fills gaps in the time line with silence and first_pts=0 starts it at the container's zero.
    sound = source[str(probe.audio_stream_index)].filter("aresample", **{"async": 1, "first_pts": 0})
    split = sound.filter_multi_output("asplit", 3)
    outputs = [
        video.output(f"pipe:{fds['video']}", format="yuv4mpegpipe", strict=-1),
        split[0].output(f"pipe:{fds['native']}", format="f32le", acodec="pcm_f32le"),
        _mono(split[1], EMBED_RATE_HZ).output(f"pipe:{fds['embed']}", format="f32le", acodec="pcm_f32le"),
        _mono(split[2], plan.sample_rate_hz).output(
            f"pipe:{fds['output']}", format="s16le", acodec="pcm_s16le"
        ),
    ]
    merged = ffmpeg.merge_outputs(*outputs).global_args(
        "-nostdin", "-hide_banner", "-loglevel", "error", "-filter_complex_threads", "1"
    )
    command: list[str] = merged.compile(cmd=str(binary), overwrite_output=True)
    return command


def _scaled(stream: ffmpeg.nodes.FilterableStream, probe: Probe, plan: DecodePlan) -> ffmpeg.nodes.Stream:
    """Constant rate from time zero, square pixels, short side as asked, bt709 limited range, 4:2:0."""
    side = plan.short_side_px
    matrix = "bt709" if not probe.color_matrix_known and probe.height_px >= _HD_HEIGHT_PX else "auto"
    return (
        stream.filter("fps", str(plan.frame_rate_fps), start_time=0, round="near")
        .filter(
            "scale",
            w=f"if(gte(dar,1),2*round({side}*dar/2),{side})",
            h=f"if(gte(dar,1),{side},2*round({side}/dar/2))",
            flags="bicubic",
            in_color_matrix=matrix,
            out_color_matrix="bt709",
            out_range="tv",
        )
        .filter("setsar", "1")
        .filter("format", "yuv420p")
    )


def _mono(stream: ffmpeg.nodes.FilterableStream, sample_rate_hz: int) -> ffmpeg.nodes.Stream:
    """ffmpeg's down-mix (ITU-R BS.775 weights, scaled so that it cannot exceed full scale), by soxr."""
    return stream.filter("aresample", sample_rate_hz, resampler="soxr", ochl="mono", rematrix_maxval=1)


class _Pipes:
    """Buffered reading of several pipes at once, so that no stream blocks another."""

    def __init__(
        self, process: subprocess.Popen[bytes], fds: Mapping[str, int], limits: DecodeLimits, subject: str
    ) -> None:
        assert process.stderr is not None
        self._process = process
        self._limits = limits
        self._subject = subject
        self._buffers = {name: bytearray() for name in fds}
        self._stderr = bytearray()
        self._open = set(fds)
        self._selector = selectors.DefaultSelector()
        for name, fd in fds.items():
            self._selector.register(fd, selectors.EVENT_READ, name)
        self._selector.register(process.stderr.fileno(), selectors.EVENT_READ, "")

    @staticmethod
    @contextmanager
    def opened(names: tuple[str, ...]) -> Iterator[tuple[dict[str, int], dict[str, int]]]:
        """Pipes by name: read ends and write ends. What is still in the maps at the end is closed."""
        reads: dict[str, int] = {}
        writes: dict[str, int] = {}
        try:
            for name in names:
                reads[name], writes[name] = os.pipe()
                os.set_blocking(reads[name], False)
                with suppress(PermissionError):  # Past a user's share of pipe memory; slower, not wrong.
                    fcntl.fcntl(reads[name], _F_SETPIPE_SZ, _PIPE_BYTES)
            yield reads, writes
        finally:
            for fd in (*reads.values(), *writes.values()):
                os.close(fd)

    def wait_for(self, wanted: Mapping[str, int]) -> dict[str, int]:
        """Read until every stream holds what is wanted or has ended; return what each holds."""
        while any(name in self._open and len(self._buffers[name]) < n for name, n in wanted.items()):
            self._pump()
        if not self._open:
            self._check_exit()
        return {name: len(buffer) for name, buffer in self._buffers.items()}

    def drain(self) -> dict[str, int]:
        """Discard everything up to the child's end; return how many bytes that were, by stream."""
        dropped = dict.fromkeys(self._buffers, 0)
        while True:
            for name, buffer in self._buffers.items():
                dropped[name] += len(buffer)
                buffer.clear()
            if not self._open:
                break
            self._pump()
        self._check_exit()
        return dropped

    def take(self, name: str, num_bytes: int) -> bytes:
        """Remove and return the first `num_bytes` of a stream."""
        taken = bytes(self._buffers[name][:num_bytes])
        del self._buffers[name][:num_bytes]
        return taken

    def take_line(self, name: str) -> bytes:
        """Remove and return the first line of a stream."""
        while (end := self._buffers[name].find(b"\n")) < 0:
            if name not in self._open:
                self._check_exit()
                raise Undecodable(f"at least one frame must decode, got none ({self._subject})")
            self._pump()
        return self.take(name, end + 1)

    def _pump(self) -> None:
        events = self._selector.select(self._limits.stall_s)
        if not events:
            raise MediaTimeout(
                f"decoding must make progress every {self._limits.stall_s:g} s, it did not ({self._subject})"
            )
        for key, _ in events:
            chunk = os.read(key.fd, _READ_BYTES)
            if not chunk:
                self._selector.unregister(key.fd)
                self._open.discard(key.data)
            elif key.data:
                self._hold(key.data, chunk)
            else:
                self._stderr = (self._stderr + chunk)[-_STDERR_TAIL_BYTES:]

    def _hold(self, name: str, chunk: bytes) -> None:
        self._buffers[name] += chunk
        if len(self._buffers[name]) > self._limits.skew_mib * BYTES_PER_MIB:
            raise MediaTooLarge(
                f"streams must be interleaved within {self._limits.skew_mib} MiB, {name} is further ahead"
                f" ({self._subject})"
            )

    def _check_exit(self) -> None:
        try:
            status = self._process.wait(self._limits.stall_s)
        except subprocess.TimeoutExpired as err:
            raise MediaTimeout(
                f"ffmpeg must end within {self._limits.stall_s:g} s of its output, it did not ({self._subject})"
            ) from err
        raise_if_killed(status, self._subject)
        if status != 0:
            raise Undecodable(
                f"decoding must succeed, ffmpeg ended with status {status}:"
                f" {last_line(bytes(self._stderr))} ({self._subject})"
            )
