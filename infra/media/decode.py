"""One ffmpeg child turns a file into frames and samples on one clock, opened once for all of them.

    file -> ffmpeg -> video   I420 frames at a constant rate, short side scaled, bt709, limited range
                   -> native  float32 samples, the stream's own rate and channels
                   -> 48 kHz mono float32, 16 kHz mono int16

Every pipe starts at the container's time zero: a late stream is preceded by its first frame or by silence.
So frame `i` and sample `i * rate / fps` belong to the same instant in all of them.
Frame `i` is the source frame nearest to its instant; interlaced ones become whole, PQ and HLG are tone-mapped.
"""

import math
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import ffmpeg
import numpy as np
from numpy.typing import NDArray

from infra.errors import MediaTooLarge, Undecodable
from infra.media.child import FORMAT_WHITELIST, PROTOCOL_WHITELIST, end_child, local_url, spawn
from infra.media.pipes import Pipes, open_pipes
from infra.media.probe import Probe
from infra.units import BYTES_PER_MIB, frames_to_s, frames_to_samples

EMBED_RATE_HZ = 48_000
"""Rate of the mono signal for audio embeddings. Source: CLAP, arXiv 2211.06687, section 4.1."""

_HD_HEIGHT_PX = 720  # Untagged video of this height and more is taken for bt709, as players do.
_MAX_ASPECT = 8  # Assumption, not measured: twice the widest panorama; more would mostly be cropped away.
_SOUND_SLIP_S = 0.01  # More than containers round a time stamp, less than a packet that may be missing.
_PREROLL_S = 0.5  # Longer than a frame is on display, and than any sound decoder takes to settle.
_BLIND_PREROLL_S = 30.0  # Longer than key frames are apart: a file without an index is entered anywhere.
_OVERRUN_RATIO, _OVERRUN_S = (
    1.03,
    2.0,
)  # Assumption, not measured: containers round, and streams end unevenly.
_WHITE_NITS, _PEAK_NITS = 203, 1000  # Source: ITU-R BT.2408, reference white; BT.2100, nominal peak of HLG.
_FOREVER_S = 1e9  # What filters take for infinity.
_US_PER_S = 1_000_000  # AVTB, the time base of libavutil.
_WRITE_BYTES = BYTES_PER_MIB  # Fewer, larger writes than ffmpeg's 32 KiB.
_FRAME_TAG = b"FRAME\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeLimits:
    """What a decoding child may take before it is killed."""

    stall_s: float = 60.0
    """Longest silence of the child while it is being waited for."""
    memory_mib: int = 4096
    """Address space of the child."""
    skew_mib: int = 512
    """What may be held of a stream beyond one read while another is waited for (badly interleaved files)."""


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

    def __init__(self, pipes: Pipes, probe: Probe, plan: DecodePlan, *, subject: str) -> None:
        self._pipes = pipes
        self._probe = probe
        self._plan = plan
        self._subject = subject
        self._next_frame = 0
        self._ended = False
        self._height_px, self._width_px = 0, 0

    def read(self, num_frames: int) -> Segment:
        """The next `num_frames` frames with their samples; fewer where the shorter stream ends.

        Raises:
            Undecodable: the child failed, gave no frame, or frames of more than one size.
            MediaTimeout: the child stalled.
            MediaTooLarge: the streams are interleaved too far apart to be held, or the child lacks memory.
        """
        if not self._width_px:
            self._read_header()
        first = self._next_frame
        held = self._pipes.wait_for(self._byte_counts(first, first + num_frames))
        end = self._common_end(first, num_frames, held)
        whole = {name: count for name, count in held.items() if name not in self._pipes.cut}
        if self._common_end(first, num_frames, whole) > end:
            raise MediaTooLarge(
                f"streams must be interleaved closely enough to be held, {', '.join(sorted(self._pipes.cut))}"
                f" came too far ahead of the rest ({self._subject})"
            )
        taken = {name: self._pipes.take(name, count) for name, count in self._byte_counts(first, end).items()}
        self._next_frame = end
        self._ended = end - first < num_frames
        return self._segment(first, taken)

    def finish(self) -> float:
        """Read the rest away; seconds from time zero to the end of the longest stream.

        Raises:
            Undecodable: the child failed.
            MediaTooLarge: the child lacks memory.
        """
        left = self._pipes.drain()
        read_s = frames_to_s(self._next_frame, self._plan.frame_rate_fps)
        video_s = frames_to_s(left["video"] // self._row_bytes, self._plan.frame_rate_fps)
        return read_s + max(video_s, left["output"] / (2 * self._plan.sample_rate_hz))

    @property
    def ended(self) -> bool:
        """Whether the last read met the end of a stream."""
        return self._ended

    @property
    def _row_bytes(self) -> int:
        """A frame as it comes: the tag and the planes."""
        return len(_FRAME_TAG) + self._height_px * self._width_px * 3 // 2

    def _read_header(self) -> None:
        """Learn the frame size from the stream itself, which knows of rotation and aspect ratio."""
        line = self._pipes.take_line("video")
        fields = {field[:1]: field[1:] for field in line.decode("ascii", "replace").split()[1:]}
        self._width_px, self._height_px = int(fields["W"]), int(fields["H"])

    def _byte_counts(self, first: int, end: int) -> dict[str, int]:
        def num_samples(rate_hz: int) -> int:
            rate_fps = self._plan.frame_rate_fps
            return frames_to_samples(
                end, sample_rate_hz=rate_hz, frame_rate_fps=rate_fps
            ) - frames_to_samples(first, sample_rate_hz=rate_hz, frame_rate_fps=rate_fps)

        probe = self._probe
        return {
            "video": (end - first) * self._row_bytes,
            "native": num_samples(probe.sample_rate_hz) * probe.num_audio_channels * 4,
            "embed": num_samples(EMBED_RATE_HZ) * 4,
            "output": num_samples(self._plan.sample_rate_hz) * 2,
        }

    def _common_end(self, first: int, num_frames: int, available: Mapping[str, int]) -> int:
        """Last frame index that every available stream covers."""

        def covers(end: int) -> bool:
            needed = self._byte_counts(first, end)
            return all(count >= needed[name] for name, count in available.items())

        end = first + num_frames
        while end > first and not covers(end):
            end -= 1
        return end

    def _segment(self, first: int, taken: Mapping[str, NDArray[np.uint8]]) -> Segment:
        rows_NB = np.frombuffer(taken["video"], np.uint8).reshape(-1, self._row_bytes)
        tags_NB, i420_NB = np.split(rows_NB, [len(_FRAME_TAG)], axis=1)
        if (tags_NB != np.frombuffer(_FRAME_TAG, np.uint8)).any():
            raise Undecodable(
                f"every frame must be {self._width_px} x {self._height_px} as the first, got another size"
                f" after frame {first} ({self._subject})"
            )
        return Segment(
            start_frame=first,
            i420_NB=i420_NB,
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

    Raises:
        MediaTooLarge: the picture is so long and narrow that its frames would be huge.
    """
    _require_moderate_aspect(probe, path.name)
    with open_pipes(("video", "native", "embed", "output")) as (reads, writes):
        command = _decode_command(path, probe, plan, binary=binary, fds=writes)
        process = spawn(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=tuple(writes.values()),
            max_bytes=limits.memory_mib * BYTES_PER_MIB,
        )
        for fd in writes.values():
            os.close(fd)
        writes.clear()
        try:
            pipes = Pipes(
                process,
                reads,
                stall_s=limits.stall_s,
                spare_bytes=limits.skew_mib * BYTES_PER_MIB,
                subject=path.name,
            )
            yield Decoder(pipes, probe, plan, subject=path.name)
        finally:
            end_child(process)
            assert process.stderr is not None
            process.stderr.close()


def _require_moderate_aspect(probe: Probe, subject: str) -> None:
    short_px, long_px = sorted((probe.width_px, probe.height_px))
    if long_px > _MAX_ASPECT * short_px:
        raise MediaTooLarge(
            f"the longer side of a picture must be at most {_MAX_ASPECT} times the shorter, got"
            f" {probe.width_px} x {probe.height_px} ({subject})"
        )


def _decode_command(
    path: Path, probe: Probe, plan: DecodePlan, *, binary: Path, fds: Mapping[str, int]
) -> list[str]:
    source = ffmpeg.input(
        local_url(path),
        **_span(probe, plan),
        protocol_whitelist=PROTOCOL_WHITELIST,
        format_whitelist=FORMAT_WHITELIST,
        threads=1,
        # Filters that start again when a picture or sound changes its format would start their clock again.
        reinit_filter=0,
    )
    sound = source[str(probe.audio_stream_index)]
    # Sound has graphs of its own, which cost less CPU than one for all (0.77 to 0.84 of the bare transcode).
    # async=1 fills gaps in the time line with silence and first_pts=0 starts it at the container's zero.
    timed = (
        f"asetpts=PTS-{_skipped_s(probe, plan)}/TB,"
        f"aresample=async=1:first_pts=0:min_hard_comp={_SOUND_SLIP_S}"
    )
    embed, output = (f"{timed},{_mono(rate_hz)}" for rate_hz in (EMBED_RATE_HZ, plan.sample_rate_hz))
    outputs = [
        _scaled(source[str(probe.video_stream_index)], probe, plan).output(
            f"pipe:{fds['video']}", format="yuv4mpegpipe", strict=-1, blocksize=_WRITE_BYTES
        ),
        sound.output(f"pipe:{fds['native']}", af=timed, format="f32le", acodec="pcm_f32le"),
        sound.output(f"pipe:{fds['embed']}", af=embed, format="f32le", acodec="pcm_f32le"),
        sound.output(f"pipe:{fds['output']}", af=output, format="s16le", acodec="pcm_s16le"),
    ]
    merged = ffmpeg.merge_outputs(*outputs).global_args(
        "-nostdin",
        "-hide_banner",
        "-loglevel",
        "error",
        "-filter_complex_threads",
        "1",
        "-filter_threads",
        "1",
    )
    command: list[str] = merged.compile(cmd=str(binary), overwrite_output=True)
    return command


def _span(probe: Probe, plan: DecodePlan) -> dict[str, float]:
    """Options that read no more than what is skipped and the plan's span."""
    seek_s = plan.start_s - _skipped_s(probe, plan)
    end_s = _end_s(probe, plan)
    span = {"ss": seek_s} if seek_s else {}
    return span if end_s == math.inf else span | {"t": end_s - seek_s}


def _end_s(probe: Probe, plan: DecodePlan) -> float:
    """Where reading ends at the latest: what comes long after the header's end does so by a jump of time."""
    if plan.end_s != math.inf or not probe.duration_s:
        return plan.end_s
    return max(plan.start_s, _OVERRUN_RATIO * probe.duration_s) + _OVERRUN_S


def _skipped_s(probe: Probe, plan: DecodePlan) -> float:
    """What is decoded before the span, so that the frame on display at its start is there."""
    return min(plan.start_s, _PREROLL_S if probe.is_indexed else _BLIND_PREROLL_S)


def _scaled(stream: ffmpeg.nodes.FilterableStream, probe: Probe, plan: DecodePlan) -> ffmpeg.nodes.Stream:
    """Constant rate from time zero, square pixels, short side as asked, bt709 limited range, 4:2:0."""
    side = plan.short_side_px
    # `fps` shows the last frame that is not later than an instant: half a frame earlier, it is the nearest.
    lead_s = _skipped_s(probe, plan) + float(1 / (2 * max(probe.frame_rate_fps, plan.frame_rate_fps)))
    fields = stream.filter("bwdif", mode="send_frame", deint="interlaced") if probe.is_interlaced else stream
    timed = (
        fields.filter("settb", "AVTB")
        .filter("setpts", f"PTS-{round(lead_s * _US_PER_S)}")
        .filter("fps", str(plan.frame_rate_fps), start_time=0, round="up")
        .filter(
            "trim", end=min(_end_s(probe, plan) - plan.start_s, _FOREVER_S)
        )  # Or `fps` fills a jump of time.
    )
    matrix = "bt709" if not probe.color_matrix_known and probe.height_px >= _HD_HEIGHT_PX else "auto"
    sdr = {"in_color_matrix": matrix, "out_color_matrix": "bt709", "out_range": "tv"}
    scaled = timed.filter(
        "scale",
        w=f"if(gte(dar,1),2*round({side}*dar/2),{side})",
        h=f"if(gte(dar,1),{side},2*round({side}/dar/2))",
        eval="frame",  # A picture of another shape gets another size, which ends the child.
        flags="bicubic",
        **({} if probe.is_hdr else sdr),
    )
    mapped = _tone_mapped(scaled) if probe.is_hdr else scaled
    return mapped.filter("setsar", "1").filter("format", "yuv420p")


def _tone_mapped(stream: ffmpeg.nodes.FilterableStream) -> ffmpeg.nodes.FilterableStream:
    """BT.2020 PQ or HLG as limited-range bt709: below mid grey unchanged, reference white at four fifths."""
    return (
        stream.filter("setparams", color_primaries="bt2020", colorspace="bt2020nc")  # Often left out.
        .filter("zscale", transfer="linear", npl=_WHITE_NITS)
        .filter("format", "gbrpf32le")
        .filter("zscale", primaries="709")
        .filter("tonemap", "mobius", desat=0, peak=_PEAK_NITS / _WHITE_NITS)
        .filter("zscale", transfer="709", matrix="709", range="limited")
    )


def _mono(sample_rate_hz: int) -> str:
    """ffmpeg's down-mix (ITU-R BS.775 weights, scaled so that it cannot exceed full scale), by soxr."""
    return f"aresample={sample_rate_hz}:resampler=soxr:ochl=mono:rematrix_maxval=1"
