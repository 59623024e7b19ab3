"""Embeddings -> 256 bits: on which side of so many planes through the origin a vector lies.

Two vectors at an angle differ in each bit with the probability angle / 180 degrees. Embeddings of pictures
fill a narrow cone, so that bits alone say little; they only propose pairs, whose cosine is then taken.

C clips, N vectors of a clip, D numbers of a vector.

Source: Charikar 2002, Similarity Estimation Techniques from Rounding Algorithms, STOC, section 3.
"""

import numpy as np
from numpy.typing import NDArray

from dedup.bands import Bands, draw_bands
from dedup.pdq import CODE_BITS, Codes

_SEED = 20_261_123
# Unrelated embeddings have a cosine of 0.6: one pair in a million agrees in a band of 40 bits, of those with
# a cosine of 0.97 nine in ten in one band at least (by the probability above).
_NUM_BANDS, _BITS_PER_BAND = 64, 40
# A cosine of 0.97 makes 20 bits differ, give or take 4.
_MAX_DISTANCE = 40


def meaning_bands() -> Bands:
    """How codes of embeddings are looked up."""
    allowed = np.ones(CODE_BITS, np.bool_)
    masks_TW = draw_bands(allowed, num_bands=_NUM_BANDS, bits_per_band=_BITS_PER_BAND)
    return Bands(mask_TW=masks_TW, max_distance=_MAX_DISTANCE)


def mean_vector(vectors_ND: NDArray[np.floating]) -> NDArray[np.float32]:
    """The mean of a clip's vectors as a unit vector; zeros stay zeros."""
    mean_D = vectors_ND.astype(np.float64).mean(axis=0)
    return (mean_D / max(float(np.linalg.norm(mean_D)), np.finfo(np.float32).tiny)).astype(np.float32)


def meaning_codes(vector_CD: NDArray[np.float32]) -> Codes:
    """The code of every vector."""
    planes_DB = np.random.default_rng(_SEED).standard_normal((vector_CD.shape[1], CODE_BITS), np.float32)
    return np.packbits(vector_CD @ planes_DB > 0, axis=1)
