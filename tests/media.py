"""Clips made with the real ffmpeg at test time, and the real corpus where it is at hand."""

import subprocess
from pathlib import Path

import pytest

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
