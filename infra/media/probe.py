"""What is known of a media file before it is decoded."""

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What a file's header and first frame say of its first video and first audio stream."""

    duration_s: float
    """Container duration; 0.0 when the header does not say."""
    width_px: int
    """Display width: rotation and sample aspect ratio applied."""
    height_px: int
    """Display height: rotation and sample aspect ratio applied."""
    frame_rate_fps: Fraction
    """Average over the stream; 0 when the header does not say."""
    video_codec: str
    pixel_format: str
    is_hdr: bool
    """Whether its transfer is PQ or HLG."""
    is_interlaced: bool
    """Whether its first frame says that it is made of two fields."""
    video_stream_index: int
    has_audio: bool
    sample_rate_hz: int
    """0 when there is no audio stream."""
    num_audio_channels: int
    """0 when there is no audio stream."""
    audio_layout: str
    """Which channels there are, as ffmpeg names it (`stereo`, `5.1`); empty when there is no audio stream."""
    audio_codec: str
    """Empty when there is no audio stream."""
    audio_stream_index: int
    """Meaningless when there is no audio stream."""
