"""Speech probability: silero-vad's own figures, steps, causality, real sound, a clean import."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.encoders.speech import STEP_SAMPLES, SpeechDetector, load_speech
from tests.filters.sounds import noise, silence, sine, speech_like
from tests.media import CORPUS, ffmpeg, needs_corpus

REPOSITORY = Path(__file__).resolve().parents[2]
# More steps than the detector gives to its model in one call.
_NUM_STEPS = 530


@pytest.fixture(scope="module")
def detector() -> SpeechDetector:
    return load_speech()


@pytest.fixture(scope="module")
def varied_T() -> NDArray[np.float32]:
    """Made-up speech with pauses: the probabilities reach from 0 to 1."""
    duration_s = _NUM_STEPS * STEP_SAMPLES / 16_000
    return speech_like(duration_s, seed=5, sample_rate_hz=16_000).astype(np.float32)


def _real(file_name: str, tmp_path: Path) -> NDArray[np.float32]:
    """The first ten seconds of a file's sound."""
    path = tmp_path / "sound.f32"
    ffmpeg("-t", "10", "-i", CORPUS / file_name, "-ac", "1", "-ar", "16000", "-f", "f32le", path)
    return np.fromfile(path, "<f4")


@pytest.mark.parametrize(
    ("num_samples", "num_steps"), [(0, 0), (1, 1), (511, 1), (512, 1), (513, 2), (160_000, 313)]
)
def test_probabilities_are_one_a_step(detector, num_samples, num_steps):
    probability_N = detector.probabilities(np.zeros(num_samples, np.float32))
    assert (probability_N.shape, probability_N.dtype) == ((num_steps,), np.float32)


@pytest.mark.parametrize("audio", [np.zeros(512), np.zeros((1, 512), np.float32), np.zeros(512, np.int16)])
def test_probabilities_other_kind_of_array_raises(detector, audio):
    with pytest.raises(ValueError, match=r"audio must be float32 \[T\]"):
        detector.probabilities(audio)


def test_probabilities_agree_with_the_torchscript_model_of_the_same_wheel(detector, varied_T):
    package = Path(importlib.util.find_spec("silero_vad").submodule_search_locations[0])
    reference = torch.jit.load(package / "data" / "silero_vad.jit")
    audio_T = varied_T[:-100]
    with torch.inference_mode():
        expected_BN = reference.audio_forward(torch.from_numpy(audio_T)[None], 16_000)
    expected_N = expected_BN[0].numpy()
    assert np.ptp(expected_N) > 0.9, "the sound must tell right from wrong"
    # Both compute in single precision and sum in another order.
    assert np.allclose(detector.probabilities(audio_T), expected_N, atol=1e-5)


def test_probabilities_same_input_gives_same_bytes_whatever_came_before(detector, varied_T):
    once = detector.probabilities(varied_T)
    detector.probabilities(noise(1, seed=1, sample_rate_hz=16_000).astype(np.float32))
    assert once.tobytes() == detector.probabilities(varied_T).tobytes()
    assert once.tobytes() == load_speech().probabilities(varied_T).tobytes()


@settings(max_examples=15, deadline=None)
@given(num_samples=st.integers(0, _NUM_STEPS * STEP_SAMPLES))
def test_probabilities_of_a_part_are_the_first_of_the_whole(detector, varied_T, num_samples):
    part_N = detector.probabilities(varied_T[:num_samples])
    num_whole = num_samples // STEP_SAMPLES
    assert len(part_N) == -(-num_samples // STEP_SAMPLES)
    assert np.array_equal(part_N[:num_whole], detector.probabilities(varied_T)[:num_whole])


@given(num_samples=st.integers(1, 4 * STEP_SAMPLES))
def test_probabilities_last_part_is_followed_by_silence(detector, varied_T, num_samples):
    part_T = varied_T[:num_samples]
    padded_T = np.pad(part_T, (0, -num_samples % STEP_SAMPLES))
    assert np.array_equal(detector.probabilities(part_T), detector.probabilities(padded_T))


@pytest.mark.parametrize(
    "wave",
    [silence(3, 16_000), noise(3, seed=1, sample_rate_hz=16_000), sine(440, 3, 16_000)],
    ids=["silence", "noise", "tone"],
)
def test_probabilities_of_no_speech_are_low(detector, wave):
    assert detector.probabilities(wave.astype(np.float32)).max() < 0.1


# Shares measured over the first 10 s of each, 2026-11-23.
@needs_corpus
@pytest.mark.parametrize("file_name", ["nasa_180p_8khz.mp4", "screen_1080p_2min.mp4"])
def test_probabilities_of_people_who_talk_are_high(detector, tmp_path, file_name):
    assert np.mean(detector.probabilities(_real(file_name, tmp_path)) >= 0.5) > 0.75


@needs_corpus
@pytest.mark.parametrize("file_name", ["cockatoo_720p_20fps.mp4", "world_270p.mp4"])
def test_probabilities_of_a_bird_and_of_music_are_low(detector, tmp_path, file_name):
    assert detector.probabilities(_real(file_name, tmp_path)).max() < 0.1


def test_load_speech_says_which_weights(detector):
    # silero-vad 6.2.3, 2026-11-23: other weights are other scores.
    assert detector.weights == "silero_vad_16k_sequence.onnx@9ccdacc4719d"


def test_load_speech_starts_no_thread_writes_nothing_and_imports_no_torch(tmp_path):
    program = (
        "import os, sys; from model.encoders.speech import load_speech;"
        "num_threads = len(os.listdir('/proc/self/task')); load_speech();"
        "print(len(os.listdir('/proc/self/task')) - num_threads, {'torch', 'silero_vad'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", program]
    variables = {"HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        command, cwd=REPOSITORY, env=variables, capture_output=True, text=True, check=True
    )
    assert (result.stdout, result.stderr, list(tmp_path.iterdir())) == ("0 set()\n", "", [])
