"""Training as a job: its dataset, its run, and the command that starts it. It is never imported."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from infra.config import canonical_json
from infra.errors import ConfigError, IntegrityError
from infra.storage import exclusive, open_root
from infra.store import LocalStore
from pipeline.catalog import Catalog
from pipeline.lake import Lake
from pipeline.pack_dataset import check_dataset_name, finished_versions
from pipeline.run_record import Run, marked_at_end, resume_run, start_run
from shards.manifest import MANIFEST_NAME

OUT_NAME = "train"
"""Folder inside a run's own that the training process fills."""

_DATASET = re.compile(r"(?P<name>[^@]+)(@v?(?P<version>[0-9]+))?")
_LAST_CHECKPOINT = Path("checkpoints", "last")
"""What the training process writes once it has something to go on from."""

_UNFINISHED = """
select run_id, count(*) as num_rows from runs where command = 'train' and recipe_id = ?
group by run_id having not bool_or(state = 'done') order by max(recorded_at) desc
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRequest:
    """A checked request to train. Equal requests on one root are one training, which goes on after a kill."""

    root: Path
    dataset_dir: Path
    recipe: str
    overrides: tuple[str, ...]

    @property
    def settings_json(self) -> str:
        """What the training depends on, down to the bytes of the dataset and of a recipe that is a file."""
        recipe = Path(self.recipe)
        return canonical_json(
            {
                "dataset": str(self.dataset_dir.relative_to(self.root)),
                "manifest_sha256": _file_sha256(self.dataset_dir / MANIFEST_NAME),
                "recipe": self.recipe,
                "recipe_sha256": _file_sha256(recipe) if recipe.is_file() else "",
                "overrides": self.overrides,
            }
        ).decode()

    @property
    def recipe_id(self) -> str:
        """First 12 hex digits of the sha256 of `settings_json`."""
        return sha256(self.settings_json.encode()).hexdigest()[:12]


def plan_training(dataset: str, root: str, *, recipe: str, overrides: Sequence[str]) -> TrainRequest:
    """Find the dataset version.

    Args:
        dataset: `NAME` for the latest version, or `NAME@2`.

    Raises:
        ConfigError: there is no such dataset or version.
    """
    path = open_root(root, create=False)
    return TrainRequest(
        root=path, dataset_dir=find_dataset(dataset, path), recipe=recipe, overrides=tuple(overrides)
    )


def find_dataset(dataset: str, root: Path) -> Path:
    """The folder of a finished version.

    Args:
        dataset: `NAME` for the latest version, or `NAME@2`.

    Raises:
        ConfigError: there is no such dataset or version.
    """
    match = _DATASET.fullmatch(dataset)
    if match is None:
        raise ConfigError(f"a dataset must be NAME or NAME@VERSION, got {dataset!r}")
    check_dataset_name(match["name"])
    versions_dir = root / "datasets" / match["name"]
    finished = finished_versions(LocalStore(versions_dir))
    version = int(match["version"] or max(finished, default=0))
    if version not in finished:
        known = [
            f"{folder.name}@{number}"
            for folder in sorted(root.glob("datasets/*"))
            for number in finished_versions(LocalStore(folder))
        ]
        raise ConfigError(
            f"a finished dataset must be named, got {dataset};"
            f" there is {', '.join(known) or 'none: run `avgen pack` first'}"
        )
    return versions_dir / f"v{version}"


@contextmanager
def training_run(request: TrainRequest) -> Iterator[Run]:
    """The run of a training, recorded as started, and in the end as done or failed.

    An equal run that was killed after its first checkpoint is taken up again. The root is held only while rows are
    written; the folder of the run is held all along, so that nobody else takes it up.

    Raises:
        ConfigError: another process writes to the root, or is at the same training.
    """
    with ExitStack() as held:
        with exclusive(request.root):
            Lake(request.root).create()  # Finishes what a killed run left in the journal.
            unfinished = _unfinished_run(request)
            if unfinished is None:
                run = start_run(
                    request.root, "train", recipe_id=request.recipe_id, settings_json=request.settings_json
                )
                held.enter_context(exclusive(run.folder))
            else:
                run_id, num_commits = unfinished
                held.enter_context(exclusive(request.root / "runs" / run_id))
                run = resume_run(request.root, run_id, num_commits=num_commits)
        with marked_at_end(run.mark_when_free):
            yield run


def train_command(request: TrainRequest, out_dir: Path) -> list[str]:
    """Arguments for the Python interpreter that start training on this machine's devices, or go on with it."""
    overrides = [argument for override in request.overrides for argument in ("--set", override)]
    return [
        *("-m", "train.launch"),
        *("--dataset", str(request.dataset_dir)),
        *("--recipe", request.recipe),
        *("--out", str(out_dir)),
        *overrides,
        *(["--resume"] if (out_dir / _LAST_CHECKPOINT).is_file() else []),
    ]


def training_result(stdout: str, out_dir: Path) -> dict[str, Any]:
    """What a training process that ended well says of itself: the JSON object in its last line.

    Raises:
        IntegrityError: there is none.
    """
    lines = stdout.strip().splitlines()
    try:
        result = json.loads(lines[-1]) if lines else None
    except json.JSONDecodeError:
        result = None
    if not isinstance(result, dict):
        raise IntegrityError(
            f"training must print its result as a JSON object, got {lines[-1:]}; its files are in {out_dir}"
        )
    return result


def _unfinished_run(request: TrainRequest) -> tuple[str, int] | None:
    """The latest run of equal settings that has a checkpoint and did not end well, and how many rows it wrote."""
    rows = Catalog(request.root).query(_UNFINISHED, [request.recipe_id]).to_pylist()
    for row in rows:
        if (request.root / "runs" / row["run_id"] / OUT_NAME / _LAST_CHECKPOINT).is_file():
            return row["run_id"], row["num_rows"]
    return None


def _file_sha256(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()
