"""Copies of clips as they are found in the wild, made with ffmpeg, and what they decode to.

N frames, H rows, W columns, T samples.
"""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from dedup.sound import SOUND_RATE_HZ
from infra.media.child import find_ffmpeg
from tests.media import CORPUS, ffmpeg

RATE_FPS = 8.0
_SHORT_SIDE_PX = 512
# Copies are made of at most 360 lines: that is one change more, and saves time.
_SMALL = "scale='if(lt(iw,ih),min(iw,360),-2)':'if(lt(iw,ih),-2,min(ih,360))'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """A clip of the corpus."""

    file: str
    start_s: float
    end_s: float

    @property
    def name(self) -> str:
        """File and start."""
        return f"{self.file}@{self.start_s:g}"

    def overlaps(self, other: "Original") -> bool:
        """Whether both show some of the same moments."""
        return self.file == other.file and self.start_s < other.end_s and other.start_s < self.end_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What is done to a clip."""

    name: str
    picture: str = ""
    """A filter of ffmpeg."""
    sound: str = ""
    """A filter of ffmpeg; `mute` and `dub` leave the sound out or take another clip's."""
    shift_s: float = 0.0
    options: tuple[str, ...] = ()


def _speed(factor: float) -> Change:
    return Change(name=f"speed_{factor:g}", picture=f"setpts=PTS/{factor:g}", sound=f"atempo={factor:g}")


def _crop(ratio: float) -> Change:
    rest = 1 - ratio
    return Change(name=f"crop_{ratio:g}", picture=f"crop=iw*{rest:g}:ih*{rest:g}")


CHANGES = (
    Change(name="crf_35", options=("-crf", "35")),
    Change(name="mpeg4_aac_64k", options=("-c:v", "mpeg4", "-q:v", "8", "-b:a", "64k")),
    Change(name="vp9_opus", options=("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-c:a",
    "libopus")), Change(name="scale_2", picture="scale=iw/2:-2"),
    Change(name="scale_4", picture="scale=iw/4:-2"),
    _crop(0.05),
    _crop(0.1),
    _crop(0.2),
    Change(name="letterbox", picture="pad=iw:ih*1.333:0:(oh-ih)/2"),
    Change(name="mirror", picture="hflip"),
    Change(name="shift_1.3", shift_s=1.3),
    Change(name="shift_3.7", shift_s=3.7),
    _speed(0.9),
    _speed(1.1),
    _speed(1.25),
    Change(name="dub", sound="dub"),
    Change(name="logo", picture="drawbox=x=iw*0.8:y=ih*0.05:w=iw*0.15:h=ih*0.1:color=white:t=fill"),
    Change(name="bright", picture="eq=brightness=0.08:contrast=1.25"),
    Change(name="grey", picture="hue=s=0"),
    Change(name="mute", sound="mute"),
    Change(name="quiet", sound="volume=0.25"),
    Change(name="mono_64k", options=("-ac", "1", "-b:a", "64k")),
)  # fmt: skip


def make_copy(path: Path, original: Original, change: Change, *, dub: Original) -> Path:
    """An encoded copy of a clip, changed."""
    start_s, length_s = original.start_s + change.shift_s, original.end_s - original.start_s
    inputs: list[str | Path] = ["-ss", f"{start_s:g}", "-t", f"{length_s:g}", "-i", CORPUS / original.file]
    sound: list[str] = ["-map", "0:a?"]
    if change.sound == "mute":
        sound = ["-an"]
    elif change.sound == "dub":
        inputs += ["-ss", f"{dub.start_s:g}", "-t", f"{length_s:g}", "-i", CORPUS / dub.file]
        sound = ["-map", "1:a?"]
    elif change.sound:
        sound += ["-af", change.sound]
    parts = [_SMALL, change.picture, "scale=trunc(iw/2)*2:trunc(ih/2)*2"]
    picture = ",".join(filter(None, parts))
    ffmpeg(
        *inputs, "-map", "0:v:0", *sound, "-vf", picture, "-c:v", "libx264", "-preset", "ultrafast",
        "-pix_fmt", "yuv420p", "-c:a", "aac", *change.options, path,
    )  # fmt: skip
    return path


def decoded(
    path: Path, *, start_s: float = 0.0, length_s: float = 60.0
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Luma at `RATE_FPS`, short side 512, as the pipeline sees it, and the mono sound; either may be empty."""
    with av.open(str(path)) as file:
        stream, has_sound = file.streams.video[0], bool(file.streams.audio)
        scale = _SHORT_SIDE_PX / min(stream.width, stream.height)
        width_px, height_px = (round(px * scale / 2) * 2 for px in (stream.width, stream.height))
    cut = ["-ss", f"{start_s:g}", "-t", f"{length_s:g}", "-i", str(path)]
    picture = f"fps={RATE_FPS:g},scale={width_px}:{height_px},format=yuv420p"
    planes = _output(*cut, "-vf", picture, "-f", "rawvideo")
    frames_NB = np.frombuffer(planes, np.uint8).reshape(-1, width_px * height_px * 3 // 2)
    luma_NHW = frames_NB[:, : width_px * height_px].reshape(-1, height_px, width_px)
    if not has_sound:
        return luma_NHW, np.zeros(0, np.float32)
    sound = _output(*cut, "-vn", "-ac", "1", "-ar", str(SOUND_RATE_HZ), "-f", "f32le")
    return luma_NHW, np.frombuffer(sound, "<f4")


def _output(*arguments: str) -> bytes:
    command = [str(find_ffmpeg()), "-loglevel", "error", "-nostdin", *arguments, "-"]
    return subprocess.run(command, check=True, capture_output=True).stdout
