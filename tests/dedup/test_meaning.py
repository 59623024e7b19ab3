"""Codes of vectors: their distance is the angle."""

import numpy as np

from dedup.bands import as_words, distances
from dedup.meaning import mean_vector, meaning_codes


def test_meaning_codes_distance_is_the_angle():
    generator = np.random.default_rng(0)
    one = generator.standard_normal((200, 64)).astype(np.float32)
    other = one + 0.5 * generator.standard_normal((200, 64)).astype(np.float32)
    cosine = (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    found = distances(as_words(meaning_codes(one)), as_words(meaning_codes(other)))
    assert abs(found.mean() - 256 * np.arccos(cosine).mean() / np.pi) < 2


def test_meaning_codes_of_opposites_differ_in_every_bit():
    vector = np.random.default_rng(1).standard_normal((1, 32)).astype(np.float32)
    assert distances(as_words(meaning_codes(vector)), as_words(meaning_codes(-vector))).tolist() == [256]


def test_mean_vector_has_length_one_and_zeros_stay():
    assert mean_vector(np.array([[3.0, 0.0], [3.0, 8.0]], np.float16)).tolist() == [
        np.float32(0.6),
        np.float32(0.8),
    ]
    assert mean_vector(np.zeros((2, 3), np.float16)).tolist() == [0, 0, 0]
