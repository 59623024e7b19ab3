"""HDR pictures as SDR: one table from BT.2020 PQ or HLG signals to BT.709 signals, which ffmpeg's `lut3d` applies.

Runs in the reading child. Up to mid grey nothing changes, reference white comes out at four fifths, which leaves
room for the lights above it. N colours, C = red, green, blue.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

_NUM_STEPS = (
    65  # Of each channel. Between them the filter interpolates: within 9 of 255, for saturated colours.
)
_WHITE_NITS, _PEAK_NITS = (
    203.0,
    1000.0,
)  # Source: ITU-R BT.2408, reference white; BT.2100, nominal peak of HLG.
_PQ_PEAK_NITS = 10_000.0  # Source: SMPTE ST 2084.
_KNEE = 0.3  # Of reference white. Source: ffmpeg, vf_tonemap, default of mobius.
_GAMMA = 2.4  # Source: ITU-R BT.1886.
# Source: ITU-R BT.2407-0, the inverse of BT.2087-0's matrix; BT.2100-2, table 4.
_BT709_FROM_BT2020 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]
)
_BT2020_LUMINANCE = np.array([0.2627, 0.6780, 0.0593])


def pq_nits(signal_NC: F64) -> F64:
    """Light of a PQ signal. Source: SMPTE ST 2084, equation 4.1."""
    power = signal_NC ** (1 / 78.84375)
    return _PQ_PEAK_NITS * (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (
        1 / 0.1593017578125
    )


def hlg_nits(signal_NC: F64) -> F64:
    """Light of an HLG signal on a display of the nominal peak. Source: ITU-R BT.2100-2, table 5."""
    upper = (np.exp((signal_NC - 0.55991073) / 0.17883277) + 0.28466892) / 12
    scene_NC = np.where(signal_NC <= 0.5, signal_NC**2 / 3, upper)
    return _PEAK_NITS * scene_NC * (scene_NC @ _BT2020_LUMINANCE)[:, None] ** 0.2


def sdr_signal(nits_NC: F64) -> F64:
    """BT.709 signals in [0, 1] of BT.2020 light."""
    linear_NC = np.maximum(nits_NC @ _BT709_FROM_BT2020.T / _WHITE_NITS, 0)
    strongest_N1 = linear_NC.max(axis=1, keepdims=True)
    mapped_NC = linear_NC * _mobius(strongest_N1) / np.maximum(strongest_N1, 1e-9)
    return np.clip(mapped_NC, 0, 1) ** (1 / _GAMMA)


def _mobius(light: F64) -> F64:
    """A straight line up to the knee, then a curve that ends in 1 at the peak. Source: ffmpeg, vf_tonemap."""
    peak = _PEAK_NITS / _WHITE_NITS
    a = -_KNEE * _KNEE * (peak - 1) / (_KNEE * _KNEE - 2 * _KNEE + peak)
    b = (_KNEE * _KNEE - 2 * _KNEE * peak + peak) / (peak - 1)
    curve = (b * b + 2 * b * _KNEE + _KNEE * _KNEE) / (b - a) * (light + a) / (light + b)
    return np.where(light <= _KNEE, light, curve)


_LIGHTS: dict[int, Callable[[F64], F64]] = {16: pq_nits, 18: hlg_nits}  # By AVColorTransferCharacteristic.


@contextmanager
def table_file(transfer: int) -> Iterator[Path]:
    """The table of a transfer as a file, while the block lasts."""
    with tempfile.NamedTemporaryFile(prefix="avgen-", suffix=".cube") as file:
        file.write(_table(transfer))
        file.flush()
        yield Path(file.name)


@cache
def _table(transfer: int) -> bytes:
    """Red changes fastest, as .cube files have it."""
    steps = np.linspace(0, 1, _NUM_STEPS)
    blue, green, red = np.meshgrid(steps, steps, steps, indexing="ij")
    signal_NC = np.stack([red, green, blue], axis=-1).reshape(-1, 3)
    rows_NC = sdr_signal(_LIGHTS[transfer](signal_NC)).tolist()
    lines = "\n".join(f"{red:.6f} {green:.6f} {blue:.6f}" for red, green, blue in rows_NC)
    return f"LUT_3D_SIZE {_NUM_STEPS}\n{lines}\n".encode()
