"""Moments of a moving picture, and what of them a copy keeps."""

import numpy as np
import pytest
from numpy.typing import NDArray

from dedup.pdq import MIRROR_MASK, pdq_codes
from dedup.picture import PARTS, picture_codes, still_frames

RATE_FPS = 8.0


def texture(seed: int, height_px: int = 300, width_px: int = 300) -> NDArray[np.uint8]:
    """Detail of all sizes."""
    generator = np.random.default_rng(seed)
    picture = np.zeros((height_px, width_px))
    for block_px in (64, 32, 16, 8):
        shape = (height_px // block_px + 1, width_px // block_px + 1)
        part = np.kron(generator.standard_normal(shape), np.ones((block_px, block_px)))
        picture += block_px**0.5 * part[:height_px, :width_px]
    return (128 + 100 * picture / np.abs(picture).max()).astype(np.uint8)


def nearest_bits(codes: NDArray[np.uint8], others: NDArray[np.uint8]) -> int:
    """The least difference between any part of the one moment and any of the other."""
    return int(np.bitwise_count(codes[:, np.newaxis] ^ others).sum(axis=2, dtype=int).min())


def test_still_frames_are_the_stillest_within_reach():
    luma_NHW = np.zeros((9, 64, 64), np.uint8)
    luma_NHW[:, 0, :] = np.array([0, 90, 180, 181, 182, 240, 20, 120, 220])[:, np.newaxis]
    assert still_frames(luma_NHW, reach_frames=2).tolist() == [3, 7]


@pytest.mark.parametrize("num_frames", [1, 2, 9])
def test_still_frames_of_a_still_picture_start_with_the_first(num_frames):
    luma_NHW = np.full((num_frames, 64, 64), 9, np.uint8)
    assert still_frames(luma_NHW, reach_frames=3).tolist() == [0]


def test_picture_codes_of_a_still_picture_are_one_moment():
    codes = picture_codes(np.repeat(texture(1)[np.newaxis], 20, axis=0), rate_fps=RATE_FPS)
    assert codes.shape == (1, len(PARTS), 32)


def test_picture_codes_of_shots_are_one_moment_each():
    shots = np.concatenate([np.repeat(texture(seed)[np.newaxis], 8, axis=0) for seed in range(4)])
    codes = picture_codes(shots, rate_fps=RATE_FPS)
    assert len(codes) == 4
    assert all(nearest_bits(codes[seed], pdq_codes(texture(seed)[np.newaxis])[0]) <= 40 for seed in range(4))


def test_picture_codes_of_plain_pictures_are_none():
    assert picture_codes(np.full((5, 90, 90), 16, np.uint8), rate_fps=RATE_FPS).shape == (0, len(PARTS), 32)


@pytest.mark.parametrize("cut", [0.0, 0.05, 0.1, 0.15, 0.2])
def test_picture_codes_some_part_of_an_evenly_cut_picture_is_near(cut):
    picture = texture(2, 600, 600)
    edge = round(600 * cut / 2)
    cut_picture = picture[edge : 600 - edge, edge : 600 - edge]
    one, other = (picture_codes(p[np.newaxis], rate_fps=RATE_FPS)[0] for p in (picture, cut_picture))
    assert nearest_bits(one, other) <= 48


def test_picture_codes_of_a_mirrored_picture_are_near_the_mirrored_codes():
    picture = texture(3, 512, 512)
    one, other = (picture_codes(p[np.newaxis], rate_fps=RATE_FPS)[0] for p in (picture, picture[:, ::-1]))
    assert nearest_bits(one[:1] ^ MIRROR_MASK, other[:1]) <= 40
    assert nearest_bits(one[:1], other[:1]) > 60
