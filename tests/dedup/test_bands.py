"""Looking up near codes: all that agree in a band are found, and crowds cost no more than their number."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dedup.bands import Bands, Sieve, Work, are_near, as_words, distances, draw_bands, near_codes
from dedup.pdq import MIRROR_MASK
from dedup.picture import picture_bands

ALL_BITS = np.ones(256, np.bool_)


def random_codes(num: int, seed: int = 0) -> np.ndarray:
    return as_words(np.random.default_rng(seed).integers(0, 256, (num, 32), np.uint8))


def bands(num_bands: int = 8, window: int = 32, max_distance: int = 20) -> Bands:
    masks_TW = draw_bands(ALL_BITS, num_bands=num_bands, bits_per_band=16)
    return Bands(mask_TW=masks_TW, max_distance=max_distance, window=window)


def found(codes: np.ndarray, owners: list[int], is_new: list[bool], how: Bands) -> tuple[set, Work]:
    work = Work()
    lots = near_codes(codes, np.array(owners), np.array(is_new), how, work)
    return {
        tuple(sorted(pair)) for lot in lots for pair in zip(*(a.tolist() for a in lot), strict=True)
    }, work


@given(st.lists(st.binary(min_size=64, max_size=64), min_size=1, max_size=8))
def test_distances_are_counts_of_different_bits(rows):
    codes = np.frombuffer(b"".join(rows), np.uint8).reshape(-1, 2, 32)
    expected = [int(np.unpackbits(one ^ other).sum()) for one, other in codes]
    left, right = (as_words(np.ascontiguousarray(codes[:, side])) for side in (0, 1))
    assert distances(left, right).tolist() == expected


def test_distances_of_opposites_is_every_bit():
    code = random_codes(1)
    assert distances(code, ~code).tolist() == [256]


def test_draw_bands_read_only_allowed_bits_as_many_as_asked():
    allowed = np.arange(256) % 3 == 0
    masks = np.unpackbits(draw_bands(allowed, num_bands=5, bits_per_band=12).view(np.uint8), axis=1)
    assert masks.sum(axis=1).tolist() == [12] * 5
    assert not masks[:, ~allowed].any()


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 40))
def test_near_codes_finds_what_agrees_in_a_band_and_nothing_else(seed, num):
    generator = np.random.default_rng(seed)
    codes = random_codes(3, seed)[generator.integers(0, 3, num)].copy()
    codes[:, 0] ^= np.uint64(1) << generator.integers(0, 64, num, np.uint64)
    owners = np.sort(generator.integers(0, 10, num))
    is_new = (generator.random(10) < 0.5)[owners]
    how = bands(window=num)
    agree = [((codes & mask_W)[:, None] == (codes & mask_W)).all(axis=2) for mask_W in how.mask_TW]
    is_wanted = np.any(agree, axis=0) & (is_new[:, None] | is_new) & (owners[:, None] != owners)
    is_wanted &= are_near(codes[:, None], codes[None], how)
    pairs, _ = found(codes, owners.tolist(), is_new.tolist(), how)
    expected_owners = {tuple(sorted((owners[i], owners[j]))) for i, j in np.argwhere(np.triu(is_wanted))}
    assert {tuple(sorted((owners[i], owners[j]))) for i, j in pairs} == expected_owners


def test_near_codes_compares_a_crowd_with_its_window_and_counts_the_rest():
    codes = np.repeat(random_codes(1), 1000, axis=0)
    pairs, work = found(codes, list(range(1000)), [True] * 1000, bands(num_bands=1, window=4))
    assert len(pairs) == work.num_compared == 4 * 1000 - 10
    assert work.num_left_out == 1000 * 999 // 2 - work.num_compared
    assert {(index, index + 1) for index in range(999)} <= pairs  # So all are joined.


def test_near_codes_a_new_code_in_an_old_crowd_is_compared():
    codes = np.repeat(random_codes(1), 100, axis=0)
    pairs, work = found(codes, list(range(100)), [False] * 99 + [True], bands(num_bands=1, window=4))
    assert pairs == {(index, 99) for index in range(95, 99)}
    assert work.num_compared == 4


@pytest.mark.parametrize("mirrored", [False, True])
def test_picture_bands_meet_mirrored_codes(mirrored):
    codes = np.repeat(random_codes(1), 2, axis=0)
    codes[1] ^= as_words(MIRROR_MASK)[0] if mirrored else np.uint64(0)
    assert found(codes, [0, 1], [True, False], picture_bands(max_distance=10))[0] == {(0, 1)}


def test_sieve_passes_what_agrees_and_little_else():
    new, old = random_codes(100), random_codes(20_000, seed=1)
    old[:50] = new[:50]
    passes = Sieve(new, picture_bands(max_distance=10)).passes(old)
    assert passes[:50].all()
    assert passes[50:].sum() <= 20  # 12 bands x 100 codes on 2 ** 26 places: some 0.4 of 20,000 are expected.
