"""Codes of sounds: what a copy keeps, and what says nothing."""

import numpy as np
import pytest
from numpy.typing import NDArray

from dedup.pdq import CODE_BYTES
from dedup.sound import SOUND_RATE_HZ, sound_bands, sound_codes

_NEAR_BITS = 60


def melody(seed: int, duration_s: float = 10.0) -> NDArray[np.float32]:
    """Notes with overtones at irregular times over faint noise."""
    generator = np.random.default_rng(seed)
    time_T = np.arange(round(duration_s * SOUND_RATE_HZ)) / SOUND_RATE_HZ
    sound_T = 0.002 * generator.standard_normal(len(time_T))
    start_s = 0.0
    while start_s < duration_s:
        after_T = time_T - start_s
        shape_T = np.where(after_T >= 0, np.exp(-np.maximum(after_T, 0) * generator.uniform(2, 8)), 0)
        for overtone in (1, 2, 3, 5):
            note_hz = generator.uniform(200, 600) * overtone
            sound_T += 0.1 / overtone * shape_T * np.sin(2 * np.pi * note_hz * time_T)
        start_s += generator.uniform(0.2, 0.9)
    return sound_T.astype(np.float32)


def shared_ratio(codes: NDArray[np.uint8], others: NDArray[np.uint8]) -> float:
    """Share of the codes with a near one among the others."""
    different = np.bitwise_count(codes[:, np.newaxis] ^ others).sum(axis=2, dtype=int)
    return float((different.min(axis=1) <= _NEAR_BITS).mean())


def test_sound_codes_of_ten_seconds_are_a_few():
    codes = sound_codes(melody(1))
    assert codes.shape[1] == CODE_BYTES
    assert 4 <= len(codes) <= 20


def test_sound_codes_hardly_change_with_volume():
    sound_T = melody(1)
    assert shared_ratio(sound_codes(sound_T / 4), sound_codes(sound_T)) >= 0.8


@pytest.mark.parametrize("shift_s", [0.013, 1.3, 3.7])
def test_sound_codes_of_what_a_shifted_copy_has_in_common_are_there(shift_s):
    sound_T = melody(2, 14.0)
    length, first = 10 * SOUND_RATE_HZ, round(shift_s * SOUND_RATE_HZ)
    shared = shared_ratio(sound_codes(sound_T[first : first + length]), sound_codes(sound_T[:length]))
    assert shared >= 0.8 * (1 - shift_s / 10)


def test_sound_codes_survive_a_slightly_faster_tape():
    sound_T = melody(3)
    places = np.arange(0, len(sound_T) - 1, 1.02)  # Tape speed: pitch and time together, by 2%.
    faster_T = np.interp(places, np.arange(len(sound_T)), sound_T).astype(np.float32)
    assert shared_ratio(sound_codes(faster_T), sound_codes(sound_T)) >= 0.3


def test_sound_codes_of_other_sounds_are_far():
    codes = [sound_codes(melody(seed)) for seed in range(4)]
    assert all(shared_ratio(codes[i], codes[j]) == 0 for i in range(4) for j in range(i))


@pytest.mark.parametrize("num_samples", [0, 1, 1024, SOUND_RATE_HZ])
def test_sound_codes_of_too_little_are_none(num_samples):
    assert sound_codes(melody(1)[:num_samples]).shape == (0, CODE_BYTES)


def test_sound_codes_of_silence_and_faint_noise_are_none():
    noise_T = np.random.default_rng(0).standard_normal(10 * SOUND_RATE_HZ).astype(np.float32)
    assert len(sound_codes(0 * noise_T)) == 0
    assert len(sound_codes(1e-4 * noise_T)) == 0


def test_sound_bands_read_the_middle_of_a_code():
    bits = np.unpackbits(sound_bands(max_distance=60).mask_TW.view(np.uint8), axis=1)
    assert bits.sum(axis=1).tolist() == [24] * 16
    assert not bits[:, :96].any()
    assert not bits[:, 160:].any()
