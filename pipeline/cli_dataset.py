"""Commands of `avgen` for datasets: what bounds would cost, packing, checking."""

from typing import Annotated

import typer
from rich.text import Text

from infra.root import open_root
from infra.telemetry import print_json, print_whole
from pipeline.cli_options import (
    AsJson,
    NumCpus,
    Overrides,
    PerShard,
    Root,
    RunRecipeName,
    Seed,
    Where,
    examples,
)
from pipeline.cli_output import hint, print_dataset, print_dedup, print_selection
from pipeline.cli_services import prepare_services, start_ray

dataset_commands = typer.Typer()


@dataset_commands.command(
    name="what-if",
    epilog=examples(
        "what-if --root data",
        "what-if --root data --set filters.snr_db.min=15",
        "what-if --root data --where 'end_s - start_s >= 10' --json",
    ),
    short_help="What bounds would cost, without decoding.",
)
def what_if(
    root: Root,
    recipe: RunRecipeName = None,
    override: Overrides = None,
    where: Where = "true",
    as_json: AsJson = False,
) -> None:
    """Count what bounds would keep, lose and need: by source kind, and for each bound alone and with the others.

    Compares with the latest run. Answers from stored scores: nothing is decoded, and nothing is changed.
    """
    from pipeline.catalog import Catalog
    from pipeline.ingest import chosen_recipe
    from pipeline.what_if import read_what_if
    from pipeline.what_if_text import what_if_lines, what_if_tables, what_if_tree

    catalog = Catalog(open_root(root, create=False))
    settings = chosen_recipe(catalog, recipe, override or [])
    recipe_id = catalog.meant_recipe_id(settings.recipe_id)
    answer = read_what_if(catalog, recipe_id=recipe_id, bounds=settings.bounds, where=where)
    if as_json:
        print_json(what_if_tree(answer))
    else:
        print_whole(*what_if_tables(answer), *map(Text, what_if_lines(answer)))


@dataset_commands.command(
    epilog=examples("dedup --root data", "dedup --root data --set dedup.picture.min_similarity=0.5 --json"),
    short_help="Find clips that are copies of others.",
)
def dedup(
    root: Root, recipe: RunRecipeName = None, override: Overrides = None, as_json: AsJson = False
) -> None:
    """Compare the clips that were not compared yet with all others: files, pictures, sound, meaning.

    Groups of duplicates go to the lake (duplicates, duplicate_pairs); packing keeps one clip of each from then on,
    by the rule dedup.keep. Again after each run: only the new clips cost.
    """
    from pipeline.dedup_run import plan_dedup

    plan_dedup(root, recipe, override or [])
    prepare_services()
    from pipeline.flow import dedup as dedup_flow

    print_dedup(dedup_flow(root, recipe, override or []), as_json=as_json)


@dataset_commands.command(
    epilog=examples(
        "pack mine --root data --where 'snr_db > 15 and cuts_per_s < 1'",
        "pack mine --root data --set filters.snr_db.min=15 --dry-run",
        "pack mine --root data --set dataset.split.val=0.01",
        "pack mine --root data --set dataset.max_clips_per_channel=200",
        "pack mine --root data --set dataset.weights='{films=1, dir=3}'",
    ),
    short_help="Kept clips into WebDataset shards.",
)
def pack(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the dataset.")],
    root: Root,
    where: Where = "true",
    recipe: RunRecipeName = None,
    override: Overrides = None,
    samples_per_shard: PerShard = 1000,
    seed: Seed = 0,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Shuffle everything anew; keep no shard of the last version.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and write nothing.")] = False,
    num_cpus: NumCpus = None,
    as_json: AsJson = False,
) -> None:
    """Write the kept clips that satisfy a condition as WebDataset shards under datasets/NAME/v1, v2, ...

    Nothing is decoded. The plan is printed first: what each rule takes out, splits, mixture. Again after more
    clips came in: they go into new shards of the next version, and the old shards stay as they are. When the
    latest version is what is asked for already, it stays as it is.
    """
    from pipeline.dataset import PackOptions, plan_dataset

    options = PackOptions(
        where=where,
        samples_per_shard=samples_per_shard,
        seed=seed,
        recipe=recipe,
        overrides=tuple(override or ()),
        fresh=fresh,
    )
    selection = plan_dataset(name, root, options).selection
    print_selection(selection, as_json=as_json, is_result=dry_run)
    if dry_run:
        return
    prepare_services()
    start_ray(num_cpus)
    from pipeline.flow import build_dataset

    summary = build_dataset(name, root, options, num_cpus)
    print_dataset(summary, as_json=as_json)
    hint("avgen", "train", "--dataset", name, "--root", root, as_json=as_json)
