"""Training as a job: which dataset, where its files go, and the command that starts it. It is never imported."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from infra.errors import ConfigError
from infra.storage import open_root
from pipeline.pack_dataset import latest_version
from shards.manifest import MANIFEST_NAME

_DATASET = re.compile(r"(?P<name>[^@]+)(@v?(?P<version>[0-9]+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRequest:
    """A checked request to train."""

    dataset_dir: Path
    out_dir: Path
    recipe: str
    overrides: tuple[str, ...]


def plan_training(dataset: str, root: str, *, recipe: str, overrides: Sequence[str]) -> TrainRequest:
    """Find the dataset version and name the folder of the run.

    Args:
        dataset: `NAME` for the latest version, or `NAME@2`.

    Raises:
        ConfigError: there is no such dataset or version.
    """
    path = open_root(root, create=False)
    match = _DATASET.fullmatch(dataset)
    if match is None:
        raise ConfigError(f"--dataset must be NAME or NAME@VERSION, got {dataset!r}")
    versions_dir = path / "datasets" / match["name"]
    version = int(match["version"] or latest_version(versions_dir))
    dataset_dir = versions_dir / f"v{version}"
    if not (dataset_dir / MANIFEST_NAME).is_file():
        known = sorted(
            str(p.parent.relative_to(path / "datasets")) for p in path.glob("datasets/*/v*/manifest.json")
        )
        raise ConfigError(
            f"--dataset must name a finished dataset, got {dataset};"
            f" there is {', '.join(known) or 'none: run `avgen pack` first'}"
        )
    stamp = datetime.now(UTC).strftime("%Y%m%dt%H%M%S")
    return TrainRequest(
        dataset_dir=dataset_dir,
        out_dir=path / "runs" / f"train-{stamp}-{match['name']}-v{version}",
        recipe=recipe,
        overrides=tuple(overrides),
    )


def train_command(request: TrainRequest) -> list[str]:
    """Arguments for the Python interpreter that start training on this machine's devices."""
    overrides = [argument for override in request.overrides for argument in ("--set", override)]
    return [
        *("-m", "train.launch"),
        *("--dataset", str(request.dataset_dir)),
        *("--recipe", request.recipe),
        *("--out", str(request.out_dir)),
        *overrides,
    ]
