"""256 bits for each moment at which a sound changes most: copies change at the same moments.

A moment's code is eight sub-fingerprints of Haitsma and Kalker around it: for each of 32 neighbouring bands
whether the difference of their energies rises. The published 32 bits come every 11.6 ms whatever sounds then,
and say nothing alone. Eight at the instants that the sound itself picks are the same however a copy is cut,
are few (some ten in 10 s), and can be told from all others one by one, also when the copy is up to a quarter
faster (measured: tests/bench/bench_dedup_quality.py).

T samples, F frames, B bands, M moments, K sub-fingerprints of a moment.

Source: Haitsma, Kalker 2002, A Highly Robust Audio Fingerprinting System, ISMIR, section 4.2 (bands, bits);
moments instead of every frame, and the constants that are marked so: measured,
/tests/bench/bench_dedup_quality.py.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from dedup.bands import Bands, draw_bands
from dedup.pdq import CODE_BITS, CODE_BYTES, Codes

SOUND_RATE_HZ = 16_000

_WINDOW, _HOP = 1024, 256  # 64 ms every 16 ms.
# Source: Haitsma, Kalker 2002, section 4.2: 33 bands from 300 to 2000 Hz; here up to 3000, as speech of 8 kHz
# has it.
_LOW_HZ, _HIGH_HZ, _NUM_BANDS = 300.0, 3000.0, 33
# Frames over which energies are averaged, and between which they are compared (0.3 s). The paper's frame is
# 0.37 s.
_SMOOTH_FRAMES = _LAG_FRAMES = 20
# Energy below which all is silence: about -60 dBFS of noise in a band. Measured: keeps silent moments out.
_FLOOR = 1e-3
# Sub-fingerprints of a code, and frames between them. Measured: 6 frames survive 1.25 times the speed, 15 do
# not.
_NUM_PARTS, _PART_FRAMES = 8, 6
# A moment is the greatest change within 0.4 s of it, and more than that of silence, summed over the bands.
_REACH_FRAMES, _MIN_CHANGE = 25, 5.0
# Bands read the parts nearest to the moment, which a change of speed moves least: at 1.25 times it 13% of
# their bits differ, of the outermost 23% (measured).
_NUM_LOOKUPS, _BITS_PER_LOOKUP = 16, 24
_LOOKUP_PARTS = (3, 5)


def sound_bands(*, max_distance: int) -> Bands:
    """How sound codes are looked up."""
    first, end = (CODE_BITS // _NUM_PARTS * part for part in _LOOKUP_PARTS)
    place = np.arange(CODE_BITS)
    allowed = (first <= place) & (place < end)
    return Bands(
        mask_TW=draw_bands(allowed, num_bands=_NUM_LOOKUPS, bits_per_band=_BITS_PER_LOOKUP),
        max_distance=max_distance,
    )


def sound_codes(mono_T: NDArray[np.float32]) -> Codes:
    """Codes of the moments of a sound at `SOUND_RATE_HZ`, in order; none of silence or of less than 1.5 s."""
    span = _PART_FRAMES * (_NUM_PARTS - 1)
    energy_FB = _log_energies(mono_T)
    if len(energy_FB) <= _LAG_FRAMES + span:
        return np.empty((0, CODE_BYTES), np.uint8)
    rise_FB = energy_FB[_LAG_FRAMES:] - energy_FB[:-_LAG_FRAMES]
    change_F = np.abs(rise_FB).sum(axis=1)
    moment_M = np.flatnonzero((change_F == _greatest_near(change_F)) & (change_F > _MIN_CHANGE))
    first_M = moment_M - span // 2
    first_M = first_M[(first_M >= 0) & (first_M + span < len(rise_FB))]
    frame_MK = first_M[:, np.newaxis] + np.arange(_NUM_PARTS) * _PART_FRAMES
    bits_MKB = np.diff(rise_FB[frame_MK], axis=2) > 0
    return np.packbits(bits_MKB.reshape(len(first_M), CODE_BYTES * 8), axis=1)


def _log_energies(mono_T: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logarithm of the energy in each band, averaged over `_SMOOTH_FRAMES`."""
    if len(mono_T) < _WINDOW + _HOP * _SMOOTH_FRAMES:
        return np.empty((0, _NUM_BANDS), np.float32)
    pieces_FT = np.lib.stride_tricks.sliding_window_view(mono_T, _WINDOW)[::_HOP]
    power = np.square(np.abs(np.fft.rfft(pieces_FT * np.hanning(_WINDOW).astype(np.float32), axis=1)))
    up_to_FB = np.cumsum(power.astype(np.float32) @ _band_weights(), axis=0, dtype=np.float64)
    up_to_FB = np.pad(up_to_FB, ((1, 0), (0, 0)))
    mean_FB = (up_to_FB[_SMOOTH_FRAMES:] - up_to_FB[:-_SMOOTH_FRAMES]) / _SMOOTH_FRAMES
    return np.log(mean_FB + _FLOOR).astype(np.float32)


@cache
def _band_weights() -> NDArray[np.float32]:
    """How much each frequency of the transform counts in each band: triangles, equally wide to the ear."""
    edges = _LOW_HZ * (_HIGH_HZ / _LOW_HZ) ** (np.arange(_NUM_BANDS + 1) / _NUM_BANDS)
    centre_B = np.sqrt(edges[1:] * edges[:-1])
    width_B = np.maximum(np.diff(edges), SOUND_RATE_HZ / _WINDOW)
    frequency = np.fft.rfftfreq(_WINDOW, 1 / SOUND_RATE_HZ)[:, np.newaxis]
    return np.maximum(0, 1 - np.abs(frequency - centre_B) / width_B).astype(np.float32)


def _greatest_near(change_F: NDArray[np.float32]) -> NDArray[np.float32]:
    padded = np.pad(change_F, _REACH_FRAMES, constant_values=-np.inf)
    return np.lib.stride_tricks.sliding_window_view(padded, 2 * _REACH_FRAMES + 1).max(axis=1)
