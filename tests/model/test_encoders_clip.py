"""CLIP's vision tower: reference, determinism, weights."""

import random
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from numpy.typing import NDArray

from infra.errors import ConfigError, IntegrityError
from model.encoders.clip import TINY, ClipEncoder, clip_tower, load_clip


@pytest.fixture(scope="module")
def encoder() -> ClipEncoder:
    return load_clip(TINY, "untrained", "cpu")


def _frames(num_frames: int) -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (num_frames, 224, 224, 3), dtype=np.uint8)


def test_load_clip_untrained_says_so(encoder: ClipEncoder) -> None:
    assert (encoder.model, encoder.weights, encoder.dim) == ("tiny", "untrained", 512)


def test_encode_returns_unit_length_float16(encoder: ClipEncoder) -> None:
    embedding_ND = encoder.encode(_frames(3))
    assert embedding_ND.dtype == np.float16
    assert embedding_ND.shape == (3, 512)
    # Half precision keeps 11 bits: each of 512 squares is off by at most 2^-11 of itself.
    assert np.allclose(np.linalg.norm(embedding_ND.astype(np.float64), axis=1), 1, atol=1e-3)


def test_encode_no_frames_returns_no_rows(encoder: ClipEncoder) -> None:
    assert encoder.encode(_frames(0)).shape == (0, 512)


def test_encode_same_input_gives_same_bytes_from_two_encoders(encoder: ClipEncoder) -> None:
    frames_NHWC = _frames(4)
    once = encoder.encode(frames_NHWC)
    assert once.tobytes() == encoder.encode(frames_NHWC).tobytes()
    assert once.tobytes() == load_clip(TINY, "untrained", "cpu").encode(frames_NHWC).tobytes()


def test_encode_permuted_frames_permutes_rows(encoder: ClipEncoder) -> None:
    frames_NHWC = _frames(4)
    order = [2, 0, 3, 1]
    forward, permuted = encoder.encode(frames_NHWC), encoder.encode(frames_NHWC[order])
    assert np.allclose(permuted.astype(np.float32), forward[order].astype(np.float32), atol=1e-3)


def test_encode_agrees_with_open_clip_own_preprocessing_and_model(tmp_path: Path) -> None:
    from PIL import Image

    model = open_clip.CLIP(
        512,
        open_clip.CLIPVisionCfg(image_size=224, layers=2, width=64, head_width=32, patch_size=32),
        open_clip.CLIPTextCfg(context_length=8, vocab_size=16, width=8, heads=1, layers=1),
    ).eval()
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "clip.pt"
    )
    preprocess = open_clip.image_transform(224, is_train=False)
    frames_NHWC = _frames(2)
    pixels_NCHW = torch.stack([preprocess(Image.fromarray(frame_HWC)) for frame_HWC in frames_NHWC])
    with torch.inference_mode():
        expected_ND = model.encode_image(pixels_NCHW, normalize=True).numpy()

    encoder = load_clip(TINY, str(tmp_path / "clip.pt"), "cpu")

    assert encoder.weights.startswith("clip.pt@")
    assert len(encoder.weights) == len("clip.pt@") + 12
    assert np.allclose(encoder.encode(frames_NHWC), expected_ND, atol=1e-3)


def test_load_clip_leaves_random_state_alone() -> None:
    torch.manual_seed(1)
    torch_before, numpy_before, python_before = (
        torch.get_rng_state(),
        np.random.get_state(),
        random.getstate(),
    )
    load_clip(TINY, "untrained", "cpu")
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert np.array_equal(np.random.get_state()[1], numpy_before[1])
    assert random.getstate() == python_before


def test_clip_tower_published_model_has_no_text_tower() -> None:
    config = open_clip.get_model_config("ViT-B-32")
    with torch.device("meta"):
        tower = clip_tower(config)
    assert sum(weights.numel() for weights in tower.parameters()) == 87_849_216  # ViT-B/32 vision, OpenAI


@pytest.mark.parametrize(
    ("model", "weights", "said"),
    [
        ("ViT-Z-99", "untrained", "got 'ViT-Z-99'"),
        ("ViT-B-16-plus-240", "untrained", "sees 240"),
        ("tiny", "openai", "got 'openai'"),
        ("ViT-B-32", "no_such_tag", "got 'no_such_tag'"),
        ("tiny", "/no/such/file.pt", "got '/no/such/file.pt'"),
    ],
)
def test_load_clip_what_cannot_be_had_raises_config_error(model: str, weights: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as err:
        load_clip(model, weights, "cpu")
    assert "\n" not in str(err.value)


def test_load_clip_weights_of_another_model_raises_config_error(tmp_path: Path) -> None:
    torch.save({"visual.proj": torch.zeros(64, 512)}, tmp_path / "other.pt")
    with pytest.raises(ConfigError, match="weights of tiny must fit it exactly"):
        load_clip(TINY, str(tmp_path / "other.pt"), "cpu")


@pytest.mark.parametrize(
    "frames", [np.zeros((1, 224, 224, 3), np.float32), np.zeros((1, 3, 224, 224), np.uint8)]
)
def test_encode_other_layout_raises_value_error(encoder: ClipEncoder, frames: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match="frames must be uint8"):
        encoder.encode(frames)


def test_encode_weights_not_finite_raises_integrity_error(tmp_path: Path) -> None:
    with torch.no_grad():
        state = {
            f"visual.{name}": torch.full_like(weights, torch.nan)
            for name, weights in load_clip(TINY, "untrained", "cpu")._tower.state_dict().items()
        }
    torch.save(state, tmp_path / "nan.pt")
    with pytest.raises(IntegrityError, match="must be finite"):
        load_clip(TINY, str(tmp_path / "nan.pt"), "cpu").encode(_frames(1))
