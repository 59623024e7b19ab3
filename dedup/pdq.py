"""PDQ: 256 bits of a picture that stay nearly the same when it is coded again, scaled, brightened or stamped.

    luma -> tent filter and decimation to 64 x 64 -> the lowest 16 x 16 frequencies but the mean -> above
    their median?

Filter and decimation are linear along each axis, so only what the 64 places read is computed.

N frames, H rows, W columns, P places along an axis, K pixels that a place reads, I and J frequencies, B
bytes.

Source: Meta, The TMK+PDQF Video-Hashing Algorithm and the PDQ Image-Hashing Algorithm, 2019; its code is
facebook/ThreatExchange, pdq/cpp, commit 0234393.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

CODE_BITS = 256
CODE_BYTES = CODE_BITS // 8
MAX_QUALITY = 100

_NUM_PLACES = 64
_NUM_FREQUENCIES = 16
_NUM_PASSES = 2
# Gradients of the small picture over this give the quality. Source: pdqhashing.cpp,
# pdqImageDomainQualityMetric.
_QUALITY_SCALE = 90
_FULL_RANGE = 255

Codes = NDArray[np.uint8]
"""256-bit codes, one a row of 32 bytes; bit k of a code is bit 7 - k % 8 of byte k // 8."""

_ROW, _COLUMN = np.divmod(np.arange(CODE_BITS), _NUM_FREQUENCIES)
MIRROR_MASK = np.packbits(_COLUMN % 2 == 0)
"""Bits [32 bytes] that change when left and right are swapped; what the shift of the median changes as well
is 2% of the bits (measured on 12 videos: at most 12 of 256)."""
ROBUST_BITS: NDArray[np.bool_] = _ROW + _COLUMN <= 15
"""Bits [256] of the lower frequencies: in copies 7% of them differ, of the others 14% (measured)."""


def pdq_codes(luma_NHW: NDArray[np.uint8]) -> tuple[Codes, NDArray[np.int64]]:
    """The code of every frame, and its quality from 0 (plain) to `MAX_QUALITY`.

    An affine change of luma (limited or full range, brighter, more contrast) changes no bit, but scales the
    gradients that quality counts. A frame of less than 50 is plain: its bits are noise (source: the paper,
    section "Quality").
    """
    spectrum_NIJ, quality_N = pdq_spectra(luma_NHW)
    return spectrum_codes(spectrum_NIJ), quality_N


def pdq_spectra(luma_NHW: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Frequencies 1 to 16 along both axes of every frame, rows first, and the frames' qualities."""
    small_NPP = np.stack([_small_picture(luma_HW) for luma_HW in luma_NHW])
    basis_IP = _dct_basis()
    spectrum_NIJ: NDArray[np.float32] = np.matmul(basis_IP @ small_NPP, basis_IP.T)
    return spectrum_NIJ, _quality(small_NPP)


def spectrum_codes(spectrum_NIJ: NDArray[np.float32]) -> Codes:
    """One bit a frequency: whether it is above the lower median of all of them."""
    flat_NF = spectrum_NIJ.reshape(len(spectrum_NIJ), CODE_BITS)
    median_N1 = np.partition(flat_NF, CODE_BITS // 2 - 1, axis=1)[:, CODE_BITS // 2 - 1 : CODE_BITS // 2]
    return np.packbits(flat_NF > median_N1, axis=1)


def dihedral_codes(spectrum_NIJ: NDArray[np.float32]) -> dict[str, Codes]:
    """Codes of the frames as they are, turned and mirrored, without looking at a picture again.

    `mirror` swaps left and right, `flip` up and down; turns are counter-clockwise.
    """
    sign = np.where(np.arange(_NUM_FREQUENCIES) % 2 == 0, -1, 1).astype(np.float32)
    columns, rows = sign[np.newaxis, :], sign[:, np.newaxis]
    transposed_NJI = np.swapaxes(spectrum_NIJ, 1, 2)
    variants = {
        "same": spectrum_NIJ,
        "mirror": spectrum_NIJ * columns,
        "flip": spectrum_NIJ * rows,
        "turn_180": spectrum_NIJ * columns * rows,
        "transpose": transposed_NJI,
        "turn_90": transposed_NJI * rows,
        "turn_270": transposed_NJI * columns,
        "transpose_180": transposed_NJI * columns * rows,
    }
    return {name: spectrum_codes(variant_NIJ) for name, variant_NIJ in variants.items()}


def _small_picture(luma_HW: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The frame filtered and decimated to 64 x 64."""
    rows_PK, row_weights_PK = _reads(luma_HW.shape[0])
    columns_PK, column_weights_PK = _reads(luma_HW.shape[1])
    bands_PW = np.zeros((_NUM_PLACES, luma_HW.shape[1]), np.float32)
    for rows_P, weights_P in zip(rows_PK.T, row_weights_PK.T, strict=True):
        bands_PW += luma_HW[rows_P] * weights_P[:, np.newaxis]
    return np.einsum("rpk,pk->rp", bands_PW[:, columns_PK], column_weights_PK)


@cache
def _reads(num_px: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Pixels along an axis that each of the 64 places reads, and with what weights [P, K]."""
    kernel = np.eye(num_px)
    if num_px != _NUM_PLACES:
        box = _box_filter(num_px)
        kernel = np.linalg.matrix_power(box, _NUM_PASSES)
    centres_P = ((np.arange(_NUM_PLACES) + 0.5) * num_px / _NUM_PLACES).astype(int)
    weights_PX = kernel[centres_P]
    num_read = int((weights_PX > 0).sum(axis=1).max())
    first_P = np.minimum((weights_PX > 0).argmax(axis=1), num_px - num_read)
    read_PK = first_P[:, np.newaxis] + np.arange(num_read)
    return read_PK, np.take_along_axis(weights_PX, read_PK, axis=1).astype(np.float32)


def _box_filter(num_px: int) -> NDArray[np.float64]:
    """Matrix of the running mean along an axis; at the ends it is the mean of what is there."""
    window = -(-num_px // (2 * _NUM_PLACES))
    back, ahead = (window - 1) // 2, window // 2
    places = np.arange(num_px)
    offset = places[np.newaxis, :] - places[:, np.newaxis]
    inside = (-back <= offset) & (offset <= ahead)
    return inside / inside.sum(axis=1, keepdims=True)


@cache
def _dct_basis() -> NDArray[np.float32]:
    frequency_I1 = np.arange(1, _NUM_FREQUENCIES + 1)[:, np.newaxis]
    place_P = 2 * np.arange(_NUM_PLACES) + 1
    cosines_IP = np.cos(np.pi / (2 * _NUM_PLACES) * frequency_I1 * place_P)
    return (np.sqrt(2 / _NUM_PLACES) * cosines_IP).astype(np.float32)


def _quality(small_NPP: NDArray[np.float32]) -> NDArray[np.int64]:
    gradients = [np.diff(small_NPP, axis=axis) * 100 / _FULL_RANGE for axis in (1, 2)]
    total_N = sum(np.abs(np.trunc(step_NXY)).sum(axis=(1, 2)) for step_NXY in gradients)
    return np.minimum(np.asarray(total_N).astype(np.int64) // _QUALITY_SCALE, MAX_QUALITY)
