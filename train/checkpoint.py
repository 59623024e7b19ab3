"""Checkpoints: the only module that calls torch.save and torch.load.

    <out>/checkpoints/step-000012/   model.pt, optimiser-00000.pt (one a rank), manifest.json
    <out>/checkpoints/last           the name of the newest whole one, written last

A folder gets its name by one rename after every file in it is on disk, so a kill leaves whole checkpoints
and temporary folders, and nothing between.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from infra.errors import ConfigError, IntegrityError
from infra.storage import fresh_folder, sync, write_atomic

FORMAT_VERSION = 2
_LAST = "last"
_MANIFEST = "manifest.json"
_MODEL_FILE = "model.pt"


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedFile:
    """A file of a checkpoint as it was written."""

    name: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A whole checkpoint, read back and proven."""

    step: int
    facts: dict[str, Any]
    model_state: dict[str, Tensor]
    optimiser_shards: list[dict[str, Tensor]]


def checkpoints_dir(out_dir: Path) -> Path:
    """Where the checkpoints of a run lie."""
    return out_dir / "checkpoints"


def temporary_dir(out_dir: Path) -> Path:
    """Where the checkpoint lies that is being written; one run writes to `out_dir` at a time."""
    return checkpoints_dir(out_dir) / ".writing"


def begin_checkpoint(out_dir: Path) -> None:
    """Make the empty folder that every rank then saves into."""
    fresh_folder(temporary_dir(out_dir))


def save_model(out_dir: Path, state: dict[str, Tensor]) -> SavedFile:
    """Save the weights, on one rank."""
    return _save(temporary_dir(out_dir) / _MODEL_FILE, state)


def save_optimiser_shard(out_dir: Path, state: dict[str, Tensor], *, rank: int) -> SavedFile:
    """Save what one rank owns of the optimiser, on that rank."""
    return _save(temporary_dir(out_dir) / f"optimiser-{rank:05d}.pt", state)


def commit_checkpoint(out_dir: Path, *, step: int, facts: dict[str, Any], files: list[SavedFile]) -> Path:
    """Name the checkpoint once all ranks have saved, and point `last` at it; returns its folder."""
    temporary, final = temporary_dir(out_dir), checkpoints_dir(out_dir) / f"step-{step:06d}"
    manifest = {
        "format_version": FORMAT_VERSION,
        "step": step,
        "facts": facts,
        "files": {file.name: {"sha256": file.sha256, "size_bytes": file.size_bytes} for file in files},
    }
    write_atomic(temporary / _MANIFEST, json.dumps(manifest, indent=2, sort_keys=True).encode())
    # A folder of this step can only be one that a killed run named and did not point at.
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    sync(final.parent)
    write_atomic(checkpoints_dir(out_dir) / _LAST, f"{final.name}\n".encode())
    return final


def remove_old_checkpoints(out_dir: Path, *, num_kept: int) -> None:
    """Delete all but the newest `num_kept` checkpoints."""
    for folder in sorted(checkpoints_dir(out_dir).glob("step-*"))[:-num_kept]:
        shutil.rmtree(folder)


def has_checkpoint(out_dir: Path) -> bool:
    """Whether a run got as far as its first checkpoint here."""
    return (checkpoints_dir(out_dir) / _LAST).is_file()


def check_resume(out_dir: Path, *, resume: bool) -> None:
    """Raises `ConfigError` when the wish to resume does not match what lies in `out_dir`."""
    if has_checkpoint(out_dir) and not resume:
        raise ConfigError(
            f"--out must be a folder without checkpoints, {out_dir} has some; add --resume to go on"
        )
    if resume and not has_checkpoint(out_dir):
        raise ConfigError(f"--resume needs a checkpoint in {out_dir}, got none; leave --resume out to start")


def load_last_checkpoint(out_dir: Path) -> Checkpoint:
    """The newest whole checkpoint, every file proven by its sha256 before it is read.

    Raises:
        IntegrityError: a file is missing, cut or altered, or the manifest does not make sense.
    """
    folder = checkpoints_dir(out_dir) / (checkpoints_dir(out_dir) / _LAST).read_text().strip()
    manifest = _read_manifest(folder)
    for name, expected in manifest["files"].items():
        _check_file(folder / name, expected)
    shard_names = sorted(name for name in manifest["files"] if name.startswith("optimiser-"))
    return Checkpoint(
        step=manifest["step"],
        facts=manifest["facts"],
        model_state=_load(folder / _MODEL_FILE),
        optimiser_shards=[_load(folder / name) for name in shard_names],
    )


def _save(path: Path, state: dict[str, Tensor]) -> SavedFile:
    # A view would be saved with the whole storage behind it, which under ZeRO is every rank's weights.
    own = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
    with path.open("wb") as stream:
        torch.save(own, stream)
        stream.flush()
        os.fsync(stream.fileno())
    return SavedFile(name=path.name, sha256=_sha256(path), size_bytes=path.stat().st_size)


def _load(path: Path) -> dict[str, Tensor]:
    return torch.load(path, weights_only=True, map_location="cpu")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        version = manifest["format_version"]
        manifest["files"][_MODEL_FILE], manifest["step"], manifest["facts"]
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise IntegrityError(
            f"a checkpoint must have a whole {_MANIFEST}, got {err!r} in {folder}; point `last` at another"
        ) from err
    if version != FORMAT_VERSION:
        raise IntegrityError(f"checkpoint format must be {FORMAT_VERSION}, got {version} in {folder}")
    return manifest


def _check_file(path: Path, expected: dict[str, Any]) -> None:
    found = _sha256(path) if path.is_file() else "no file"
    if found != expected["sha256"]:
        raise IntegrityError(
            f"checkpoint file {path} must have sha256 {expected['sha256']}, got {found}; it is torn, "
            "point `last` at another checkpoint"
        )
