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
from infra.root import Root, open_root
from infra.storage import exclusive
from infra.store_lock import exclusive_store
from pipeline.catalog import Catalog
from pipeline.lake import Lake
from pipeline.pack_dataset import check_dataset_name, finished_versions
from pipeline.run_record import Run, marked_at_end, resume_run, run_folder, start_run
from shards.manifest import MANIFEST_NAME

OUT_NAME = "train"
"""Folder inside a run's own that the training process fills."""

_DATASETS = "datasets"
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

    root: Root
    dataset: str
    """Key of the version's folder."""
    recipe: str
    overrides: tuple[str, ...]

    @property
    def dataset_dir(self) -> Path:
        """The folder of the version."""
        return self.root.scratch / self.dataset

    @property
    def settings_json(self) -> str:
        """What the training depends on, down to the bytes of the dataset and of a recipe that is a file."""
        recipe = Path(self.recipe)
        return canonical_json(
            {
                "dataset": self.dataset,
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
        ConfigError: there is no such dataset or version, or the root is no folder.
    """
    home = open_root(root, create=False)
    check_can_train(home)
    return TrainRequest(
        root=home, dataset=find_dataset(dataset, home), recipe=recipe, overrides=tuple(overrides)
    )


def check_can_train(root: Root) -> None:
    """Raises `ConfigError` unless a training process finds the dataset in a folder and can write beside it."""
    if not root.is_local:
        raise ConfigError(
            f"training must have its dataset in a folder, got {root.url}; copy datasets/NAME from there"
            " and run `python -m train.launch --dataset NAME/vK --out DIR`"
        )


def find_dataset(dataset: str, root: Root) -> str:
    """Key of the folder of a finished version: `datasets/<name>/v<k>`.

    Args:
        dataset: `NAME` for the latest version, or `NAME@2`.

    Raises:
        ConfigError: there is no such dataset or version.
    """
    match = _DATASET.fullmatch(dataset)
    if match is None:
        raise ConfigError(f"a dataset must be NAME or NAME@VERSION, got {dataset!r}")
    check_dataset_name(match["name"])
    datasets = root.store.below(_DATASETS)
    finished = finished_versions(datasets.below(match["name"]))
    version = int(match["version"] or max(finished, default=0))
    if version not in finished:
        names = sorted({file.key.partition("/")[0] for file in datasets.files()})
        known = [f"{name}@{number}" for name in names for number in finished_versions(datasets.below(name))]
        raise ConfigError(
            f"a finished dataset must be named, got {dataset};"
            f" there is {', '.join(known) or 'none: run `avgen pack` first'}"
        )
    return f"{_DATASETS}/{match['name']}/v{version}"


@contextmanager
def training_run(request: TrainRequest) -> Iterator[Run]:
    """The run of a training, recorded as started, and in the end as done or failed.

    An equal run that was killed after its first checkpoint is taken up again. The root is held only while rows are
    written; the folder of the run is held all along, so that nobody else takes it up.

    Raises:
        ConfigError: another process writes to the root, or is at the same training.
    """
    with ExitStack() as held:
        with exclusive_store(request.root.store) as lock:
            Lake(request.root.store, lock=lock).create()  # Finishes what a killed run left in the journal.
            unfinished = _unfinished_run(request)
            if unfinished is None:
                run = start_run(
                    request.root,
                    "train",
                    recipe_id=request.recipe_id,
                    settings_json=request.settings_json,
                    lock=lock,
                )
                held.enter_context(exclusive(run.folder))
            else:
                run_id, num_commits = unfinished
                held.enter_context(exclusive(run_folder(request.root, run_id)))
                run = resume_run(request.root, run_id, num_commits=num_commits, lock=lock)
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
        if (run_folder(request.root, row["run_id"]) / OUT_NAME / _LAST_CHECKPOINT).is_file():
            return row["run_id"], row["num_rows"]
    return None


def _file_sha256(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()
