"""Stage: frames of a kept clip -> squares of one size, in the way the recipe asks for.

    planes -> (crop_black_bars) the picture -> the part of it that is shown -> copied or scaled into the square

All frames of a clip are treated alike, and pixels stay square.

N frames, B bytes of a planar 4:2:0 frame, H rows, W columns, K frames looked at for content in S x T blocks,
L places along the long side of a picture.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from filters.letterbox_ratio import picture_box

CropPolicy = Literal["center", "pad", "smart"]

Planes = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]
"""Luma, blue and red difference of the same frames, each NHW: views, chroma at half the height and width."""

_PARTS = (1, 2, 2)  # Pixels along a sample of each plane. Source: 4:2:0.
_BLACK = (16, 128, 128)  # Source: ITU-R BT.709-6, section 3, limited range.
# A smaller picture between bars is left as it is. Assumption: film of 2.39:1 on an upright phone takes 2.4.
_MAX_ENLARGEMENT = 4
# Blocks along the short side at least, and the spread of their content as a share of it. Source: Hou, Harel, Koch
# 2012 (see `_signature`), pictures of 64 x 48 blurred by 0.045 of the width.
_MIN_BLOCKS, _SPREAD_RATIO = 48, 0.06
# Frames, evenly over the clip, in which content is sought. Assumption, not measured.
_MAX_FRAMES = 8
# Changes of a block's mean, and parts of its spectrum, up to these are noise. Assumption, not measured.
_NOISE_LUMA, _NOISE_SPECTRUM = 2.0, 1.0
# Content counts in full from this share of the spectrum on, or this mean change. Assumption, not measured.
_MIN_CONTENT = 0.05
# Squares whose content differs by no more are as good as each other. Assumption, not measured.
_TIE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class SquarePlan:
    """What of the frames of a clip becomes squares, alike for all of them. Sizes are height, width; all even."""

    frame_px: tuple[int, int]
    side_px: int
    picture_px: tuple[int, int, int, int]
    """What is looked at of a frame: top, left, height, width."""
    scaled_px: tuple[int, int]
    """Size that the picture is brought to."""
    corner_px: tuple[int, int]
    """Top, left of the part of it that is shown."""
    shown_px: tuple[int, int]
    """Size of that part; it lies in the middle of the square, between black bars when it is smaller."""


def plan_square(
    i420_NB: NDArray[np.uint8],
    *,
    frame_px: tuple[int, int],
    side_px: int,
    policy: CropPolicy,
    crop_black_bars: bool,
) -> SquarePlan:
    """Which part of a clip is shown.

    `center` is the middle square of the picture, `smart` the square along its long side with most of what stands
    out or moves, `pad` all of it between black bars.

    Args:
        i420_NB: N >= 1 frames, limited-range bt709, planar 4:2:0, one a row.
        frame_px: their height and width, even, 16 or more.
        crop_black_bars: the picture is what lies between black bars, scaled to fit; otherwise it is the frame.
    """
    frame = _planes(i420_NB, *frame_px)
    picture_px = _between_bars(frame[0], side_px) if crop_black_bars else (0, 0, *frame_px)
    size_px = picture_px[2:]
    is_whole = policy == "pad"
    fitted_px = max(size_px) if is_whole else min(size_px)
    height_px, width_px = (_even_px(side_px * px / fitted_px) for px in size_px)
    spare_px = 0 if is_whole else max(height_px, width_px) - side_px
    start_px = _middle_px(spare_px)
    if policy == "smart":
        start_px = _salient_start_px(_cut(frame, *picture_px), side_px, spare_px)
    return SquarePlan(
        frame_px=frame_px,
        side_px=side_px,
        picture_px=picture_px,
        scaled_px=(height_px, width_px),
        corner_px=(start_px, 0) if height_px > width_px else (0, start_px),
        shown_px=(height_px, width_px) if is_whole else (side_px, side_px),
    )


def draw_squares(i420_NB: NDArray[np.uint8], plan: SquarePlan) -> NDArray[np.uint8]:
    """Frames as squares, planar 4:2:0, one a row, contiguous."""
    square_NB = np.empty((len(i420_NB), plan.side_px * plan.side_px * 3 // 2), np.uint8)
    square = _planes(square_NB, plan.side_px, plan.side_px)
    if plan.shown_px != (plan.side_px, plan.side_px):
        for plane_NHW, black in zip(square, _BLACK, strict=True):
            plane_NHW[:] = black
    picture = _cut(_planes(i420_NB, *plan.frame_px), *plan.picture_px)
    _draw(picture, _middle(square, *plan.shown_px), size_px=plan.scaled_px, corner_px=plan.corner_px)
    return square_NB


def _planes(i420_NB: NDArray[np.uint8], height_px: int, width_px: int) -> Planes:
    num_luma = height_px * width_px
    luma_NB, blue_NB, red_NB = np.split(i420_NB, [num_luma, num_luma * 5 // 4], axis=1)
    chroma_shape = (-1, height_px // 2, width_px // 2)
    return (
        luma_NB.reshape(-1, height_px, width_px),
        blue_NB.reshape(chroma_shape),
        red_NB.reshape(chroma_shape),
    )


def _cut(planes: Planes, top_px: int, left_px: int, height_px: int, width_px: int) -> Planes:
    """The same part of each plane; everything is even, so that chroma is cut at the same place."""
    luma_NHW, blue_NHW, red_NHW = (
        plane_NHW[
            :, top_px // part : (top_px + height_px) // part, left_px // part : (left_px + width_px) // part
        ]
        for plane_NHW, part in zip(planes, _PARTS, strict=True)
    )
    return luma_NHW, blue_NHW, red_NHW


def _middle(planes: Planes, height_px: int, width_px: int) -> Planes:
    """A part of that size from the middle of each plane."""
    _, rows, columns = planes[0].shape
    return _cut(planes, _middle_px(rows - height_px), _middle_px(columns - width_px), height_px, width_px)


def _between_bars(luma_NHW: NDArray[np.uint8], side_px: int) -> tuple[int, int, int, int]:
    """Top, left, height, width between black bars, without the lines that share a chroma sample with them."""
    top_px, bottom_px, left_px, right_px = (
        edge_px // 2 * 2 for span in picture_box(luma_NHW) for edge_px in (span.start + 1, span.stop)
    )
    height_px, width_px = bottom_px - top_px, right_px - left_px
    if min(height_px, width_px) * _MAX_ENLARGEMENT < side_px:
        return 0, 0, luma_NHW.shape[1], luma_NHW.shape[2]
    return top_px, left_px, height_px, width_px


def _draw(source: Planes, target: Planes, *, size_px: tuple[int, int], corner_px: tuple[int, int]) -> None:
    """Fill the target with the part at `corner_px` of the source when that has been scaled to `size_px`."""
    import cv2

    for source_NHW, target_NHW, part in zip(source, target, _PARTS, strict=True):
        rows, columns = (px // part for px in size_px)
        top, left = (px // part for px in corner_px)
        window = np.s_[..., top : top + target_NHW.shape[1], left : left + target_NHW.shape[2]]
        if source_NHW.shape[1:] == (rows, columns):
            # As fast as by frame, by `cv2.copyTo` or with lines as items: measured 2026-11-23.
            target_NHW[:] = source_NHW[window]
            continue
        method = cv2.INTER_AREA if rows * columns < source_NHW[0].size else cv2.INTER_CUBIC
        for source_HW, target_HW in zip(source_NHW, target_NHW, strict=True):
            target_HW[:] = cv2.resize(source_HW, (columns, rows), interpolation=method)[window]


def _even_px(wanted_px: float) -> int:
    return max(2, 2 * round(wanted_px / 2))


def _middle_px(spare_px: int) -> int:
    """The even place at or before the middle."""
    return spare_px // 4 * 2


def _salient_start_px(picture: Planes, side_px: int, spare_px: int) -> int:
    """Where along the long side the square with most content starts, as near to the middle as may be.

    The picture is seen with a short side of `side_px`, and a long side that is `spare_px` longer.
    """
    _, rows, columns = picture[0].shape
    block_px = max(2, min(rows, columns) // _MIN_BLOCKS // 2 * 2)
    content_L = _content_ST(picture, block_px).sum(axis=0 if columns > rows else 1)
    up_to = np.concatenate([[0.0], np.cumsum(content_L)])
    places_px = _middle_px(max(rows, columns) - len(content_L) * block_px) + np.arange(len(up_to)) * block_px
    seen_px = places_px * side_px / min(rows, columns)
    starts_px = np.arange(0, spare_px + 1, 2)
    held = np.interp(starts_px + side_px, seen_px, up_to) - np.interp(starts_px, seen_px, up_to)
    good_px = starts_px[held >= held.max() - _TIE]
    return int(good_px[np.abs(good_px - _middle_px(spare_px)).argmin()])


def _content_ST(picture: Planes, block_px: int) -> NDArray[np.float64]:
    """How much stands out plus how much moves in each block; each is at most 1 in all."""
    import cv2

    num_frames, *size_px = picture[0].shape
    rows, columns = (px // block_px // 2 * 2 for px in size_px)  # Even, as the transform needs it.
    whole = _middle(picture, rows * block_px, columns * block_px)
    looked_at = np.unique(np.linspace(0, num_frames - 1, _MAX_FRAMES).astype(int))
    means = [_means_KST(plane_NHW, looked_at, rows, columns) for plane_NHW in whole]
    standing_ST = np.sum([_signature(mean_ST) for mean_KST in means for mean_ST in mean_KST], axis=0)
    changes = [np.abs(np.diff(mean_KST, axis=0)) for mean_KST in means]
    moving_ST = np.sum(np.maximum(np.subtract(changes, _NOISE_LUMA), 0), axis=(0, 1))
    num_blocks = rows * columns * len(looked_at)
    shares_ST = _shares(standing_ST / (num_blocks * len(means))) + _shares(moving_ST / num_blocks)
    blurred_ST: NDArray[np.float64] = np.empty_like(shares_ST)
    cv2.GaussianBlur(shares_ST, (0, 0), _SPREAD_RATIO * min(rows, columns), dst=blurred_ST)
    return blurred_ST


def _means_KST(
    plane_NHW: NDArray[np.uint8], looked_at: NDArray[np.intp], rows: int, columns: int
) -> NDArray[np.float32]:
    import cv2

    small = [cv2.resize(plane_NHW[k], (columns, rows), interpolation=cv2.INTER_AREA) for k in looked_at]
    return np.stack(small).astype(np.float32)


def _signature(mean_ST: NDArray[np.float32]) -> NDArray[np.float64]:
    """How much each block stands out from a ground that is smooth or regular, by the image signature.

    The sum is the number of coefficients above the noise.

    Source: Hou, Harel, Koch 2012, Image Signature: Highlighting Sparse Salient Regions, IEEE PAMI 34(1); the
    blur and the mean over the channels are the caller's.
    """
    import cv2

    spectrum_ST = cv2.dct(mean_ST - mean_ST.mean())
    spectrum_ST[np.abs(spectrum_ST) < _NOISE_SPECTRUM] = 0
    return np.square(cv2.idct(np.sign(spectrum_ST))).astype(float)


def _shares(content_ST: NDArray[np.float64]) -> NDArray[np.float64]:
    return content_ST / max(float(content_ST.sum()), _MIN_CONTENT)
