"""Pictures with a known answer: drawn ones, and shots of real footage; luma at 8 frames a second.

Shapes: N frames, H rows, W columns.
"""

from contextlib import closing
from fractions import Fraction
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from filters.signals import VideoSignal
from infra.media.reader import MediaReader, ReadPlan
from tests.media import CORPUS
from tests.segments import read_segment

Luma = NDArray[np.uint8]
Shots = dict[str, Luma]

# Files of the corpus with sound, and the frames before the first cut that the eye sees in each.
_SHOT_ENDS = {
    "bigbuckbunny_720p.mp4": 42,
    "cockatoo_720p_20fps.mp4": 64,
    "lecture_360p.mp4": 64,
    "nasa_180p_8khz.mp4": 64,
    "pancake_240p_opus.mkv": 64,
    "portrait_480x640.mp4": 64,
    "screen_1080p_2min.mp4": 64,
    "stage_704p.mp4": 40,
    "street_360p.mp4": 48,
    "vggsound_0B4dYTMsgHA_000130.mp4": 64,
    "world_270p.mp4": 64,
}


def as_signal(luma_NHW: Luma | list[Luma], frame_rate_fps: int = 8) -> VideoSignal:
    return VideoSignal(luma_NHW=np.asarray(luma_NHW, dtype=np.uint8), frame_rate_fps=Fraction(frame_rate_fps))


def scene(seed: int, *, width: int = 910, height: int = 512, cells: int = 7) -> Luma:
    """Smooth blobs, as different from another seed's as two shots are."""
    coarse = np.random.default_rng(seed).uniform(30, 220, (cells, cells * 2)).astype(np.float32)
    picture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(picture, 16, 235).astype(np.uint8)


def flat(luma: int) -> Luma:
    return np.full((512, 910), luma, np.uint8)


def relit(luma_NHW: Luma, *, gain: float = 1.0, offset: float = 0.0) -> Luma:
    """The frames in other light."""
    return np.clip(luma_NHW * np.float32(gain) + np.float32(offset), 16, 235).astype(np.uint8)


def flashed(luma_NHW: Luma, *, at: int, gain: float, offset: float, num_frames: int = 1) -> Luma:
    """The shot with other light in the frames from `at` on."""
    lit_NHW = luma_NHW.copy()
    lit_NHW[at : at + num_frames] = relit(luma_NHW[at : at + num_frames], gain=gain, offset=offset)
    return lit_NHW


def faded(luma_NHW: Luma, *, to_luma: int, num_frames: int = 6) -> Luma:
    """The shot with a fade over its last frames."""
    share_N = np.clip(np.arange(1 - len(luma_NHW), 1) / num_frames + 1, 0, 1)[:, None, None]
    return np.round(share_N * to_luma + (1 - share_N) * luma_NHW).astype(np.uint8)


def panned(luma_NHW: Luma, *, px_per_frame: int) -> Luma:
    """The shot by a camera that turns over a panorama of the frame and its mirror images."""
    width = luma_NHW.shape[2]
    panorama_NHW = np.concatenate([luma_NHW, luma_NHW[:, :, ::-1]] * 2, axis=2)
    lefts = [index * px_per_frame % (2 * width) for index in range(len(luma_NHW))]
    return np.stack([wide[:, left : left + width] for wide, left in zip(panorama_NHW, lefts, strict=True)])


def num_matched(found: NDArray[np.intp], true: NDArray[np.intp]) -> int:
    """Pairs of a found and a true cut within one frame of each other, none used twice."""
    left = list(found)
    for frame in true:
        near = [other for other in left if abs(other - frame) <= 1]
        if near:
            left.remove(min(near, key=lambda other, frame=frame: abs(other - frame)))
    return len(found) - len(left)


def decode_luma(path: Path, *, num_frames: int) -> Luma:
    """The first frames as the pipeline decodes them: short side 512, 8 a second."""
    plan = ReadPlan(
        frame_rate_fps=Fraction(8), short_side_px=512, window_frames=num_frames, end_s=num_frames / 8
    )
    with closing(MediaReader()) as reader:
        return read_segment(reader, path, plan, num_frames=num_frames).luma_NHW


@cache
def real_shots() -> Shots:
    """Up to 8 s of single shots of the corpus, cropped to 16:9 and halved: 455 x 256 px."""
    return {
        name: np.stack([_halved_wide(luma_HW) for luma_HW in decode_luma(CORPUS / name, num_frames=end)])
        for name, end in _SHOT_ENDS.items()
    }


def pieces(num_frames: int, *, every: int = 16) -> list[Luma]:
    """Runs of that many frames from every shot of the corpus."""
    return [
        shot_NHW[start : start + num_frames]
        for shot_NHW in real_shots().values()
        for start in range(0, len(shot_NHW) - num_frames + 1, every)
    ]


def _halved_wide(luma_HW: Luma) -> Luma:
    height, width = luma_HW.shape
    rows, columns = min(height, width * 9 // 16), min(width, height * 16 // 9)
    top, left = (height - rows) // 2, (width - columns) // 2
    cropped = luma_HW[top : top + rows, left : left + columns]
    return cv2.resize(cropped, (455, 256), interpolation=cv2.INTER_AREA)
