"""Speech probability by silero-vad, on ONNX Runtime. Its wheel carries the weights: nothing is fetched.

Shapes: T samples at 16 kHz, N steps of 32 ms, W samples that the model sees for a step.

silero_vad itself is not imported: that imports torch and sets its number of threads. Of its models this is the
one that takes many steps a call: 10 s cost 19 to 22 ms of CPU, against 54 ms for the one that takes a step a call
and 116 ms for the TorchScript one; a process with numpy grows by 50 MiB (measured 2026-11-23, AMD EPYC).
"""

import importlib.util
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from infra.errors import ConfigError, IntegrityError

SAMPLE_RATE_HZ = 16_000
"""The rate that the model was trained at."""

STEP_SAMPLES = 512
"""Samples of a probability: 32 ms. Source: silero_vad 6.2.3 sequence_vad.py, `RATE_CONFIG`."""

# Source: as above, `RATE_CONFIG`, `DEFAULT_MAX_FRAMES` and `audio_forward`.
_CONTEXT_SAMPLES = 64  # Of the step before, which the model sees again.
_BLOCK_STEPS = 512  # Steps a call: it bounds memory and moves no bit.
_STATE_SHAPE = (1, 1, 128)
_MODEL_PATH = Path("data/silero_vad_16k_sequence.onnx")


class SpeechDetector:
    """A frozen voice detector. Nothing is kept between calls; the same call gives the same bytes on a CPU."""

    def __init__(self, *, weights: str, session: Any) -> None:
        self.weights = weights
        self._session = session

    def probabilities(self, mono_T: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probability of speech [N] in [0, 1], one a step: N = ceil(T / STEP_SAMPLES).

        A last part that is shorter than a step is followed by silence. A step knows those before it, not those
        after it.

        Args:
            mono_T: mono, 16 kHz, nominally in [-1, 1]; a softer copy of speech under music scores lower.

        Raises:
            IntegrityError: a probability is not finite.
        """
        if mono_T.dtype != np.float32 or mono_T.ndim != 1:
            raise ValueError(f"audio must be float32 [T], got {mono_T.dtype} {list(mono_T.shape)}")
        windows_NW = _windows(mono_T)
        probability_N = np.empty(len(windows_NW), np.float32)
        hidden = cell = np.zeros(_STATE_SHAPE, np.float32)
        for first in range(0, len(windows_NW), _BLOCK_STEPS):
            block_NW = np.ascontiguousarray(windows_NW[first : first + _BLOCK_STEPS])
            inputs = {"input": block_NW, "h": hidden, "c": cell}
            found_N, hidden, cell = self._session.run(["speech_probs", "hn", "cn"], inputs)
            probability_N[first : first + _BLOCK_STEPS] = found_N
        if not np.isfinite(probability_N).all():
            raise IntegrityError(
                f"speech probabilities must be finite, got others from {self.weights}; check the audio"
            )
        return probability_N


def load_speech() -> SpeechDetector:
    """The detector of the installed silero-vad, on one thread.

    Raises:
        ConfigError: silero-vad is not installed, or is one without this model.
    """
    path = _model_path()
    model = path.read_bytes()
    return SpeechDetector(
        weights=f"{path.name}@{sha256(model).hexdigest()[:12]}", session=_one_thread_session(model)
    )


def _windows(mono_T: NDArray[np.float32]) -> NDArray[np.float32]:
    """A row a step: the end of the step before (silence before the first), then the step."""
    num_steps = -(-len(mono_T) // STEP_SAMPLES)
    padded_T = np.zeros(_CONTEXT_SAMPLES + num_steps * STEP_SAMPLES, np.float32)
    padded_T[_CONTEXT_SAMPLES : _CONTEXT_SAMPLES + len(mono_T)] = mono_T
    if num_steps == 0:
        return np.empty((0, _CONTEXT_SAMPLES + STEP_SAMPLES), np.float32)
    return sliding_window_view(padded_T, _CONTEXT_SAMPLES + STEP_SAMPLES)[::STEP_SAMPLES]


def _model_path() -> Path:
    spec = importlib.util.find_spec("silero_vad")
    folders = (spec.submodule_search_locations if spec else None) or []
    paths = [path for folder in folders if (path := Path(folder) / _MODEL_PATH).is_file()]
    if not paths:
        raise ConfigError(
            f"silero-vad must be installed and hold {_MODEL_PATH}, found none; install the locked requirements"
        )
    return paths[0]


def _one_thread_session(model: bytes) -> Any:
    # Or else the import starts a thread that reports to Microsoft and keeps its queue under the home directory.
    # Source: onnxruntime 1.32.0 Privacy.md. It stays set: it must hold for as long as the library is loaded.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # Costs no time here, and gives back what a call took.
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
