"""The dataset's recipe as Prefect flows, top to bottom: ingest, build-dataset, train, nightly.

Prefect owns order, parameters and what people see in its UI; Ray owns execution.
"""

import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from infra.errors import ConfigError, IntegrityError
from infra.root import Root
from infra.store_lock import StoreLock, exclusive_store
from infra.telemetry import EXIT_USAGE, progress
from pipeline.catalog import Catalog
from pipeline.dataset import DatasetSummary, PackOptions, build, plan_dataset
from pipeline.dedup_run import DedupRequest, plan_dedup, run_dedup
from pipeline.find_duplicates import DedupSummary
from pipeline.funnel import Funnel, read_funnel, require_complete
from pipeline.funnel_text import funnel_markdown, funnel_rows
from pipeline.ingest import (
    IngestPlan,
    drop_partial_fetches,
    drop_sources,
    plan_ingest,
    plan_only_missing,
    plan_retry,
)
from pipeline.lake import Lake
from pipeline.make_version import DatasetRequest
from pipeline.pack_dataset import check_dataset_name
from pipeline.ray_adapter import host_gate, ingest_sources, ray_session, start_feed
from pipeline.run_record import Run, start_run
from pipeline.train_job import (
    OUT_NAME,
    TrainRequest,
    check_can_train,
    plan_training,
    train_command,
    training_result,
    training_run,
)
from pipeline.work_off import Workers, work_off

_PACK_OPTIONS = PackOptions()


@flow(name="ingest", validate_parameters=False)
def ingest(
    sources: list[str],
    root: str,
    recipe: str = "default",
    overrides: Sequence[str] = (),
    num_cpus: int | None = None,
) -> Funnel:
    """Sources -> lake and staged bundles. Running it again goes on where it stopped."""
    return _ingest(plan_ingest(sources, root, recipe, overrides), num_cpus)


@flow(name="only-missing", validate_parameters=False)
def only_missing(
    root: str, recipe: str | None, overrides: Sequence[str] = (), num_cpus: int | None = None
) -> Funnel:
    """What looser bounds admit of sources that were measured under tighter ones."""
    return _ingest(plan_only_missing(root, recipe, overrides), num_cpus)


@flow(name="retry", validate_parameters=False)
def retry(root: str, code: str, overrides: Sequence[str] = (), num_cpus: int | None = None) -> Funnel:
    """What failed with one class, once more, under the recipe of the latest ingest run."""
    return _ingest(plan_retry(root, code, overrides), num_cpus)


def _ingest(plan: IngestPlan, num_cpus: int | None) -> Funnel:
    with exclusive_store(plan.root.store) as lock, ray_session(num_cpus=num_cpus):
        run = start_run(
            plan.root,
            "ingest",
            recipe_id=plan.recipe.recipe_id,
            settings_json=plan.recipe.with_all_bounds().model_dump_json(),
            lock=lock,
        )
        with run.marked_at_its_end():
            crawl_and_curate(plan, run)
            if not plan.recipe.media.keep_sources:
                drop_sources(plan.root)
            drop_partial_fetches(plan.root, plan.recipe.recipe_id)
    return summarise(plan.root, plan.recipe.recipe_id)


@task(name="crawl-curate-embed", cache_policy=NO_CACHE)
def crawl_and_curate(plan: IngestPlan, run: Run) -> None:
    """List the sources, stream them through the Ray actors, and commit them as they finish."""
    feed = start_feed(plan.recipe.fetch, plan.root)
    stream = partial(ingest_sources, work_dir=run.work_dir)
    with progress("sources") as advance:
        work_off(plan, run, workers=Workers(feed=feed, desk=host_gate(), stream=stream), advance=advance)


@task(name="summarise", cache_policy=NO_CACHE)
def summarise(root: Root, recipe_id: str) -> Funnel:
    """Check that nothing is unaccounted for and publish the funnel."""
    funnel = read_funnel(Catalog(root), recipe_id)
    require_complete(funnel)
    create_table_artifact(key="funnel", table=funnel_rows(funnel), description=f"recipe {recipe_id}")
    create_markdown_artifact(key="funnel-text", markdown=funnel_markdown(funnel))
    return funnel


@flow(name="dedup", validate_parameters=False)
def dedup(root: str, recipe: str | None = None, overrides: Sequence[str] = ()) -> DedupSummary:
    """Clips that were not compared yet -> groups of duplicates."""
    request = plan_dedup(root, recipe, overrides)
    with exclusive_store(request.root.store) as lock:
        return compare_clips(request, lock)


@task(name="compare-clips", cache_policy=NO_CACHE)
def compare_clips(request: DedupRequest, lock: StoreLock) -> DedupSummary:
    """Compare clips with all that came before them, and write what was found."""
    return run_dedup(request, lock=lock)


@flow(name="build-dataset", validate_parameters=False)
def build_dataset(
    name: str, root: str, options: PackOptions = _PACK_OPTIONS, num_cpus: int | None = None
) -> DatasetSummary:
    """Kept clips -> `datasets/<name>/v<k>`: shards, index, manifest."""
    request = plan_dataset(name, root, options).request
    with exclusive_store(request.root.store) as lock, ray_session(num_cpus=num_cpus):
        return write_shards(request, lock)


@task(name="write-shards", cache_policy=NO_CACHE)
def write_shards(request: DatasetRequest, lock: StoreLock) -> DatasetSummary:
    """Write the shards of the next version, or find that the latest one is what was asked for."""
    return build(request, lock=lock)


@flow(name="train", validate_parameters=False)
def train(dataset: str, root: str, recipe: str = "tiny", overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Start training as its own process on a finished dataset, and wait for its result."""
    request = plan_training(dataset, root, recipe=recipe, overrides=overrides)
    with training_run(request) as run:
        return run_training(request, run.folder / OUT_NAME)


@task(name="run-training", cache_policy=NO_CACHE)
def run_training(request: TrainRequest, out_dir: Path) -> dict[str, Any]:
    """Run the training process; its progress goes to stderr, its result comes back."""
    command = [sys.executable, *train_command(request, out_dir)]
    process = subprocess.run(command, stdout=subprocess.PIPE, check=False, text=True)
    if process.returncode == EXIT_USAGE:
        raise ConfigError(f"training refused to start, see its message above (files in {out_dir})")
    if process.returncode != 0:
        raise IntegrityError(
            f"training must end with status 0, got {process.returncode}; its messages are above, its files in"
            f" {out_dir}; the same command goes on from its last checkpoint, if it got that far"
        )
    return training_result(process.stdout, out_dir)


@flow(name="nightly", validate_parameters=False)
def nightly(
    sources: list[str],
    root: str,
    dataset: str,
    recipe: str = "default",
    overrides: Sequence[str] = (),
    where: str = "true",
    samples_per_shard: int = 1000,
    seed: int = 0,
    train_recipe: str = "tiny",
    num_cpus: int | None = None,
) -> dict[str, Any]:
    """The whole line: ingest, build the dataset, train on it."""
    plan_nightly(sources, root, dataset, recipe=recipe, overrides=overrides, where=where)
    options = PackOptions(
        where=where, samples_per_shard=samples_per_shard, seed=seed, recipe=recipe, overrides=overrides
    )
    with ray_session(num_cpus=num_cpus):
        funnel = ingest(sources, root, recipe, overrides, num_cpus)
        summary = build_dataset(dataset, root, options, num_cpus)
    trained = train(f"{summary.name}@{summary.version}", root, train_recipe)
    return {"funnel": funnel, "dataset": summary, "training": trained}


def plan_nightly(
    sources: list[str], root: str, dataset: str, *, recipe: str, overrides: Sequence[str], where: str
) -> IngestPlan:
    """Check what can be known of the whole line before its first step; the lake is made if there is none.

    Raises:
        ConfigError: whatever `plan_ingest` refuses, a bad name, or a condition that does not fit the clips.
    """
    check_dataset_name(dataset)
    plan = plan_ingest(sources, root, recipe, overrides)
    check_can_train(plan.root)
    with exclusive_store(plan.root.store) as lock:
        Lake(plan.root.store, lock=lock).create()
        catalog = Catalog(plan.root)
        catalog.query(f"select clip_id from clips where ({catalog.condition(where)}) limit 0")
    return plan
