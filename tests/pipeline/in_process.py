"""The real stages one after the other in this process: the actors of the Ray adapter are plain classes."""

from collections.abc import Iterator
from pathlib import Path

from crawl.items import SourceItem
from infra.storage import exclusive
from pipeline.ingest import commit_sources, expand_sources, plan_ingest
from pipeline.pack_dataset import make_manifest, plan_shares, select_clips, write_share
from pipeline.ray_adapter import CurateActor, EmbedActor, FetchActor, gather_sources
from pipeline.recipe import Recipe
from pipeline.records import FinishedSource
from pipeline.run_record import start_run


def finished_sources(
    items: list[SourceItem], *, recipe: Recipe, root: Path, work_dir: Path
) -> Iterator[FinishedSource]:
    place = {"recipe": recipe, "root": root, "work_dir": work_dir}
    fetch, curate = FetchActor(**place), CurateActor(**place)
    embed = EmbedActor(config=recipe.embed, use_gpu=False)
    for item in items:
        parts = curate(fetch({"record": item}))
        yield from gather_sources(embed(part)["record"] for part in parts)
    curate._place.reader.close()


def ingest_in_process(spec: str, root: Path, *overrides: str) -> Recipe:
    """What `avgen run` does, without Ray and Prefect."""
    plan = plan_ingest([spec], str(root), "demo", overrides)
    recipe = plan.recipe
    with exclusive(root):
        run = start_run(root, "ingest", recipe_id=recipe.recipe_id, settings_json=recipe.model_dump_json())
        items = expand_sources(plan, run)
        finished = finished_sources(items, recipe=recipe, root=root, work_dir=run.work_dir)
        commit_sources(items, finished, run, recipe, lambda num_done, note: None)
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
