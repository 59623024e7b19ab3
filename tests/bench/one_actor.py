"""One actor of the pipeline in a process of its own: pickled rows in, pickled rows out.

    python -m tests.bench.one_actor {fetch,curate,embed} RECIPE ROOT ROWS_IN ROWS_OUT

Rows stream through, as they do in Ray, so that the process holds no more than the actor does.
"""

import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import ray.data  # noqa: F401 - every Ray worker has it in memory, so it belongs to what is measured

from infra.errors import AvgenError
from pipeline.ray_adapter import CurateActor, EmbedActor, FetchActor
from pipeline.recipe import Recipe, load_recipe
from pipeline.records import Failed, SourceOutcome
from tests.bench.process_tree import PeakMemory, peak_memory

Row = dict[str, Any]


def actor_peak(stage: str, *, recipe: str, root: Path, rows_in: Path, rows_out: Path) -> PeakMemory:
    """Peak of such a process with its children. Raises `SystemExit` when it fails."""
    arguments = (stage, recipe, str(root), str(rows_in), str(rows_out))
    command = [sys.executable, "-m", "tests.bench.one_actor", *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        peak = peak_memory(process)
    if process.returncode != 0:
        raise SystemExit(f"the {stage} actor must end with status 0, got {process.returncode}; see above")
    return peak


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file, one in memory at a time."""
    with path.open("rb") as file:
        while file.peek(1):
            yield pickle.load(file)


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """The inverse of `read_rows`."""
    with path.open("wb") as file:
        for row in rows:
            pickle.dump(row, file, protocol=pickle.HIGHEST_PROTOCOL)


def main(stage: str, recipe_name: str, root: str, rows_in: str, rows_out: str) -> None:
    """Send every row through the actor; a source that fails stops the measurement."""
    actor = _actor(stage, load_recipe(recipe_name, []), Path(root))
    results = (result for row in read_rows(Path(rows_in)) for result in _results(actor(row)))
    write_rows(Path(rows_out), (_unfailed(row) for row in results))


def _actor(stage: str, recipe: Recipe, root: Path) -> Callable[[Row], Row | Iterator[Row]]:
    place: dict[str, Any] = {"recipe": recipe, "root": root, "work_dir": root / "tmp"}
    match stage:
        case "fetch":
            return FetchActor(**place)
        case "curate":
            return CurateActor(**place)
        case "embed":
            return EmbedActor(config=recipe.embed, use_gpu=False)
    raise SystemExit(f"the stage must be fetch, curate or embed, got {stage}")


def _results(result: Row | Iterator[Row]) -> Iterable[Row]:
    return [result] if isinstance(result, dict) else result


def _unfailed(row: Row) -> Row:
    """The row. Raises `SystemExit` when it says that its source failed, or the error that it holds."""
    record = row["record"]
    if isinstance(record, AvgenError):
        raise record
    outcome = record if isinstance(record, SourceOutcome) else getattr(record, "outcome", None)
    failed: Failed | None = outcome.failed if outcome else None
    if failed:
        raise SystemExit(f"every source must be worked off, {failed.stage} failed: {failed.message}")
    return row


if __name__ == "__main__":
    main(*sys.argv[1:])
