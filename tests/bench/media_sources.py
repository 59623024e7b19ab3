"""Sources that benchmarks make from the corpus: real pictures, looped, cut, silenced or blurred."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from tests.media import CORPUS, ffmpeg

LONG_1080P = "screen_1080p_2min.mp4"
KEPT_FILES = (
    "bigbuckbunny_720p.mp4",
    "vggsound_0B4dYTMsgHA_000130.mp4",
    "stage_704p.mp4",
    "portrait_480x640.mp4",
    LONG_1080P,
)
"""Files of the corpus of which the standard recipe keeps clips. Whoever measures with them checks that it does."""
# Sound that breaks the bound of silence_ratio, and sound that breaks the bound of snr_db.
_BAD_SOUNDS = ("anullsrc=r=44100:cl=stereo", "anoisesrc=r=44100:a=0.3:seed=1")
_BLUR = "gblur=sigma=8"
_SEED = 1


def make_kept(folder: Path, durations_s: Iterable[int]) -> list[Path]:
    """One source a duration, the kept files in turn, played again and again; not one picture is encoded.

    Every other round through the files has the sound of the next one.
    """
    made = []
    for index, duration_s in enumerate(durations_s):
        round_index, place = divmod(index, len(KEPT_FILES))
        picture, sound = (_kept(place + shift) for shift in (0, round_index % 2))
        path = folder / f"kept_{index:02}_{duration_s}s.mp4"
        _join(picture, _looped(sound), path, duration_s, "-c", "copy")
        made.append(path)
    return made


def make_badly_heard(folder: Path, duration_s: int) -> list[Path]:
    """The pictures of the kept files as they are, with silence or noise in turn."""
    made = []
    for place, name in enumerate(KEPT_FILES):
        path = folder / f"heard_{name}"
        sound = ("-f", "lavfi", "-i", _BAD_SOUNDS[place % len(_BAD_SOUNDS)])
        _join(_kept(place), sound, path, duration_s, "-c:v", "copy", "-c:a", "aac")
        made.append(path)
    return made


def make_blurred(folder: Path, duration_s: int) -> list[Path]:
    """The kept files with their own sound, strongly blurred, encoded as x264 does when it is told nothing."""
    made = []
    for place, name in enumerate(KEPT_FILES):
        path = folder / f"blurred_{name}"
        sound = _looped(_kept(place))
        _join(_kept(place), sound, path, duration_s, "-vf", _BLUR, "-c:v", "libx264", "-c:a", "copy")
        made.append(path)
    return made


def make_long(path: Path, num_plays: int) -> Path:
    """`LONG_1080P` played so many times, not encoded again."""
    ffmpeg("-stream_loop", str(num_plays - 1), "-i", CORPUS / LONG_1080P, "-c", "copy", path)
    return path


def spread_s(num: int, low_s: int, high_s: int) -> list[int]:
    """Whole seconds from low to high, the short ones closer together, always in the same disorder."""
    durations_s = np.rint(1 / np.linspace(1 / low_s, 1 / high_s, num)).astype(int)
    return np.random.default_rng(_SEED).permutation(durations_s).tolist()


def _kept(place: int) -> Path:
    return CORPUS / KEPT_FILES[place % len(KEPT_FILES)]


def _looped(path: Path) -> tuple[str | Path, ...]:
    return ("-stream_loop", "-1", "-i", path)


def _join(picture: Path, sound: tuple[str | Path, ...], path: Path, duration_s: int, *options: str) -> None:
    """Picture and sound side by side for so long."""
    streams = ("-map", "0:v:0", "-map", "1:a:0", "-t", str(duration_s))
    ffmpeg(*_looped(picture), *sound, *streams, *options, path)
