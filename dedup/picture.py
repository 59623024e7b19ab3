"""PDQ codes of the moments at which a picture is most still, of all of it and of its middle parts.

Frames at fixed times show something else in a copy that starts a tenth of a second later. Where the picture
rests, its neighbours look like it, and a copy rests at the same places whatever its start and speed.

PDQ bears a cut of about 3% of the sides. Middle parts of 1, 0.93 and 0.80 of the sides stand to each other as
0.93, 0.86 and 0.80, so that some part of a copy that was cut evenly by up to a fifth is within that of some
part of the original.

N frames, H rows, W columns, M moments, S parts, B bytes.
"""

import numpy as np
from numpy.typing import NDArray

from dedup.bands import Bands, as_words, draw_bands
from dedup.pdq import CODE_BYTES, MIRROR_MASK, ROBUST_BITS, pdq_codes

# Sides of the parts over those of the picture. Source: a sparse ruler of four steps of 7%; measured:
# tests/bench/bench_dedup_quality.py.
PARTS = (1.0, 0.93, 0.80)

# A moment is the stillest within this time of it. Measured: 0.7 as many codes as two a second, of which more
# are found again in shifted copies (0.79 against 0.72).
_REACH_S = 0.375
# Change is taken between every n-th row and column, as many as this along the short side.
_SAMPLED_PX = 64
# PDQ reads 64 x 64 places; pictures are averaged to at least this many pixels a side first.
_SMALL_PX = 128
# Plainer pictures have no code. Source: Meta's paper asks for 50 of 100. Measured: at 20 no more copies are found,
# and two plain pictures with one white logo are near each other.
_MIN_QUALITY = 50
# A moment whose code differs less from that of the last one tells nothing new. Assumption.
_MIN_NEWS_BITS = 10
# Of a hundred million codes at random, fewer than one agrees with a given one in a band. Measured:
# bench_dedup.py.
_NUM_BANDS, _BITS_PER_BAND = 12, 28


def picture_bands(*, max_distance: int) -> Bands:
    """How picture codes are looked up; near ones and near mirrored ones meet."""
    allowed = ROBUST_BITS & (np.unpackbits(MIRROR_MASK) == 0)
    return Bands(
        mask_TW=draw_bands(allowed, num_bands=_NUM_BANDS, bits_per_band=_BITS_PER_BAND),
        max_distance=max_distance,
        mirror_W=as_words(MIRROR_MASK)[0],
    )


def picture_codes(luma_NHW: NDArray[np.uint8], *, rate_fps: float) -> NDArray[np.uint8]:
    """Codes [M, S, 32] of the moments, in order; M is 0 where every picture is plain.

    Args:
        luma_NHW: N >= 1 frames without black bars.
        rate_fps: their rate.
    """
    frames_M = still_frames(luma_NHW, reach_frames=max(1, round(_REACH_S * rate_fps)))
    small_MHW = np.stack([_averaged(luma_HW) for luma_HW in luma_NHW[frames_M]])
    whole_MB, quality_M = pdq_codes(small_MHW)
    wanted_M = (quality_M >= _MIN_QUALITY) & _is_news(whole_MB)
    parts = [pdq_codes(_middle(small_MHW[wanted_M], part))[0] for part in PARTS[1:]] if wanted_M.any() else []
    if not parts:
        return np.empty((0, len(PARTS), CODE_BYTES), np.uint8)
    return np.stack([whole_MB[wanted_M], *parts], axis=1)


def still_frames(luma_NHW: NDArray[np.uint8], *, reach_frames: int) -> NDArray[np.intp]:
    """Frames that differ no more from their two neighbours than any within reach; of equals in a row the first."""
    step = max(1, min(luma_NHW.shape[1:]) // _SAMPLED_PX)
    sampled = luma_NHW[:, ::step, ::step].astype(np.int16)
    change = np.abs(np.diff(sampled, axis=0)).mean(axis=(1, 2), dtype=np.float32)
    if not len(change):
        return np.zeros(1, np.intp)
    change_N = np.pad(change, (1, 0), mode="edge") + np.pad(change, (0, 1), mode="edge")
    padded = np.pad(change_N, reach_frames, constant_values=np.inf)
    least_N = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach_frames + 1).min(axis=1)
    is_first_N = np.diff(change_N, prepend=-1) != 0  # Of a stretch without any change.
    return np.flatnonzero((change_N == least_N) & is_first_N)


def _averaged(luma_HW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture with squares of pixels as one, as large as `_SMALL_PX` allows."""
    block = min(luma_HW.shape) // _SMALL_PX
    if block < 2:
        return luma_HW
    rows, columns = (px // block * block for px in luma_HW.shape)
    sums = np.zeros((rows // block, columns // block), np.uint16)
    for row in range(block):
        for column in range(block):
            sums += luma_HW[row:rows:block, column:columns:block]
    return (sums // (block * block)).astype(np.uint8)


def _middle(small_MHW: NDArray[np.uint8], part: float) -> NDArray[np.uint8]:
    tops = [round(px * (1 - part) / 2) for px in small_MHW.shape[1:]]
    return small_MHW[:, tops[0] : small_MHW.shape[1] - tops[0], tops[1] : small_MHW.shape[2] - tops[1]]


def _is_news(codes_MB: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Whether each code differs from the last one that did."""
    is_news_M = np.zeros(len(codes_MB), np.bool_)
    last_B = None
    for index, code_B in enumerate(codes_MB):
        if last_B is None or np.bitwise_count(code_B ^ last_B).sum() >= _MIN_NEWS_BITS:
            is_news_M[index], last_B = True, code_B
    return is_news_M
