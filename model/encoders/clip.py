"""CLIP image embeddings of frames, by open_clip's vision tower alone.

Shapes: N frames, H = W = 224 pixels, C = 3 RGB, D embedding.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from infra.errors import ConfigError, IntegrityError
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

FRAME_SIZE_PX = 224
"""Height and width of the frames that `encode` takes."""

_PREFIX = "visual."

TINY = "tiny"
"""Our own small model for tests and small machines: open_clip's classes, the embedding width of ViT-B-32."""

_TINY_CONFIG: dict[str, Any] = {
    "embed_dim": 512,
    "vision_cfg": {"image_size": FRAME_SIZE_PX, "layers": 2, "width": 64, "head_width": 32, "patch_size": 32},
}


class ClipEncoder:
    """A frozen vision tower. The same call gives the same bytes on a CPU.

    A frame's last bits may depend on how many frames share its call (matrix kernels differ with the
    batch), so encode the frames of one clip in one call.
    """

    def __init__(
        self,
        *,
        model: str,
        weights: str,
        tower: nn.Module,
        mean_rgb: Sequence[float],
        std_rgb: Sequence[float],
    ) -> None:
        self.model = model
        self.weights = weights
        self._tower = tower.eval().requires_grad_(False)
        self._device = next(tower.parameters()).device
        self._mean_C11 = torch.tensor(mean_rgb, device=self._device).view(3, 1, 1)
        self._std_C11 = torch.tensor(std_rgb, device=self._device).view(3, 1, 1)
        self.dim = self._embed(torch.zeros(1, 3, FRAME_SIZE_PX, FRAME_SIZE_PX, device=self._device)).shape[1]

    def encode(self, frames_NHWC: NDArray[np.uint8]) -> NDArray[np.float16]:
        """Unit-length embeddings [N, D], one a frame.

        Args:
            frames_NHWC: full-range RGB, uint8, already scaled and cropped to 224x224.

        Raises:
            IntegrityError: an embedding is not finite.
        """
        if frames_NHWC.dtype != np.uint8 or frames_NHWC.shape[1:] != (FRAME_SIZE_PX, FRAME_SIZE_PX, 3):
            raise ValueError(
                f"frames must be uint8 [N, {FRAME_SIZE_PX}, {FRAME_SIZE_PX}, 3], "
                f"got {frames_NHWC.dtype} {list(frames_NHWC.shape)}"
            )
        if len(frames_NHWC) == 0:
            return np.zeros((0, self.dim), np.float16)
        frames = torch.from_numpy(np.ascontiguousarray(frames_NHWC)).to(self._device)
        pixels_NCHW = frames.permute(0, 3, 1, 2).float() / 255
        embedding_ND = self._embed((pixels_NCHW - self._mean_C11) / self._std_C11)
        if not bool(torch.isfinite(embedding_ND).all()):
            raise IntegrityError(
                f"CLIP embeddings must be finite, got others from {self.model} ({self.weights}); "
                "check these weights"
            )
        return embedding_ND.half().cpu().numpy()

    @torch.inference_mode()
    def _embed(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(self._tower(pixels_NCHW), dim=-1)


def load_clip(model: str, weights: str, device: str) -> ClipEncoder:
    """An encoder of open_clip's model of that name, or of `tiny`.

    Args:
        model: `tiny`, or a name of `open_clip.list_models()` that sees 224x224 frames.
        weights: `untrained`, a file, or a published tag of the model (`openai`, ...).
        device: a torch device name.

    Raises:
        ConfigError: no such model, weights or device, or the weights are not the model's.
    """
    torch_device = checked_device(device)
    config = _model_config(model)
    published = _published(model)
    if weights in published:
        # The weights know their activation, the model's name does not: ViT-B-32 of `openai` has QuickGELU.
        config["quick_gelu"] = bool(published[weights].get("quick_gelu", False))
    hub_files = {tag: _hub_file(entry["hf_hub"]) for tag, entry in published.items()}
    path = None if weights == UNTRAINED else find_weights(weights, hub_files, model=model)
    with untrained_rng():
        tower = clip_tower(config)
    if path is not None:
        visual = under_prefix(read_state(path), (_PREFIX,))
        load_exactly(tower, {name.removeprefix(_PREFIX): visual[name] for name in visual}, subject=model)
    mean_rgb, std_rgb = _normalisation(published.get(weights, {}))
    return ClipEncoder(
        model=model,
        weights=UNTRAINED if path is None else weights_label(weights, path),
        tower=tower.to(torch_device),
        mean_rgb=mean_rgb,
        std_rgb=std_rgb,
    )


def clip_tower(config: dict[str, Any]) -> nn.Module:
    """open_clip's vision tower with fresh weights; the text tower is not built."""
    # Private, but the one place that maps a config to a tower; the public way builds both towers.
    from open_clip.model import CLIPVisionCfg, _build_vision_tower

    # A timm tower would otherwise ask a hub for image-net weights that ours replace.
    vision = CLIPVisionCfg(**{**config["vision_cfg"], "timm_model_pretrained": False})
    return _build_vision_tower(config["embed_dim"], vision, quick_gelu=config.get("quick_gelu", False))


def _model_config(model: str) -> dict[str, Any]:
    import open_clip

    if model == TINY:
        return dict(_TINY_CONFIG)
    if model not in open_clip.list_models():
        raise ConfigError(
            f"CLIP model must be {TINY!r} or a name of open_clip.list_models(), got {model!r}; use ViT-B-32"
        )
    config: dict[str, Any] = open_clip.get_model_config(model)
    size_px = config["vision_cfg"].get("image_size", FRAME_SIZE_PX)
    if size_px not in (FRAME_SIZE_PX, [FRAME_SIZE_PX, FRAME_SIZE_PX]):
        raise ConfigError(
            f"CLIP model must see frames of {FRAME_SIZE_PX} px, {model} sees {size_px}; use ViT-B-32"
        )
    return config


def _published(model: str) -> dict[str, dict[str, Any]]:
    """Published weights of a model by tag: those that the hub holds."""
    import open_clip

    entries = {
        tag: open_clip.get_pretrained_cfg(model, tag)
        for tag in open_clip.list_pretrained_tags_by_model(model)
    }
    return {tag: entry for tag, entry in entries.items() if entry.get("hf_hub")}


def _hub_file(hf_hub: str) -> HubFile:
    """open_clip writes `owner/name/` for its usual file names and `owner/name/file` for others."""
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

    repository, _, file_name = hf_hub.rpartition("/")
    return HubFile(
        repository=repository,
        file_names=(file_name,) if file_name else (HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME),
    )


def _normalisation(published: dict[str, Any]) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation of RGB in [0, 1] that the weights were trained with; OpenAI's unless published."""
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    return published.get("mean", OPENAI_DATASET_MEAN), published.get("std", OPENAI_DATASET_STD)
