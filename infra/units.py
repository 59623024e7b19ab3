"""Conversions between units. `int()` on a time is banned elsewhere: round here, by name."""

from fractions import Fraction

BYTES_PER_MIB = 1024 * 1024
MS_PER_S = 1000
S_PER_H = 3600


def frames_to_samples(frame_index: int, *, sample_rate_hz: int, frame_rate_fps: Fraction) -> int:
    """Audio sample at which video frame `frame_index` begins, rounded to the nearest sample."""
    return round(Fraction(frame_index * sample_rate_hz) / frame_rate_fps)


def frames_to_s(num_frames: int, frame_rate_fps: Fraction) -> float:
    """Duration of `num_frames` at a constant rate, in seconds."""
    return float(num_frames / frame_rate_fps)


def s_to_frames_floor(duration_s: float, frame_rate_fps: Fraction) -> int:
    """Whole frames that fit in `duration_s`."""
    return int(Fraction(duration_s).limit_denominator(1_000_000) * frame_rate_fps)


def s_to_ms(time_s: float) -> int:
    """Nearest millisecond."""
    return round(time_s * MS_PER_S)
