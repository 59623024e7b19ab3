"""The real stages in this process: what Ray runs as actors are plain classes, feed and gate plain objects."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from crawl.politeness import LocalDesk
from infra.storage import exclusive
from pipeline.actors import RECORD, CurateActor, EmbedActor, FetchActor, FetchPlace, gather_sources
from pipeline.feed import Feed
from pipeline.ingest import IngestPlan, drop_partial_fetches, plan_ingest
from pipeline.pack_dataset import make_manifest, plan_shares, select_clips, write_share
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
    curate = CurateActor(recipe=recipe, root=place.root, work_dir=work_dir)
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


def ingest_in_process(spec: str, root: Path, *overrides: str) -> Recipe:
    """What `avgen run` does, without Ray and Prefect."""
    plan = plan_ingest([spec], str(root), "demo", overrides)
    recipe = plan.recipe
    with exclusive(root):
        run = start_run(root, "ingest", recipe_id=recipe.recipe_id, settings_json=recipe.model_dump_json())
        run_plan(plan, run)
        run.mark("done")
    return recipe


def pack_in_process(
    catalog, root: Path, dataset_dir: Path, *, recipe_id: str, seed: int = 0, samples_per_shard: int = 2
):
    """What `avgen pack` does to the disk, without Ray and Prefect; the manifest."""
    selection = select_clips(catalog, recipe_id=recipe_id, where="true")
    shares = plan_shares(
        selection, root=root, dataset_dir=dataset_dir, seed=seed, samples_per_shard=samples_per_shard
    )
    records = [write_share(share) for share in shares]
    return make_manifest(
        selection, records, name="d", version=1, seed=seed, samples_per_shard=samples_per_shard
    )
