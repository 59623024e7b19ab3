"""What a file's header and first frame say. Runs in the reading child; the fields are those of `probe.Probe`."""

from fractions import Fraction
from typing import Any

import av
from av.container import InputContainer

from infra.errors import MediaTooLarge, MissingStream, Truncated, Undecodable
from infra.media.child import FORMAT_WHITELIST, PROTOCOL_WHITELIST
from infra.media.scaling import HDR_TRANSFERS

_OPTIONS = {"protocol_whitelist": PROTOCOL_WHITELIST, "format_whitelist": FORMAT_WHITELIST}
_MAX_SIDE_PX = 65_535  # No picture is larger; a header that says so is broken or hostile.
# The others are searched by time stamp, and the search may end after the key frame that a span needs.
_INDEXED_FORMATS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
_MIN_BYTES_PER_S = 50  # Assumption, not measured: a frame and a packet of silence alone take a few hundred.


def open_file(path: str) -> InputContainer:
    """The file, never as an option, another protocol or a list of other files; decoders of one thread."""
    container = av.open(f"file:{path}", container_options=_OPTIONS, metadata_errors="ignore")
    for stream in (*container.streams.video, *container.streams.audio):
        if stream.codec_context is not None:  # None when the codec is not known.
            stream.codec_context.thread_type, stream.codec_context.thread_count = "NONE", 1
    return container


def is_indexed(container: InputContainer) -> bool:
    """Whether the container finds the key frame before a time."""
    return container.format.name in _INDEXED_FORMATS


def facts_of(container: InputContainer) -> dict[str, Any]:
    """The fields of a `Probe`, fit for JSON. Reads up to the first frame.

    Raises:
        MissingStream: no video stream.
        Truncated: the file is far too small for the duration that its header states.
        MediaTooLarge: the header states an impossible size.
        Undecodable: its codecs are not known, or its first frame does not decode.
    """
    videos = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not videos:
        raise MissingStream("a video stream is required, the file has none")
    video, audios = videos[0], container.streams.audio
    audio = audios[0] if audios else None
    for stream in (video, audio):
        if stream is not None and stream.codec_context is None:
            raise Undecodable(
                f"picture and sound must be of a codec that ffmpeg knows, stream {stream.index} is not"
            )
    rate = video.average_rate or video.guessed_rate or Fraction(0)
    pixel_format = video.codec_context.pix_fmt or "unknown"
    # Rotation, fields and often the transfer are told by frames alone.
    frame = next(container.decode(video), None)
    if frame is None:
        raise Undecodable("a video stream must hold a frame, it has none")
    width_px, height_px = _display_size(frame, video)
    # Matroska's duration counts from zero, not from the first frame. Source: RFC 9559, section 5.1.2.
    late = max(0, container.start_time or 0) if "matroska" in container.format.name else 0
    duration_s = max(0, (container.duration or 0) - late) / av.time_base
    _require_bytes_for(duration_s, container.size)
    return {
        "duration_s": duration_s,
        "width_px": width_px,
        "height_px": height_px,
        "frame_rate_fps": (rate.numerator, rate.denominator),
        "video_codec": video.codec_context.name,
        "pixel_format": pixel_format,
        "is_hdr": int(frame.color_trc) in HDR_TRANSFERS,
        "is_interlaced": frame.interlaced_frame,
        "video_stream_index": video.index,
        "has_audio": audio is not None,
        "sample_rate_hz": audio.codec_context.sample_rate if audio else 0,
        "num_audio_channels": audio.codec_context.channels if audio else 0,
        "audio_layout": audio.codec_context.layout.name if audio else "",
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
