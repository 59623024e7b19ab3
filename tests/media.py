"""Clips made with the real ffmpeg at test time, and the real corpus where it is at hand."""

import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from infra.media.child import find_ffmpeg

CORPUS = Path(__file__).resolve().parents[2] / "shared" / "corpus"
needs_corpus = pytest.mark.skipif(not CORPUS.is_dir(), reason="the corpus of real media is not at hand")

# Speech-like: a harmonic tone that comes and goes four times a second over faint noise.
SPEECH = (
    "aevalsrc=exprs='0.3*(sin(2*PI*220*t)+0.5*sin(2*PI*440*t)+0.3*sin(2*PI*880*t))"
    "*gt(sin(2*PI*2*t)\\,-0.2)+0.0005*(random(0)-0.5)':s=48000"
)


def ffmpeg(*arguments: str | Path) -> None:
    """Run ffmpeg; its message is in the error."""
    command = [
        str(find_ffmpeg()),
        "-hide_banner",
        "-loglevel",
        "error",
        "-nostdin",
        "-y",
        *map(str, arguments),
    ]
    subprocess.run(command, check=True, capture_output=True)


def make_clip(
    path: Path,
    *,
    duration_s: float = 4.0,
    video: str = "testsrc2=size=640x480:rate=25",
    audio: str = SPEECH,
    options: tuple[str, ...] = (),
) -> Path:
    """A small mp4 (or whatever the suffix says); an empty `audio` leaves the sound out."""
    sound = ("-f", "lavfi", "-i", audio, "-c:a", "aac", "-b:a", "96k") if audio else ()
    path.parent.mkdir(parents=True, exist_ok=True)
    ffmpeg(
        "-f", "lavfi", "-i", video, *sound, "-t", str(duration_s),
        "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", *options, path,
    )  # fmt: skip
    return path


CLOCK_BITS = 10
"""Columns of a clock picture: the bits of its frame number."""
_CLOCK_COLUMN_PX, _CLOCK_HEIGHT_PX = 8, 72
_CLOCK_SEED = 1


def clock_sound(duration_s: float) -> NDArray[np.float64]:
    """Noise below 4 kHz at 16 kHz: every place in it is like no other, so it tells its own time."""
    noise_T = np.random.default_rng(_CLOCK_SEED).standard_normal(round(duration_s * 16_000))
    return 0.2 * np.convolve(noise_T, np.hamming(9) / np.hamming(9).sum(), "same")


def make_clock_clip(
    path: Path, *, rate_fps: Fraction, duration_s: float, options: tuple[str, ...] = ()
) -> Path:
    """A clip whose frame n shows the bits of n and whose sound is `clock_sound`, from one time zero."""
    numbers_N = np.arange(round(duration_s * rate_fps))
    bits_NB = (numbers_N[:, None] >> np.arange(CLOCK_BITS)) & 1
    rows_NW = np.repeat(np.where(bits_NB, 235, 16).astype(np.uint8), _CLOCK_COLUMN_PX, axis=1)
    video, audio = path.with_suffix(".gray"), path.with_suffix(".pcm")
    video.write_bytes(np.repeat(rows_NW[:, None], _CLOCK_HEIGHT_PX, axis=1).tobytes())
    audio.write_bytes((clock_sound(duration_s) * 32_767).astype("<i2").tobytes())
    ffmpeg(
        "-f", "rawvideo", "-pix_fmt", "gray", "-s", f"{CLOCK_BITS * _CLOCK_COLUMN_PX}x{_CLOCK_HEIGHT_PX}",
        "-r", str(rate_fps), "-i", video, "-f", "s16le", "-ar", "16000", "-ac", "1", "-i", audio,
        "-vf", "scale=in_range=tv:out_range=tv,format=yuv420p", "-c:v", "libx264", "-preset", "veryfast",
        "-crf", "18", "-c:a", "aac", "-b:a", "128k", *options, path,
    )  # fmt: skip
    return path


def shown_numbers(luma_NHW: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The frame number that each picture of a clock clip shows."""
    width_px = luma_NHW.shape[2]
    middles = (np.arange(CLOCK_BITS) + 0.5) * width_px / CLOCK_BITS
    bits_NB = luma_NHW.mean(axis=1)[:, middles.astype(int)] > 125
    return bits_NB @ (1 << np.arange(CLOCK_BITS))


def sound_start_s(mono_S: NDArray[np.int16], duration_s: float) -> float:
    """The time in `clock_sound(duration_s)` at which the samples (16 kHz) start, to a sample."""
    reference_T = clock_sound(duration_s)
    num = 1 << int(np.ceil(np.log2(len(reference_T) + len(mono_S))))
    spectrum = np.fft.rfft(reference_T, num) * np.conj(np.fft.rfft(mono_S.astype(float), num))
    lag = int(np.argmax(np.fft.irfft(spectrum, num)))
    return (lag if lag < len(reference_T) else lag - num) / 16_000
