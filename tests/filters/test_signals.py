from fractions import Fraction

import numpy as np
import pytest

from filters.signals import AudioSignal, AvSignal, KeyframeSignal, SpeechSignal, VideoSignal
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


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1001, -1001, 3e38])
def test_audio_signal_broken_sample_raises_undecodable(value):
    with pytest.raises(Undecodable, match=r"within \+-1000, got 1 of 3"):
        AudioSignal(audio_CT=np.array([[0, value, 0]], np.float32), sample_rate_hz=16000)


def test_audio_signal_loud_samples_and_none_are_taken():
    for samples in ([[0, 1000, -1000]], [[]]):
        AudioSignal(audio_CT=np.array(samples, np.float32), sample_rate_hz=16000)


def test_audio_signal_mono_is_the_mean_of_the_channels():
    audio_CT = np.random.default_rng(0).standard_normal((3, 100)).astype(np.float32)
    for layout_CT in (audio_CT, np.asfortranarray(audio_CT)):
        mono_T = AudioSignal(audio_CT=layout_CT, sample_rate_hz=16000).mono_T
        assert mono_T.dtype == np.float32
        np.testing.assert_array_equal(mono_T, audio_CT.mean(axis=0))


@pytest.mark.parametrize(
    "probability_N",
    [
        np.zeros(3),
        np.zeros((1, 3), np.float32),
        np.array([0, 1.01, 1], np.float32),
        np.array([0, -0.01, 1], np.float32),
        np.array([0, np.nan, 1], np.float32),
    ],
)
def test_speech_signal_wrong_kind_raises_integrity_error(probability_N):
    with pytest.raises(IntegrityError, match="probability_N"):
        SpeechSignal(probability_N=probability_N)


@pytest.mark.parametrize("luma_KHW", [LUMA.astype(np.float32), LUMA[0], LUMA[:, :0]])
def test_keyframe_signal_wrong_kind_raises_integrity_error(luma_KHW):
    with pytest.raises(IntegrityError, match="luma_KHW"):
        KeyframeSignal(luma_KHW=luma_KHW)


def test_av_signal_wrong_kind_raises_integrity_error():
    video = VideoSignal(luma_NHW=LUMA, frame_rate_fps=Fraction(8))
    audio = AudioSignal(audio_CT=np.zeros((1, 4), np.float32), sample_rate_hz=16000)
    assert AvSignal(video=video, audio=audio).audio is audio
    with pytest.raises(IntegrityError, match="got AudioSignal and VideoSignal"):
        AvSignal(video=audio, audio=video)
