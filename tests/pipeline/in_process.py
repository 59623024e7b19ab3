"""The real stages in this process: what Ray runs as actors are plain classes, feed and gate plain objects."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from crawl.politeness import LocalDesk
from infra.store_lock import exclusive_store
from pipeline.actors import RECORD, CurateActor, EmbedActor, FetchActor, FetchPlace, gather_sources
from pipeline.dataset import DatasetSummary, PackOptions, build, plan_dataset
from pipeline.feed import Feed
from pipeline.ingest import IngestPlan, drop_partial_fetches, plan_ingest
from pipeline.pack_dataset import write_shard
from pipeline.recipe import Recipe
from pipeline.records import FinishedSource
from pipeline.run_record import Run, start_run
from pipeline.work_off import Workers, work_off


def finished_sources(
    place: FetchPlace, num_sources: int | None, *, feed: Feed, work_dir: Path
) -> Iterator[FinishedSource]:
    """What `ingest_sources` does with Ray, one job at a time."""
    recipe = place.recipe
    fetch = FetchActor(place)
    curate = CurateActor(recipe=recipe, root=place.root, work_dir=work_dir, earlier=place.earlier)
    embed = EmbedActor(config=recipe.embed, use_gpu=False)
    while (jobs := feed.take(1, wait_s=1.0)) is not None:
        for job in jobs:
            for row in fetch({RECORD: job}):
                yield from gather_sources(embed(part)[RECORD] for part in curate(row))
    fetch.close()
    curate.close()


def run_plan(plan: IngestPlan, run: Run) -> None:
    """List and work off a plan."""
    feed = Feed(plan.recipe.fetch, plan.root)
    stream = partial(finished_sources, feed=feed, work_dir=run.work_dir)
    workers = Workers(feed=feed, desk=LocalDesk(time.time), stream=stream)
    work_off(plan, run, workers=workers, advance=lambda num_done, note, total=None: None)
    drop_partial_fetches(plan.root, plan.recipe.recipe_id)


def ingest_in_process(spec: str, root: Path | str, *overrides: str) -> Recipe:
    """What `avgen run` does, without Ray and Prefect."""
    return run_in_process(plan_ingest([spec], str(root), "demo", overrides))


def run_in_process(plan: IngestPlan) -> Recipe:
    """Work off a plan as a run of its own."""
    root, recipe = plan.root, plan.recipe
    with exclusive_store(root.store) as lock:
        run = start_run(
            root,
            "ingest",
            recipe_id=recipe.recipe_id,
            settings_json=recipe.with_all_bounds().model_dump_json(),
            lock=lock,
        )
        run_plan(plan, run)
        run.mark("done")
    return recipe


def pack_in_process(name: str, root: Path | str, options: PackOptions) -> DatasetSummary:
    """What `avgen pack` does, without Ray and Prefect."""
    request = plan_dataset(name, str(root), options).request
    with exclusive_store(request.root.store) as lock:
        return build(request, write_shards=lambda tasks: map(write_shard, tasks), lock=lock)
