from fractions import Fraction

import numpy as np
import pytest

from filters.signals import AudioSignal, VideoSignal
from infra.errors import IntegrityError, Undecodable

LUMA = np.zeros((2, 4, 4), np.uint8)


@pytest.mark.parametrize(
    ("luma_NHW", "frame_rate_fps"),
    [
        (LUMA.astype(np.float32), Fraction(8)),
        (LUMA[0], Fraction(8)),
        (LUMA[:, :0], Fraction(8)),
        (LUMA, Fraction(0)),
        (LUMA, 8.0),
    ],
)
def test_video_signal_wrong_kind_raises_integrity_error(luma_NHW, frame_rate_fps):
    with pytest.raises(IntegrityError):
        VideoSignal(luma_NHW=luma_NHW, frame_rate_fps=frame_rate_fps)


@pytest.mark.parametrize(
    ("audio_CT", "sample_rate_hz"),
    [
        (np.zeros((1, 4), np.float64), 16000),
        (np.zeros(4, np.float32), 16000),
        (np.zeros((0, 4), np.float32), 16000),
        (np.zeros((1, 4), np.float32), 0),
    ],
)
def test_audio_signal_wrong_kind_raises_integrity_error(audio_CT, sample_rate_hz):
    with pytest.raises(IntegrityError):
        AudioSignal(audio_CT=audio_CT, sample_rate_hz=sample_rate_hz)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_audio_signal_non_finite_sample_raises_undecodable(value):
    with pytest.raises(Undecodable, match="got 1 of 3"):
        AudioSignal(audio_CT=np.array([[0, value, 0]], np.float32), sample_rate_hz=16000)
