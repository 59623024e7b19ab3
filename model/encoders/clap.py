"""CLAP audio embeddings, by laion-clap's audio branch (HTSAT) and its projection alone.

Shapes: B clips, T samples at 48 kHz, D = 512.

Importing laion_clap runs a package that extends sys.path and asks a hub for a tokenizer, so the audio
branch's own module is imported under a private package name, without any of that.
"""

import importlib
import importlib.util
import json
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from infra.errors import ConfigError, IntegrityError, TooShort
from model.encoders.weights import (
    UNTRAINED,
    HubFile,
    checked_device,
    find_weights,
    load_exactly,
    read_state,
    under_prefix,
    untrained_rng,
    weights_label,
)

SAMPLE_RATE_HZ = 48_000
"""The rate that CLAP was trained at (laion_clap model_configs)."""

CLIP_SAMPLES = 480_000
"""The ten seconds that CLAP hears at once (laion_clap model_configs, `clip_samples`)."""

TINY = "tiny"
"""Our own small model for tests and small machines: HTSAT's class with fewer and narrower layers."""

_PUBLISHED_MODELS = ("HTSAT-tiny", "HTSAT-base", "HTSAT-large")
_EMBEDDING_DIM = 512  # Source: laion_clap clap_module/model.py, `joint_embed_shape`.
_INT16_MAX = 32_767
_TINY_WIDTH = 16
_TINY_LAYERS: dict[str, Any] = {"embed_dim": _TINY_WIDTH, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8]}
_PREFIXES = ("audio_branch.", "audio_projection.")
_PACKAGE = "_avgen_laion_clap"

# Source: laion_clap hook.py (630k) and its README (music, for HTSAT-base).
_PUBLISHED_WEIGHTS = {
    name: HubFile(repository="lukewys/laion_clap", file_names=(f"{name}.pt",))
    for name in (
        "630k-best",
        "630k-audioset-best",
        "music_audioset_epoch_15_esc_90.14",
        "music_speech_audioset_epoch_15_esc_89.98",
        "music_speech_epoch_15_esc_89.25",
    )
}


class ClapAudioTower(nn.Module):
    """CLAP's audio half, with the names that its checkpoints use.

    Source: laion_clap clap_module/model.py, `CLAP.__init__` and `CLAP.get_audio_embedding`.
    """

    def __init__(self, audio_branch: nn.Module, branch_dim: int) -> None:
        super().__init__()
        self.audio_branch = audio_branch
        self.audio_projection = nn.Sequential(
            nn.Linear(branch_dim, _EMBEDDING_DIM), nn.ReLU(), nn.Linear(_EMBEDDING_DIM, _EMBEDDING_DIM)
        )

    def forward(self, audio_BT: torch.Tensor) -> torch.Tensor:
        """Unit-length embeddings [B, D] of exactly ten seconds."""
        embedding = self.audio_branch({"waveform": audio_BT}, device=audio_BT.device)["embedding"]
        return nn.functional.normalize(self.audio_projection(embedding), dim=-1)


class ClapEncoder:
    """A frozen audio branch. The same call gives the same bytes on a CPU.

    A clip's last bits may depend on how many clips share its call (matrix kernels differ with the batch).
    """

    dim = _EMBEDDING_DIM

    def __init__(self, *, model: str, weights: str, tower: nn.Module) -> None:
        self.model = model
        self.weights = weights
        self._tower = tower.eval().requires_grad_(False)  # eval: no dropout, no spectrogram masking
        self._device = next(tower.parameters()).device

    def encode(self, audio_BT: NDArray[np.float32]) -> NDArray[np.float16]:
        """Unit-length embeddings [B, D], one a clip.

        Args:
            audio_BT: mono, 48 kHz, nominally in [-1, 1] (beyond is clipped), at most 10 s; a shorter one
                is repeated whole as often as it fits and padded with silence.

        Raises:
            TooShort: the clips have no samples.
            IntegrityError: an embedding is not finite.
        """
        if audio_BT.dtype != np.float32 or audio_BT.ndim != 2 or audio_BT.shape[1] > CLIP_SAMPLES:
            raise ValueError(
                f"audio must be float32 [B, T <= {CLIP_SAMPLES}], got {audio_BT.dtype} {list(audio_BT.shape)}"
            )
        if len(audio_BT) == 0:
            return np.zeros((0, self.dim), np.float16)
        padded_BT = repeat_pad(_through_int16(torch.from_numpy(audio_BT)))
        with torch.inference_mode():
            embedding_BD = self._tower(padded_BT.to(self._device))
        if not bool(torch.isfinite(embedding_BD).all()):
            raise IntegrityError(
                f"CLAP embeddings must be finite, got others from {self.model} ({self.weights}); "
                "check these weights and the audio"
            )
        return embedding_BD.half().cpu().numpy()


def load_clap(model: str, weights: str, device: str) -> ClapEncoder:
    """An encoder of laion-clap's model of that name, or of `tiny`.

    Args:
        model: `tiny`, `HTSAT-tiny`, `HTSAT-base` or `HTSAT-large`.
        weights: `untrained`, a checkpoint file, or a published name such as `630k-audioset-best`.
        device: a torch device name.

    Raises:
        ConfigError: no such model, weights or device, or the weights are not the model's.
    """
    torch_device = checked_device(device)
    published = {} if model == TINY else _PUBLISHED_WEIGHTS
    path = None if weights == UNTRAINED else find_weights(weights, published, model=model)
    with untrained_rng():
        tower = clap_tower(model)
    if path is not None:
        load_exactly(tower, under_prefix(read_state(path), _PREFIXES), subject=model)
    label = UNTRAINED if path is None else weights_label(weights, path)
    return ClapEncoder(model=model, weights=label, tower=tower.to(torch_device))


def clap_tower(model: str) -> ClapAudioTower:
    """CLAP's audio half with fresh weights; the text half is not built.

    Raises:
        ConfigError: no such model.
    """
    models = (TINY, *_PUBLISHED_MODELS)
    if model not in models:
        raise ConfigError(f"CLAP model must be one of {', '.join(models)}, got {model!r}; use HTSAT-tiny")
    config_name = "HTSAT-tiny" if model == TINY else model
    config_path = _clap_folder() / "model_configs" / f"{config_name}.json"
    config = json.loads(config_path.read_text(encoding="utf-8"))
    audio_config = SimpleNamespace(**config["audio_cfg"])
    htsat = _import_htsat()
    if model == TINY:
        branch = htsat.HTSAT_Swin_Transformer(
            config=audio_config, num_classes=audio_config.class_num, **_TINY_LAYERS
        )
        return ClapAudioTower(branch, branch.num_features)
    return ClapAudioTower(htsat.create_htsat_model(audio_config), config["embed_dim"])


def repeat_pad(audio_BT: torch.Tensor) -> torch.Tensor:
    """Ten seconds: the clip repeated as often as it fits whole, then silence.

    Source: laion_clap training/data.py, `get_audio_features`, data_filling 'repeatpad'.

    Raises:
        TooShort: there is nothing to repeat.
    """
    num_samples = audio_BT.shape[1]
    if num_samples == 0:
        raise TooShort("CLAP needs at least 1 audio sample, got 0")
    repeated_BT = audio_BT.repeat(1, CLIP_SAMPLES // num_samples)
    return nn.functional.pad(repeated_BT, (0, CLIP_SAMPLES - repeated_BT.shape[1]))


def _through_int16(audio_BT: torch.Tensor) -> torch.Tensor:
    """Audio as CLAP was trained on it: clipped and truncated to 16 bits.

    Source: laion_clap training/data.py, `float32_to_int16` and `int16_to_float32`.
    """
    return (audio_BT.clamp(-1, 1) * _INT16_MAX).to(torch.int16).float() / _INT16_MAX


def _clap_folder() -> Path:
    spec = importlib.util.find_spec("laion_clap")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("laion-clap must be installed, found none; install the locked requirements")
    return Path(spec.submodule_search_locations[0]) / "clap_module"


def _import_htsat() -> ModuleType:
    """laion-clap's module of the audio branch, imported without the packages around it."""
    if _PACKAGE not in sys.modules:
        spec = ModuleSpec(_PACKAGE, loader=None, is_package=True)
        spec.submodule_search_locations = [str(_clap_folder())]
        sys.modules[_PACKAGE] = importlib.util.module_from_spec(spec)
    return importlib.import_module(f"{_PACKAGE}.htsat")
