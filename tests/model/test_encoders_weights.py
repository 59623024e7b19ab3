"""Weights that are absent, foreign, unsafe or unreachable are refused in one line."""

import pickle
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from infra.errors import ConfigError
from model.encoders.weights import (
    HubFile,
    checked_device,
    find_weights,
    load_exactly,
    read_state,
    untrained_rng,
    weights_label,
)


class _Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("code ran",)


def test_untrained_rng_used_twice_gives_same_draws_and_leaves_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with untrained_rng():
        first = torch.rand(3)
    with untrained_rng():
        second = torch.rand(3)
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("device", ["abacus", "cuda:99"])
def test_checked_device_that_is_not_here_raises_config_error(device: str) -> None:
    with pytest.raises(ConfigError, match=f"got '{device}'"):
        checked_device(device)


def test_find_weights_no_such_file_raises_config_error_naming_what_is_published(tmp_path: Path) -> None:
    published = {"openai": HubFile(repository="o/r", file_names=("f",))}
    with pytest.raises(ConfigError, match=re.escape("'untrained', a file or a published name (openai)")):
        find_weights(str(tmp_path / "absent.pt"), published, model="m")


def test_find_weights_hub_out_of_reach_raises_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx
    from huggingface_hub import set_client_factory

    # Port 9 (discard) of this host refuses at once: a real client, a real refused connection.
    set_client_factory(lambda: httpx.Client(proxy="http://127.0.0.1:9", trust_env=False))
    try:
        published = {"openai": HubFile(repository="nobody/nothing", file_names=("absent.safetensors",))}
        with pytest.raises(
            ConfigError, match="repository nobody/nothing, got: no answer from the hub"
        ) as err:
            find_weights("openai", published, model="ViT-B-32")
    finally:
        set_client_factory(lambda: httpx.Client(follow_redirects=True))
    assert "\n" not in str(err.value)


def test_weights_label_names_file_and_hash(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(b"abc")
    # Source: FIPS 180-4, SHA-256 of "abc" starts ba7816bf 8f01cfea.
    assert weights_label("folder/w.pt", path) == "w.pt@ba7816bf8f01"


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_read_state_round_trips_and_strips_module(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    state = {"module.a.weight": torch.arange(3.0), "b": torch.zeros(2)}
    if suffix == ".pt":
        torch.save({"epoch": 3, "state_dict": state}, path)
    else:
        save_file(state, path)
    read = read_state(path)
    assert sorted(read) == ["a.weight", "b"]
    assert torch.equal(read["a.weight"], torch.arange(3.0))


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04.", b"PK\x03\x04 torn"])
def test_read_state_not_a_checkpoint_raises_config_error(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match="pickle of tensors only"):
        read_state(tmp_path / name)


def test_read_state_pickle_with_code_raises_config_error_and_runs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"a": _Hostile()}, tmp_path / "zip.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(_Hostile()))
    for name in ("zip.pt", "bare.pt"):
        with pytest.raises(ConfigError, match="pickle of tensors only"):
            read_state(tmp_path / name)
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("state", "found"),
    [
        ({"weight": torch.zeros(2, 3)}, "1 missing (bias), 0 unexpected, 0 of another shape"),
        (
            {"weight": torch.zeros(2, 3), "bias": torch.zeros(2), "extra": torch.zeros(1)},
            "0 missing, 1 unexpected (extra), 0 of another shape",
        ),
        (
            {"weight": torch.zeros(2, 4), "bias": torch.zeros(2)},
            "0 missing, 0 unexpected, 1 of another shape (weight)",
        ),
        ({}, "2 missing (weight, bias), 0 unexpected, 0 of another shape"),
    ],
)
def test_load_exactly_other_names_or_shapes_raises_config_error(
    state: dict[str, torch.Tensor], found: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(found)):
        load_exactly(nn.Linear(3, 2), state, subject="linear")
