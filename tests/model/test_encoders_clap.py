"""CLAP's audio branch: padding, determinism, checkpoints, a clean import."""

import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from infra.errors import ConfigError, TooShort
from model.encoders.clap import CLIP_SAMPLES, TINY, ClapEncoder, clap_tower, load_clap, repeat_pad


@pytest.fixture(scope="module")
def encoder() -> ClapEncoder:
    return load_clap(TINY, "untrained", "cpu")


def _noise(num_clips: int, num_samples: int) -> NDArray[np.float32]:
    return np.random.default_rng(4).uniform(-0.5, 0.5, (num_clips, num_samples)).astype(np.float32)


def test_repeat_pad_repeats_whole_clips_then_silence() -> None:
    num_samples = 200_000
    padded_BT = repeat_pad(torch.arange(1.0, num_samples + 1)[None])
    assert padded_BT.shape == (1, CLIP_SAMPLES)
    assert torch.equal(padded_BT[0, :num_samples], padded_BT[0, num_samples : 2 * num_samples])
    assert not padded_BT[0, 2 * num_samples :].any()


def test_repeat_pad_no_samples_raises_too_short() -> None:
    with pytest.raises(TooShort):
        repeat_pad(torch.zeros(2, 0))


def test_load_clap_untrained_says_so(encoder: ClapEncoder) -> None:
    assert (encoder.model, encoder.weights, encoder.dim) == ("tiny", "untrained", 512)


@pytest.mark.parametrize("num_samples", [1, 4_801, CLIP_SAMPLES])
def test_encode_any_length_returns_unit_length_float16(encoder: ClapEncoder, num_samples: int) -> None:
    embedding_BD = encoder.encode(_noise(2, num_samples))
    assert embedding_BD.dtype == np.float16
    assert embedding_BD.shape == (2, 512)
    assert np.allclose(np.linalg.norm(embedding_BD.astype(np.float64), axis=1), 1, atol=1e-3)


def test_encode_clip_and_its_own_repetition_give_same_bytes(encoder: ClapEncoder) -> None:
    short_BT = _noise(1, CLIP_SAMPLES // 4)
    assert encoder.encode(short_BT).tobytes() == encoder.encode(np.tile(short_BT, (1, 4))).tobytes()


def test_encode_same_input_gives_same_bytes_from_two_encoders(encoder: ClapEncoder) -> None:
    audio_BT = _noise(2, 96_000)
    once = encoder.encode(audio_BT)
    assert once.tobytes() == encoder.encode(audio_BT).tobytes()
    assert once.tobytes() == load_clap(TINY, "untrained", "cpu").encode(audio_BT).tobytes()


def test_encode_different_sounds_differ(encoder: ClapEncoder) -> None:
    tone_T = 0.5 * np.sin(2 * np.pi * 440 * np.arange(48_000) / 48_000)
    tone_D, noise_D = encoder.encode(np.stack([tone_T.astype(np.float32), _noise(1, 48_000)[0]]))
    assert not np.array_equal(tone_D, noise_D)


def test_encode_no_clips_returns_no_rows(encoder: ClapEncoder) -> None:
    assert encoder.encode(_noise(0, 10)).shape == (0, 512)


@pytest.mark.parametrize(
    "audio", [np.zeros((1, CLIP_SAMPLES + 1), np.float32), np.zeros((1, 8)), np.zeros(8, np.float32)]
)
def test_encode_other_layout_raises_value_error(encoder: ClapEncoder, audio: NDArray[np.float32]) -> None:
    with pytest.raises(ValueError, match="audio must be float32"):
        encoder.encode(audio)


def _checkpoint(tower: torch.nn.Module) -> dict[str, object]:
    """As CLAP's trainer writes it: data-parallel names, the text half beside, an epoch number."""
    state = {f"module.{name}": weights for name, weights in tower.state_dict().items()}
    state["module.text_branch.embeddings.weight"] = torch.zeros(2)
    state["module.audio_transform.sequential.0.weight"] = torch.zeros(2)
    return {"epoch": 7, "state_dict": state}


def test_load_clap_checkpoint_gives_the_embeddings_of_the_model_that_wrote_it(tmp_path: Path) -> None:
    torch.manual_seed(99)
    tower = clap_tower(TINY).eval()
    torch.save(_checkpoint(tower), tmp_path / "clap.pt")
    audio_BT = np.full((1, CLIP_SAMPLES), 0.25, np.float32)
    audio_BT[:, ::7] = -0.5
    with torch.inference_mode():
        expected_BD = tower(torch.from_numpy((audio_BT * 32767).astype(np.int16) / np.float32(32767)))

    encoder = load_clap(TINY, str(tmp_path / "clap.pt"), "cpu")

    assert encoder.weights.startswith("clap.pt@")
    assert encoder.encode(audio_BT).tobytes() == expected_BD.half().numpy().tobytes()


@pytest.mark.parametrize(
    ("edit", "said"),
    [("drop", "1 missing (audio_projection.2.bias)"), ("add", "1 unexpected (audio_branch.extra)")],
)
def test_load_clap_checkpoint_with_other_keys_raises_config_error(
    tmp_path: Path, edit: str, said: str
) -> None:
    state = dict(clap_tower(TINY).state_dict())
    if edit == "drop":
        del state["audio_projection.2.bias"]
    else:
        state["audio_branch.extra"] = torch.zeros(1)
    torch.save(state, tmp_path / "clap.pt")
    with pytest.raises(ConfigError) as err:
        load_clap(TINY, str(tmp_path / "clap.pt"), "cpu")
    assert said in str(err.value)


@pytest.mark.parametrize(
    ("model", "weights", "said"),
    [
        ("HTSAT-huge", "untrained", "got 'HTSAT-huge'"),
        ("tiny", "630k-best", "got '630k-best'"),
        ("HTSAT-tiny", "/no/such.pt", "got '/no/such.pt'"),
    ],
)
def test_load_clap_what_cannot_be_had_raises_config_error(model: str, weights: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_clap(model, weights, "cpu")


def test_clap_tower_published_model_has_the_published_sizes() -> None:
    tower = clap_tower("HTSAT-tiny")
    # Source: laion_clap model_configs/HTSAT-tiny.json, embed_dim 768, joint_embed_shape 512.
    assert tower.audio_projection[0].weight.shape == (512, 768)
    assert tower.audio_branch.num_features == 768


def test_load_clap_leaves_the_process_as_it_was() -> None:
    torch.manual_seed(1)
    before = (torch.get_rng_state(), random.getstate(), list(sys.path), dict(os.environ))
    load_clap(TINY, "untrained", "cpu")
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), sys.path, dict(os.environ)) == before[1:]


def test_load_clap_never_imports_the_package_itself() -> None:
    load_clap(TINY, "untrained", "cpu")
    assert not {"laion_clap", "clap_module"} & set(sys.modules)
