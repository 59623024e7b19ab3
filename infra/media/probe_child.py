"""The probe child: for a JSON path a line on stdin, an empty line and a JSON answer on stdout. See probe.py."""

import json
import sys
from fractions import Fraction
from typing import Any

import av
from av.container import InputContainer

from infra.errors import MediaTooLarge, MissingStream, Truncated, Undecodable
from infra.media.child import FORMAT_WHITELIST, PROTOCOL_WHITELIST

_OPTIONS = {"protocol_whitelist": PROTOCOL_WHITELIST, "format_whitelist": FORMAT_WHITELIST}
_MAX_SIDE_PX = 65_535  # No picture is larger; a header that says so is broken or hostile.
# The others are searched by time stamp, and the search may end after the key frame that a span needs.
_INDEXED_FORMATS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
_MIN_BYTES_PER_S = 50  # Assumption, not measured: a frame and a packet of silence alone take a few hundred.
_HDR_TRANSFERS = {16, 18}  # AVCOL_TRC_SMPTE2084, AVCOL_TRC_ARIB_STD_B67, ffmpeg libavutil/pixfmt.h
_UNSPECIFIED_MATRIX = 2  # AVCOL_SPC_UNSPECIFIED, ffmpeg libavutil/pixfmt.h


def describe(path: str) -> dict[str, Any]:
    """The fields of `probe.Probe` for the file at `path`, or its error's code and message."""
    try:
        with av.open(f"file:{path}", container_options=_OPTIONS, metadata_errors="ignore") as container:
            return _facts(container)
    except (MissingStream, MediaTooLarge, Truncated) as err:
        return {"code": err.code, "message": str(err)}
    except MemoryError as err:
        return {"code": MediaTooLarge.code, "message": f"the header must fit in memory, got {_reason(err)}"}
    except (av.FFmpegError, OSError, ValueError, StopIteration) as err:
        return {"code": Undecodable.code, "message": f"the header must be readable, got {_reason(err)}"}


def _reason(err: Exception) -> str:
    if isinstance(err, StopIteration):
        return "no video frame"
    log = getattr(err, "log", None)  # PyAV: (level, component, message) of ffmpeg's last line
    return log[2].strip() if log else str(err)


def _facts(container: InputContainer) -> dict[str, Any]:
    videos = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not videos:
        raise MissingStream("a video stream is required, the file has none")
    video, audios = videos[0], container.streams.audio
    audio = audios[0] if audios else None
    matrix = video.codec_context.colorspace
    rate = video.average_rate or video.guessed_rate or Fraction(0)
    pixel_format = video.codec_context.pix_fmt or "unknown"
    video.thread_type = "NONE"
    frame = next(container.decode(video))  # Rotation, fields and often the transfer are told by frames alone.
    width_px, height_px = _display_size(frame, video)
    # Matroska's duration counts from zero, not from the first frame. Source: RFC 9559, section 5.1.2.
    late = max(0, container.start_time or 0) if "matroska" in container.format.name else 0
    duration_s = max(0, (container.duration or 0) - late) / av.time_base
    _require_bytes_for(duration_s, container.size)
    return {
        "is_indexed": container.format.name in _INDEXED_FORMATS,
        "duration_s": duration_s,
        "width_px": width_px,
        "height_px": height_px,
        "frame_rate_fps": (rate.numerator, rate.denominator),
        "video_codec": video.codec_context.name,
        "pixel_format": pixel_format,
        "color_matrix_known": matrix is not None and int(matrix) != _UNSPECIFIED_MATRIX,
        "is_hdr": int(frame.color_trc) in _HDR_TRANSFERS,
        "is_interlaced": frame.interlaced_frame,
        "video_stream_index": video.index,
        "has_audio": audio is not None,
        "sample_rate_hz": audio.codec_context.sample_rate if audio else 0,
        "num_audio_channels": audio.codec_context.channels if audio else 0,
        "audio_codec": audio.codec_context.name if audio else "",
        "audio_stream_index": audio.index if audio else -1,
    }


def _require_bytes_for(duration_s: float, num_bytes: int) -> None:
    if num_bytes < _MIN_BYTES_PER_S * duration_s:
        raise Truncated(
            f"a file must hold at least {_MIN_BYTES_PER_S} bytes for each second that its header states,"
            f" got {num_bytes} bytes for {duration_s:.0f} s"
        )


def _display_size(frame: av.VideoFrame, video: av.VideoStream) -> tuple[int, int]:
    """Width and height as shown: sample aspect ratio stretches the width, then rotation may swap them."""
    aspect = video.sample_aspect_ratio or Fraction(1)
    width_px, height_px = max(1, round(frame.width * aspect)), frame.height
    if max(width_px, height_px) > _MAX_SIDE_PX:
        raise MediaTooLarge(
            f"a picture must be at most {_MAX_SIDE_PX} px a side, got {width_px} x {height_px} as shown"
        )
    return (height_px, width_px) if frame.rotation % 180 else (width_px, height_px)


def main() -> None:
    """Answer until stdin ends."""
    av.logging.set_level(av.logging.PANIC)
    for line in sys.stdin:
        print(flush=True)  # Taken up: from here on the file is to blame.
        print(json.dumps(describe(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
