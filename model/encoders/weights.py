"""Weights of the frozen encoders: found or refused, read safely, named by their hash.

The only module of `model/` that touches a file or the network, and only when an encoder is loaded.
"""

import hashlib
import pickle
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from infra.errors import ConfigError

UNTRAINED = "untrained"
"""The weights name that asks for random weights, and the label that every result then carries."""

_UNTRAINED_SEED = 20_211
# One request says whether the hub answers; its client alone retries a dead network for 23 s.
# Source: huggingface_hub 2.4.0 without a network, measured 2026-11-23.
_HUB_PROBE_TIMEOUT_S = 5.0
_NUM_KEYS_SHOWN = 3
# What torch's unpickler raises on bytes that are no checkpoint: on "hello" it is a KeyError.
_UNREADABLE = (
    pickle.UnpicklingError,
    struct.error,
    RuntimeError,
    EOFError,
    ValueError,
    OSError,
    LookupError,
    TypeError,
    AttributeError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    """A published file of weights."""

    repository: str
    file_names: tuple[str, ...]
    """Names to try, best first."""


@contextmanager
def untrained_rng() -> Iterator[None]:
    """Draws inside come from a fixed seed; the process's own CPU generator is as it was afterwards."""
    state = torch.get_rng_state()
    # torch.manual_seed would reach every GPU's generator as well.
    torch.default_generator.manual_seed(_UNTRAINED_SEED)
    try:
        yield
    finally:
        torch.set_rng_state(state)


def checked_device(device: str) -> torch.device:
    """The device, if this machine has it.

    Raises:
        ConfigError: torch does not know the name, or sees no such device.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as err:  # torch built without CUDA asserts
        raise ConfigError(f"device must exist here, got {device!r} ({_first_line(err)}); use 'cpu'") from err
    return torch.device(device)


def find_weights(weights: str, published: Mapping[str, HubFile], *, model: str) -> Path:
    """Path of the weights: a published name is fetched (or found in the hub's cache), all else is a file.

    Raises:
        ConfigError: neither a published name nor a file, or the hub does not have it or does not answer.
    """
    if weights in published:
        return _fetch_from_hub(published[weights], weights=weights, model=model)
    path = Path(weights)
    if not path.is_file():
        names = ", ".join(sorted(published)) or "none published"
        raise ConfigError(
            f"weights of {model} must be {UNTRAINED!r}, a file or a published name ({names}), "
            f"got {weights!r}, which is none of them; correct the name or path"
        )
    return path


def weights_label(weights: str, path: Path) -> str:
    """Name and content of the weights in one word: `<name or file>@<first 12 of sha256>`."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return f"{Path(weights).name}@{digest[:12]}"


def read_state(path: Path) -> dict[str, Tensor]:
    """Tensors of a checkpoint by name, without the `module.` that data-parallel training puts in front.

    A pickle is read with `weights_only=True`: nothing in it can run.

    Raises:
        ConfigError: the file is no checkpoint, or holds more than tensors.
    """
    try:
        checkpoint = _read_checkpoint(path)
    except _UNREADABLE as err:
        raise ConfigError(
            f"weights must be a safetensors file or a pickle of tensors only, "
            f"got {path} ({_first_line(err)}); convert it to safetensors or fetch it again"
        ) from err
    state = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, dict) else checkpoint
    if not isinstance(state, dict):
        raise ConfigError(
            f"weights must hold a mapping of names to tensors, got {type(state).__name__} in {path}; "
            "pass the checkpoint itself"
        )
    return {
        str(name).removeprefix("module."): tensor for name, tensor in state.items() if torch.is_tensor(tensor)
    }


def load_exactly(module: nn.Module, state: Mapping[str, Tensor], *, subject: str) -> None:
    """Copy `state` into `module`, which must have the same names and shapes, no more and no fewer.

    Raises:
        ConfigError: a name is missing or unexpected, or a shape differs.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    reshaped = [name for name in own if name in state and own[name].shape != state[name].shape]
    if missing or unexpected or reshaped:
        raise ConfigError(
            f"weights of {subject} must fit it exactly, got {_shown('missing', missing)}, "
            f"{_shown('unexpected', unexpected)}, {_shown('of another shape', reshaped)}; "
            "name the model that these weights were trained as"
        )
    module.load_state_dict(dict(state))


def under_prefix(state: Mapping[str, Tensor], prefixes: Sequence[str]) -> dict[str, Tensor]:
    """The part of a checkpoint whose names start with one of the prefixes."""
    return {name: tensor for name, tensor in state.items() if name.startswith(tuple(prefixes))}


def _read_checkpoint(path: Path) -> object:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as err:
            raise ValueError(str(err)) from err
    return torch.load(path, map_location="cpu", weights_only=True)


def _fetch_from_hub(hub_file: HubFile, *, weights: str, model: str) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    for file_name in hub_file.file_names:
        cached = huggingface_hub.try_to_load_from_cache(hub_file.repository, file_name)
        if isinstance(cached, str):
            return Path(cached)
    reason = "the hub has no such file"
    for file_name in hub_file.file_names:
        try:
            if _hub_has(hub_file.repository, file_name):
                return Path(huggingface_hub.hf_hub_download(hub_file.repository, file_name))
        except (OSError, HfHubHTTPError) as err:
            reason = _first_line(err)
            break
    raise ConfigError(
        f"weights {weights!r} of {model} must be reachable in the hub's repository {hub_file.repository}, "
        f"got: {reason}; fetch the file elsewhere and pass its path, or use {UNTRAINED!r}"
    )


def _hub_has(repository: str, file_name: str) -> bool:
    """Whether the hub has the file, from one request.

    Raises:
        OSError: the hub does not answer, refuses, or its client is told to stay offline.
    """
    import httpx
    import huggingface_hub

    url = huggingface_hub.hf_hub_url(repository, file_name)
    try:
        response = huggingface_hub.get_session().head(
            url, timeout=_HUB_PROBE_TIMEOUT_S, follow_redirects=True
        )
    except httpx.HTTPError as err:
        raise OSError(f"no answer from the hub ({_first_line(err)})") from err
    if response.status_code == httpx.codes.NOT_FOUND:
        return False
    if response.is_error:
        raise OSError(f"the hub answered {response.status_code}")
    return True


def _shown(what: str, names: Sequence[str]) -> str:
    if not names:
        return f"0 {what}"
    more = ", ..." if len(names) > _NUM_KEYS_SHOWN else ""
    return f"{len(names)} {what} ({', '.join(names[:_NUM_KEYS_SHOWN])}{more})"


def _first_line(err: Exception) -> str:
    return (str(err) or type(err).__name__).splitlines()[0]
