"""PDQ against the published library, and what must hold of any picture."""

import numpy as np
import pytest
from numpy.typing import NDArray

from dedup.pdq import (
    CODE_BYTES,
    MIRROR_MASK,
    dihedral_codes,
    pdq_codes,
    pdq_spectra,
)

# Bits of `pdqhash.compute_dihedral` of pdqhash 0.2.8 (bindings of Meta's code) on `drawn`, read from its last
# bit to its first, 2026-11-23. All have quality 100.
GOLDEN = {
    (2, 100, 75): {
        "same": "02da252a3c4bfd4303f2e1a45e0eae74ee6368898952fd17256cb36dde1b1ad4",
        "turn_90": "ea4916d28a333217cc0c739a74785c3c73beb9adb27389331db3071d05cd70d6",
        "turn_180": "578f8f80691e57e956a74b0e0b5b04debb34c223dc0753bd703919c68b46b07e",
        "turn_270": "bf1cbc78df6698bd9959d920212df69626eb1307e726239948e4adb750189a68",
        "flip": "fd25252ac3b4fd43fc0de1a4a1f1ae74119c688976add916da93b36c21e41ad4",
        "mirror": "a8708f8196e157e9a9584b0ef4a404de44cbc22323f877bd8fc619c774b9b07e",
        "transpose": "15b616d275dc321733f3739a8b875c3c8c41b9ad4d8c8933e24e071dfab230d6",
        "transpose_180": "40e3bc78208998bd66a6d920ded2f696d914130718d92399b719adb7af679a78",
    },
    (3, 480, 640): {
        "same": "20ca474c4632a03713f81dc73f219dd8b0ddc9fe4fb089a501d732e116dd27ef",
        "turn_90": "ffaf2000fd7a0d80fccf44239dd8473972088dcbf58a09e8b63c14db4bf6169c",
        "turn_180": "5517adaa1757aaad45a5bf6d7a74b37265882a5e5ae5230f5402888b53998dcc",
        "turn_270": "aafa8a8aa82fa72aa99aec89c88ded93a7582761a0df8342ab28be711ea3bc36",
        "flip": "ffbd0700bded0007ef0f15c7d0de19d8cf2280f4b04f89a5fea82221f9332766",
        "mirror": "aa68ada2e8a8aaadba52bf6d818bb3729a772a56a51a230fabfd880bac668d44",
        "transpose": "11d0606092850f86077067236a274f798dffcdcf3a7539eac9c354dbb449169f",
        "transpose_180": "55058aaa57d0a72a5665ec893772ed9358a727615f20a34254d7be71e15cbc36",
    },
}


def drawn(seed: int, height_px: int, width_px: int) -> NDArray[np.uint8]:
    """A picture of curves and blocks, from integers alone."""
    y, x = np.mgrid[0:height_px, 0:width_px].astype(np.int64)
    blocks = (x // (8 + seed)) * (y // (5 + seed)) * 7 * (seed + 1)
    curves = x * x * (seed + 3) // width_px + y * y * (2 * seed + 1) // height_px
    return ((curves + blocks) % 256).astype(np.uint8)


def smooth(seed: int, side_px: int = 128) -> NDArray[np.uint8]:
    """A picture of waves, the shorter the weaker, as real ones are."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:side_px, 0:side_px] / side_px
    waves = sum(
        generator.standard_normal() / (1 + i + j) * np.cos(np.pi * (i * y + j * x) + generator.uniform(0, 6))
        for i in range(20)
        for j in range(20)
    )
    return (128 + 110 * waves / np.abs(waves).max()).astype(np.uint8)


def num_different(codes: NDArray[np.uint8], others: NDArray[np.uint8]) -> int:
    return int(np.bitwise_count(codes ^ others).sum())


@pytest.mark.parametrize(("shape", "expected"), GOLDEN.items(), ids=str)
def test_dihedral_codes_are_those_of_the_published_library(shape, expected):
    spectrum_NIJ, quality_N = pdq_spectra(drawn(*shape)[np.newaxis])
    codes = dihedral_codes(spectrum_NIJ)
    assert {name: code[0].tobytes().hex() for name, code in codes.items()} == expected
    assert quality_N.tolist() == [100]


def test_pdq_codes_of_several_frames_are_those_of_each():
    frames = np.stack([smooth(seed) for seed in range(3)])
    codes, quality_N = pdq_codes(frames)
    assert codes.shape == (3, CODE_BYTES)
    for frame, code, quality in zip(frames, codes, quality_N, strict=True):
        one, (its_quality,) = pdq_codes(frame[np.newaxis])
        assert (one[0].tolist(), its_quality) == (code.tolist(), quality)


def test_pdq_codes_ignore_brightness_and_contrast():
    picture = smooth(1) // 2
    assert num_different(pdq_codes(picture[np.newaxis])[0], pdq_codes((picture + 40)[np.newaxis])[0]) <= 2


def test_pdq_codes_plain_picture_has_no_quality():
    assert pdq_codes(np.full((1, 80, 90), 77, np.uint8))[1].tolist() == [0]


def test_pdq_codes_have_half_of_their_bits_set():
    assert int(np.bitwise_count(pdq_codes(smooth(2)[np.newaxis])[0]).sum()) == 128


@pytest.mark.parametrize(
    ("name", "turned"),
    [("mirror", np.fliplr), ("flip", np.flipud), ("turn_90", np.rot90), ("transpose", np.transpose)],
)
def test_dihedral_codes_are_near_those_of_the_turned_picture(name, turned):
    picture = smooth(3, side_px=64)  # No filter, so that nothing but the turn differs.
    spectrum_NIJ, _ = pdq_spectra(picture[np.newaxis])
    own, _ = pdq_codes(np.ascontiguousarray(turned(picture))[np.newaxis])
    assert num_different(dihedral_codes(spectrum_NIJ)[name], own) <= 2


@pytest.mark.parametrize("seed", range(5))
def test_mirror_mask_turns_a_code_nearly_into_that_of_the_mirrored_picture(seed):
    spectrum_NIJ, _ = pdq_spectra(smooth(seed)[np.newaxis])
    codes = dihedral_codes(spectrum_NIJ)
    assert num_different(codes["same"] ^ MIRROR_MASK, codes["mirror"]) <= 16
