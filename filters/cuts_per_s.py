"""Finds montages and strobing edits: clips that hold several shots.

Shapes: N frames, M = N - 1 steps from a frame to the next, H rows, W columns.
"""

import numpy as np
from numpy.typing import NDArray

from filters.registry import Bounds, register
from filters.signals import VideoSignal
from infra.errors import TooShort

F32 = NDArray[np.float32]

# Frames are halved until the short side is below this: layout is kept, texture and small motion are not.
_SMALL_SIDE_PX = 64
# Variance, in luma^2, below which a small frame counts as flat: its structure is noise.
_FLAT_VARIANCE = 4.0
# A step is a change from here on. Measured on the corpus: the weakest of 4 true cuts has a structure change of
# 0.46; steady camera and subject motion stays below 0.35. Luma counts where structure says nothing, when one of
# the two frames is flat. PySceneDetect's least change for a cut (AdaptiveDetector min_content_val) is 15.
_CHANGE_STRUCTURE, _CHANGE_LUMA = 0.35, 20.0
# A change is a cut if it stands out from the steps beside it by this factor: pans, fades and fast subjects
# change for several steps on end. PySceneDetect's AdaptiveDetector asks 3 times the mean of 2 steps a side;
# the larger of 1 step a side keeps cuts that come every other frame.
_ISOLATION = 2.0
# A change this large is a cut whatever is beside it: nothing of the layout is left. Assumption.
_SURE_STRUCTURE, _SURE_LUMA = 0.85, 100.0


def _shrink(luma_NHW: NDArray[np.uint8]) -> F32:
    """The frames averaged over blocks of a power of two."""
    import cv2

    _, height, width = luma_NHW.shape
    # One buffer a size for all frames: allocating each costs as much as the averaging.
    buffers: list[NDArray[np.uint8]] = []
    while min(height, width) >= _SMALL_SIDE_PX:
        height, width = height // 2, width // 2
        buffers.append(np.empty((height, width), np.uint8))
    small_NHW = np.empty((len(luma_NHW), height, width), np.float32)
    # Copied before it is averaged: a plain copy waits less for memory than averaging does.
    frame_HW = np.empty(luma_NHW.shape[1:], np.uint8)
    for index, luma_HW in enumerate(luma_NHW):
        np.copyto(frame_HW, luma_HW)
        averaged_HW: NDArray[np.uint8] = frame_HW
        for half_HW in buffers:
            height, width = half_HW.shape
            even_HW = averaged_HW[: 2 * height, : 2 * width]
            cv2.resize(even_HW, (width, height), dst=half_HW, interpolation=cv2.INTER_AREA)
            averaged_HW = half_HW
        small_NHW[index] = averaged_HW
    return small_NHW


def _structure_change(a_MHW: F32, b_MHW: F32) -> F32:
    """1 - correlation of each pair's pixels, in [0, 2]: blind to brightness and contrast, 0 for flat frames."""
    a_MHW = a_MHW - a_MHW.mean(axis=(1, 2), keepdims=True)
    b_MHW = b_MHW - b_MHW.mean(axis=(1, 2), keepdims=True)
    covariance_M = (a_MHW * b_MHW).mean(axis=(1, 2))
    spread_M = np.sqrt((a_MHW**2).mean(axis=(1, 2)) * (b_MHW**2).mean(axis=(1, 2)))
    change_M: F32 = 1 - (covariance_M + _FLAT_VARIANCE) / (spread_M + _FLAT_VARIANCE)
    return change_M


def _shifted_change(a_HW: F32, b_HW: F32) -> float:
    """Structure change that is left once `b` is moved back over `a` by the best whole-pixel pan."""
    import cv2

    height, width = a_HW.shape
    window_HW = cv2.createHanningWindow((width, height), cv2.CV_32F)
    (shift_x, shift_y), _ = cv2.phaseCorrelate(a_HW - a_HW.mean(), b_HW - b_HW.mean(), window_HW)
    x, y = round(shift_x), round(shift_y)
    if abs(x) > width // 2 or abs(y) > height // 2:
        return 2.0
    overlap_a = a_HW[max(-y, 0) : height - max(y, 0), max(-x, 0) : width - max(x, 0)]
    overlap_b = b_HW[max(y, 0) : height + min(y, 0), max(x, 0) : width + min(x, 0)]
    return float(_structure_change(overlap_a[None], overlap_b[None])[0])


def _luma_change(a_MHW: F32, b_MHW: F32) -> F32:
    """Mean absolute difference of each pair's pixels, in luma steps."""
    change_M: F32 = np.abs(a_MHW - b_MHW).mean(axis=(1, 2))
    return change_M


def _has_flat_frame(small_NHW: F32) -> NDArray[np.bool_]:
    """Steps from or to a frame without structure."""
    flat_N = small_NHW.var(axis=(1, 2)) < _FLAT_VARIANCE
    either_M: NDArray[np.bool_] = flat_N[:-1] | flat_N[1:]
    return either_M


def _is_cut(change_M: F32, beside_M: F32, *, least: float, sure: float) -> NDArray[np.bool_]:
    """Steps whose change stands out from `beside_M` on both sides, or is sure by itself."""
    before_M = np.concatenate([[0], beside_M[:-1]])
    after_M = np.concatenate([beside_M[1:], [0]])
    isolated_M = change_M >= _ISOLATION * np.maximum(before_M, after_M)
    return (change_M >= least) & (isolated_M | (change_M >= sure))


def _drop_flashes(cut_M: NDArray[np.bool_], calm_M: NDArray[np.bool_], small_NHW: F32) -> NDArray[np.bool_]:
    """The cuts without pairs that lead through one odd frame back to a shot that goes on."""
    kept_M = cut_M.copy()
    for step in np.flatnonzero(cut_M[:-1] & cut_M[1:]):
        before_HW, after_HW = small_NHW[step][None], small_NHW[step + 2][None]
        same_shot = (
            _structure_change(before_HW, after_HW)[0] < _CHANGE_STRUCTURE
            and _luma_change(before_HW, after_HW)[0] < _CHANGE_LUMA
        )
        # At least one side holds still: a picture that alternates every frame is cut, not lit.
        if same_shot and calm_M[max(step - 1, 0) : step + 3].any():
            kept_M[step : step + 2] = False
    return kept_M


def cut_frames(luma_NHW: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Indices of the frames that begin a new shot, ascending, in [1, N - 1]; none for fewer than 2 frames.

    Slow fades, dissolves, pans and a flash of one frame are not cuts; a cut every other frame counts. Cuts that
    are closer than one frame count once, and cuts on successive frames count only when nothing of the layout is
    left. Not told from cuts: dissolves of less than half a second, pans by more than 0.15 widths a frame, light
    that leaves no structure for two frames or more (each change of a strobe counts then), and now and then a
    fast subject that fills the first or last step. Not found: jump cuts within one setting, and half of the cuts
    straight out of a fade.

    On 8 files of 12 real shots of 0.3 to 3 s, spliced at 25 frames a second and coded: precision and recall 1.0
    at +-1 frame. Measured: tests/bench/bench_cuts.py, 2026-11-23.
    """
    if len(luma_NHW) < 2:
        return np.empty(0, np.intp)
    small_NHW = _shrink(luma_NHW)
    structure_M = _structure_change(small_NHW[:-1], small_NHW[1:])
    luma_M = _luma_change(small_NHW[:-1], small_NHW[1:])
    calm_M = (structure_M < _CHANGE_STRUCTURE) & (luma_M < _CHANGE_LUMA)
    unpanned_M = structure_M.copy()
    for step in np.flatnonzero(structure_M >= _CHANGE_STRUCTURE):
        shifted = _shifted_change(small_NHW[step], small_NHW[step + 1])
        unpanned_M[step] = min(structure_M[step], shifted)
    flat_luma_M = np.where(_has_flat_frame(small_NHW), luma_M, np.float32(0))
    cut_M = _is_cut(unpanned_M, structure_M, least=_CHANGE_STRUCTURE, sure=_SURE_STRUCTURE)
    cut_M |= _is_cut(flat_luma_M, luma_M, least=_CHANGE_LUMA, sure=_SURE_LUMA)
    return np.flatnonzero(_drop_flashes(cut_M, calm_M, small_NHW)) + 1


@register(
    name="cuts_per_s",
    version=1,
    needs="video",
    unit="cuts/s",
    keep=Bounds(max=2, strict=True),
    source="after PySceneDetect 0.7 AdaptiveDetector (a change that stands out from its neighbours) on the"
    " structure term of SSIM (Wang et al. 2004); bound: project standard",
)
def cuts_per_s(video: VideoSignal) -> float:
    """Hard cuts a second, in [0, frame rate]: steps where layout or luma changes and its neighbours do not.

    Duration is N / frame rate; `cut_frames` says what counts. In 15 corpus files it finds 4 of 4 cuts and
    1 title that appears on black, and nothing else (measured by eye, 2026-11-23; tests/filters/test_corpus.py).

    Raises:
        TooShort: fewer than 2 frames.
    """
    num_frames = len(video.luma_NHW)
    if num_frames < 2:
        raise TooShort(f"cuts_per_s must have at least 2 frames, got {num_frames}")
    return float(len(cut_frames(video.luma_NHW)) * video.frame_rate_fps / num_frames)
