"""Stage: square frames of a kept clip -> the small pictures that the encoders look at.

N frames, B bytes of a planar 4:2:0 frame, C colours, H rows, W columns.
"""

import math
from fractions import Fraction

import cv2
import numpy as np
from numpy.typing import NDArray

from infra.units import s_to_frames_floor

EMBED_SIDE_PX = 224
"""Input size of the CLIP vision towers. Source: open_clip model configs, ViT-B-32 and ViT-L-14."""

# Limited-range YCbCr to full-range RGB. Source: ITU-R BT.709-6, section 3.
_RGB_FROM_YCBCR = np.array(
    [[1.164384, 0.0, 1.792741], [1.164384, -0.213249, -0.532909], [1.164384, 2.112402, 0.0]]
)
_YCBCR_ZERO = np.array([16, 128, 128])
_RGB_FROM_YCBCR = np.column_stack([_RGB_FROM_YCBCR, -_RGB_FROM_YCBCR @ _YCBCR_ZERO])


def middle_frames(num_frames: int, frame_rate_fps: Fraction) -> list[int]:
    """Indices of the frames that encoders see: for each second begun the one in its middle, or the last one."""
    num_seconds = math.ceil(num_frames / frame_rate_fps)
    middles = (s_to_frames_floor(second + 0.5, frame_rate_fps) for second in range(num_seconds))
    return [min(index, num_frames - 1) for index in middles]


def embed_pictures(i420_NB: NDArray[np.uint8], *, side_px: int) -> NDArray[np.uint8]:
    """Square frames as RGB pictures, NHWC at `EMBED_SIDE_PX`."""
    return np.stack([_rgb_small(frame_B, side_px) for frame_B in i420_NB])


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
    rgb_HWC = cv2.transform(cv2.merge(small).astype(np.float32), _RGB_FROM_YCBCR)
    return np.clip(np.rint(rgb_HWC), 0, 255).astype(np.uint8)
