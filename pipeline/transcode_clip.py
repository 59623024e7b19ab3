"""Stage: Segment of a kept clip -> square frames, and the small pictures that the encoders look at.

N frames, B bytes of a planar 4:2:0 frame, C chroma planes, H rows, W columns.
"""

import math
from fractions import Fraction

import cv2
import numpy as np
from numpy.typing import NDArray

from infra.media.decode import Segment
from infra.units import s_to_frames_floor

EMBED_SIDE_PX = 224
"""Input size of the CLIP vision towers. Source: open_clip model configs, ViT-B-32 and ViT-L-14."""

# Limited-range YCbCr to full-range RGB. Source: ITU-R BT.709-6, section 3.
_BT709_FROM_YCBCR = np.array(
    [[1.164384, 0.0, 1.792741], [1.164384, -0.213249, -0.532909], [1.164384, 2.112402, 0.0]], np.float32
)
_YCBCR_ZERO = np.array([16, 128, 128], np.float32)


def crop_center(segment: Segment, side_px: int) -> NDArray[np.uint8]:
    """The middle square of every frame, planar 4:2:0, one frame a row.

    `side_px` is the short side of the segment's frames, and even.
    """
    top_px = (segment.height_px - side_px) // 4 * 2  # Even, so that chroma is cut at the same place.
    left_px = (segment.width_px - side_px) // 4 * 2
    num_luma, num_square = segment.height_px * segment.width_px, side_px * side_px
    chroma_NCHW = segment.i420_NB[:, num_luma:].reshape(-1, 2, segment.height_px // 2, segment.width_px // 2)
    square_NB = np.empty((segment.num_frames, num_square * 3 // 2), np.uint8)
    square_NB[:, :num_square].reshape(-1, side_px, side_px)[:] = _window(
        segment.luma_NHW, top_px, left_px, side_px
    )
    square_NB[:, num_square:].reshape(-1, 2, side_px // 2, side_px // 2)[:] = _window(
        chroma_NCHW, top_px // 2, left_px // 2, side_px // 2
    )
    return square_NB


def _window(planes: NDArray[np.uint8], top_px: int, left_px: int, side_px: int) -> NDArray[np.uint8]:
    return planes[..., top_px : top_px + side_px, left_px : left_px + side_px]


def embed_pictures(
    i420_NB: NDArray[np.uint8], *, side_px: int, frame_rate_fps: Fraction
) -> NDArray[np.uint8]:
    """One RGB picture for each second begun, from the middle of that second, NHWC at `EMBED_SIDE_PX`.

    A last second that ends before its middle gives its last frame.
    """
    num_seconds = math.ceil(len(i420_NB) / frame_rate_fps)
    middles = [s_to_frames_floor(second + 0.5, frame_rate_fps) for second in range(num_seconds)]
    return np.stack([_rgb_small(i420_NB[min(index, len(i420_NB) - 1)], side_px) for index in middles])


def _rgb_small(i420_B: NDArray[np.uint8], side_px: int) -> NDArray[np.uint8]:
    num_luma, half_px = side_px * side_px, side_px // 2
    planes = (
        i420_B[:num_luma].reshape(side_px, side_px),
        i420_B[num_luma : num_luma * 5 // 4].reshape(half_px, half_px),
        i420_B[num_luma * 5 // 4 :].reshape(half_px, half_px),
    )
    small = [
        cv2.resize(plane, (EMBED_SIDE_PX, EMBED_SIDE_PX), interpolation=cv2.INTER_AREA) for plane in planes
    ]
    ycbcr_HWC = np.stack(small, axis=-1).astype(np.float32) - _YCBCR_ZERO
    return np.clip(np.rint(ycbcr_HWC @ _BT709_FROM_YCBCR.T), 0, 255).astype(np.uint8)
