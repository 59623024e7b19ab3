"""Which codes may be near each other, without comparing each with each: they agree in all bits of some band.

A band is a choice of bits. Per band, codes are sorted by those bits, and only neighbours within a run of
equal bits are compared. More than `window` codes of one run (logos, countdowns, test pictures) are not
compared with each other: each meets the `window` before it, which still joins all that are alike into one
group; how many pairs that left out is counted. Time is that of sorting; memory is one number a code beside
the codes.

N codes, W words of 64 bits, T bands, P pairs of codes, B bytes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dedup.pdq import CODE_BITS, CODE_BYTES

_NUM_WORDS = CODE_BYTES // 8
_EVEN_BYTES = np.uint32(0x00FF00FF)
_BITMAP_BITS = 26
_SEED = 20_261_123
_PAIRS_AT_ONCE = 1 << 20
# Odd numbers with bits as good as random, one a word. Source: Steele, Vigna 2022, Computationally Easy,
# Spectrally Good Multipliers, table 5 (64 bits), and its products modulo 2**64.
_MULTIPLIERS = np.array(
    [0xD1342543DE82EF95, 0xAF251AF3B0F025B5, 0xB564EF22EC7AECE5, 0xF7C2EBC08F67F2B5], np.uint64
)

Words = NDArray[np.uint64]
"""256-bit codes, one a row of 4 words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bands:
    """How codes of one kind are looked up, and how near is near."""

    mask_TW: Words
    max_distance: int
    """Codes that differ in more bits are not near."""
    mirror_W: Words | None = None
    """Bits that change when the picture is mirrored; no band reads them, so mirrored codes meet as well."""
    window: int = 32
    """Codes of a run of equal bits that each one is compared with."""


@dataclass(slots=True, kw_only=True)
class Work:
    """What a search did."""

    num_codes: int = 0
    num_compared: int = 0
    """Pairs of codes whose distance was taken."""
    num_left_out: int = 0
    """Pairs of codes that agree in a band and were not compared, for their run is too crowded."""

    def add(self, other: "Work") -> None:
        """Count another search as well."""
        self.num_codes += other.num_codes
        self.num_compared += other.num_compared
        self.num_left_out += other.num_left_out


def draw_bands(allowed: NDArray[np.bool_], *, num_bands: int, bits_per_band: int) -> Words:
    """Masks of so many of the allowed bits [256], the same every time."""
    generator = np.random.default_rng(_SEED)
    places = np.flatnonzero(allowed)
    bits_TB = np.zeros((num_bands, CODE_BITS), np.uint8)
    for bits_B in bits_TB:
        bits_B[generator.permutation(places)[:bits_per_band]] = 1
    return as_words(np.packbits(bits_TB, axis=1))


def as_words(codes_NB: NDArray[np.uint8]) -> Words:
    """Codes as rows of 64-bit words."""
    return np.ascontiguousarray(codes_NB).view("<u8").reshape(-1, _NUM_WORDS)


def distances(codes_PW: Words, others_PW: Words) -> NDArray[np.uint32]:
    """Number of bits in which the codes of each row differ."""
    counts_P = np.bitwise_count(codes_PW ^ others_PW).view("<u4")[..., 0]
    # The four counts of a row are added within one number: three times as fast as a sum along the rows.
    pairs_P = (counts_P & _EVEN_BYTES) + (counts_P >> np.uint32(8) & _EVEN_BYTES)
    return (pairs_P + (pairs_P >> np.uint32(16))) & np.uint32(0xFFFF)


def are_near(codes_PW: Words, others_PW: Words, bands: Bands) -> NDArray[np.bool_]:
    """Whether the codes of each row are near, as they are or mirrored."""
    near_P = distances(codes_PW, others_PW) <= bands.max_distance
    if bands.mirror_W is not None:
        near_P |= distances(codes_PW ^ bands.mirror_W, others_PW) <= bands.max_distance
    return near_P


class Sieve:
    """Tells which of many stored codes may be near one of the new ones, at one look a band."""

    def __init__(self, new_NW: Words, bands: Bands) -> None:
        self._bands = bands
        self._bitmaps = np.zeros((len(bands.mask_TW), 1 << (_BITMAP_BITS - 3)), np.uint8)
        for bitmap, mask_W in zip(self._bitmaps, bands.mask_TW, strict=True):
            byte_N, bit_N = self._place(new_NW, mask_W)
            np.bitwise_or.at(bitmap, byte_N, bit_N)

    def passes(self, codes_NW: Words) -> NDArray[np.bool_]:
        """Whether each code agrees with a new one in some band; a few that do not pass as well."""
        passed_N = np.zeros(len(codes_NW), np.bool_)
        for bitmap, mask_W in zip(self._bitmaps, self._bands.mask_TW, strict=True):
            byte_N, bit_N = self._place(codes_NW, mask_W)
            passed_N |= (bitmap[byte_N] & bit_N) != 0
        return passed_N

    @staticmethod
    def _place(codes_NW: Words, mask_W: Words) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
        place_N = _keys(codes_NW, mask_W) >> np.uint64(64 - _BITMAP_BITS)
        return place_N >> np.uint64(3), np.uint8(1) << (place_N & np.uint64(7)).astype(np.uint8)


def near_codes(
    codes_NW: Words, owner_N: NDArray[np.int64], is_new_N: NDArray[np.bool_], bands: Bands, work: Work
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Positions of near codes of different owners, one of them new: first, second; a pair may come once a band.

    Codes of one owner lie together; those of them that agree in a band are looked up by the first.
    """
    work.num_codes += len(codes_NW)
    for mask_W in bands.mask_TW:
        key_N, order_N = _runs(_keys(codes_NW, mask_W), owner_N)
        work.num_left_out += _num_left_out(key_N, bands.window)
        starts = np.arange(len(key_N))
        for step in range(1, bands.window + 1):
            starts = starts[: np.searchsorted(starts, len(key_N) - step)]
            starts = starts[key_N[starts] == key_N[starts + step]]
            if not len(starts):
                break
            for first in range(0, len(starts), _PAIRS_AT_ONCE):
                chunk = starts[first : first + _PAIRS_AT_ONCE]
                left_P, right_P = order_N[chunk], order_N[chunk + step]
                wanted_P = is_new_N[left_P] | is_new_N[right_P]
                left_P, right_P = left_P[wanted_P], right_P[wanted_P]
                work.num_compared += len(left_P)
                near_P = are_near(codes_NW[left_P], codes_NW[right_P], bands)
                yield left_P[near_P], right_P[near_P]


def _keys(codes_NW: Words, mask_W: Words) -> NDArray[np.uint64]:
    """A 64-bit hash of the bits of a band; its high bits are the good ones."""
    key_N: NDArray[np.uint64] = np.zeros(len(codes_NW), np.uint64)
    for word in np.flatnonzero(mask_W):
        key_N += (codes_NW[:, word] & mask_W[word]) * _MULTIPLIERS[word]
        key_N ^= key_N >> np.uint64(32)
    return key_N * _MULTIPLIERS[0]


def _runs(
    key_N: NDArray[np.uint64], owner_N: NDArray[np.int64]
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Keys that several owners have, in order, with the positions of their codes; an owner once a key."""
    index_bits = max(1, len(key_N).bit_length())
    low = np.uint64((1 << index_bits) - 1)
    packed = (key_N & ~low) | np.arange(len(key_N), dtype=np.uint64)
    packed.sort()
    key = packed & ~low
    repeated = np.zeros(len(key) + 1, np.bool_)
    repeated[1:-1] = key[1:] == key[:-1]
    inside = repeated[1:] | repeated[:-1]
    key, order = key[inside], (packed[inside] & low).astype(np.int64)
    if len(key):
        again = (key[1:] == key[:-1]) & (owner_N[order[1:]] == owner_N[order[:-1]])
        once = np.concatenate([[True], ~again])
        key, order = key[once], order[once]
    return key, order


def _num_left_out(key_N: NDArray[np.uint64], window: int) -> int:
    """Pairs within runs that are further apart than the window."""
    ends = (
        np.flatnonzero(np.concatenate([key_N[1:] != key_N[:-1], [True]])) if len(key_N) else np.array([], int)
    )
    beyond = np.maximum(np.diff(ends, prepend=-1) - 1 - window, 0)
    return int((beyond * (beyond + 1) // 2).sum())
