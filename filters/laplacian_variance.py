"""Finds blurred, out-of-focus and upscaled pictures: they have no fine detail."""

import numpy as np

from filters.registry import Bounds, register
from filters.signals import VideoSignal
from infra.errors import TooShort


@register(
    name="laplacian_variance",
    version=1,
    needs="video",
    unit="luma^2",
    keep=Bounds(min=100, strict=True),
    source="Pech-Pacheco et al. 2000 (ICPR), variance of the Laplacian; bound: project standard",
)
def laplacian_variance(video: VideoSignal) -> float:
    """Variance of the 3x3 Laplacian (0 1 0 / 1 -4 1 / 0 1 0) of a frame, median over frames; >= 0.

    Taken on limited-range luma with the short side at 512 px, so sources of all sizes compare; the border is
    mirrored without its edge row (OpenCV's default). The same picture as full-range grey reads
    (255/219)^2 = 1.36 times as much. Grain and coding noise read as detail; a sharp subject before a blurred
    ground, fog and flat animation read as blur.

    Raises:
        TooShort: there is no frame.
    """
    import cv2

    if len(video.luma_NHW) == 0:
        raise TooShort("laplacian_variance must have at least 1 frame, got 0")
    # One buffer for all frames: allocating each costs three times the filter itself.
    buffer_HW = np.empty(video.luma_NHW.shape[1:], np.int16)
    variance_N = np.empty(len(video.luma_NHW))
    for index, luma_HW in enumerate(video.luma_NHW):
        laplacian_HW = cv2.Laplacian(luma_HW, cv2.CV_16S, dst=buffer_HW, ksize=1)
        mean = cv2.sumElems(laplacian_HW)[0] / laplacian_HW.size
        mean_square = cv2.norm(laplacian_HW, cv2.NORM_L2SQR) / laplacian_HW.size
        variance_N[index] = max(mean_square - mean**2, 0.0)
    return float(np.median(variance_N))
