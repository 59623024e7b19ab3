"""The `avgen` command line: the one place that may import every folder, and only inside a command.

Results go to stdout, messages and progress to stderr. Exit status: 0 done, 1 it ran and what it checked does
not hold, 2 wrong usage or configuration.
"""

import csv
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from infra.errors import AvgenError, ConfigError
from infra.telemetry import EXIT_FAILED, EXIT_USAGE, print_json, stderr_console

app = typer.Typer(
    name="avgen",
    help="From a video URL to a trained audio-video model: crawl, filter, transcode, pack, train.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

Root = Annotated[str, typer.Option("--root", help="Folder that everything lives under.")]
Sources = Annotated[
    list[str],
    typer.Option(
        "--source",
        help="`dir:PATH`, an http(s) URL of a video, page, playlist or feed, or `list:FILE` (txt, csv, parquet"
        " with url[,start_s,end_s]). May be given several times.",
    ),
]
RecipeName = Annotated[str, typer.Option("--recipe", help="A recipe file, or the name of a built-in one.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a setting, e.g. `filters.snr_db.min=12`. May be repeated."),
]
NumCpus = Annotated[
    int | None, typer.Option("--num-cpus", min=1, help="Cores of the local Ray; all when not given.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Where = Annotated[str, typer.Option("--where", help="SQL condition over the columns of `clips`.")]
PerShard = Annotated[int, typer.Option("--samples-per-shard", help="Samples in every shard but the last.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the shuffle across sources.")]


_UNLIMITED_COLUMNS = 100_000


class SqlFormat(StrEnum):
    """How `avgen sql` prints."""

    table = "table"
    csv = "csv"
    json = "json"


@app.command()
def run(
    source: Sources,
    root: Root,
    recipe: RecipeName = "default",
    override: Overrides = None,
    num_cpus: NumCpus = None,
    as_json: AsJson = False,
) -> None:
    """Ingest: sources -> lake and staged bundles. The same command again goes on where it stopped."""
    from pipeline.ingest import plan_ingest

    plan = plan_ingest(source, root, recipe, override or [])
    _warn_untrained(plan.recipe.embed.clip_weights, plan.recipe.embed.clap_weights)
    _prepare_services()
    from pipeline.flow import ingest

    _print_funnel(ingest(source, root, recipe, override or [], num_cpus), as_json=as_json)


@app.command()
def pack(
    name: Annotated[str, typer.Argument(help="Name of the dataset.")],
    root: Root,
    where: Where = "true",
    samples_per_shard: PerShard = 1000,
    seed: Seed = 0,
    num_cpus: NumCpus = None,
    as_json: AsJson = False,
) -> None:
    """Select kept clips and write them as WebDataset shards under datasets/NAME/v<k>."""
    from pipeline.dataset import plan_dataset

    plan_dataset(name, root, where=where, samples_per_shard=samples_per_shard, seed=seed)
    _prepare_services()
    from pipeline.flow import build_dataset

    summary = build_dataset(name, root, where, samples_per_shard, seed, num_cpus)
    _print_dataset(summary, as_json=as_json)


@app.command()
def train(
    root: Root,
    dataset: Annotated[str, typer.Option("--dataset", help="NAME for the latest version, or NAME@2.")],
    recipe: RecipeName = "tiny",
    override: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Train on a finished dataset, in its own process under DeepSpeed, on GPUs or else on 2 CPU ranks."""
    from pipeline.train_job import plan_training

    plan_training(dataset, root, recipe=recipe, overrides=override or [])
    _prepare_services()
    from pipeline.flow import train as train_flow

    _print_training(train_flow(dataset, root, recipe, override or []), as_json=as_json)


@app.command()
def nightly(
    source: Sources,
    root: Root,
    dataset: Annotated[str, typer.Option("--dataset", help="Name of the dataset to build and train on.")],
    recipe: RecipeName = "default",
    override: Overrides = None,
    where: Where = "true",
    samples_per_shard: PerShard = 1000,
    seed: Seed = 0,
    train_recipe: Annotated[str, typer.Option("--train-recipe", help="Recipe of the training run.")] = "tiny",
    num_cpus: NumCpus = None,
) -> None:
    """The whole line in one flow: ingest, build the dataset, train on it."""
    from pipeline.ingest import plan_ingest
    from pipeline.pack_dataset import check_dataset_name

    check_dataset_name(dataset)
    plan = plan_ingest(source, root, recipe, override or [])
    _warn_untrained(plan.recipe.embed.clip_weights, plan.recipe.embed.clap_weights)
    _prepare_services()
    from pipeline.flow import nightly as nightly_flow

    result = nightly_flow(
        source,
        root,
        dataset,
        recipe,
        override or [],
        where,
        samples_per_shard,
        seed,
        train_recipe,
        num_cpus,
    )
    _print_funnel(result["funnel"], as_json=False)
    _print_dataset(result["dataset"], as_json=False)
    _print_training(result["training"], as_json=False)


@app.command()
def status(root: Root, as_json: AsJson = False) -> None:
    """The funnel of the latest recipe: what went in, and what became of it."""
    from infra.storage import open_root
    from pipeline.catalog import Catalog

    catalog = Catalog(open_root(root, create=False))
    _print_funnel(catalog.funnel(catalog.latest_recipe_id()), as_json=as_json)


@app.command()
def sql(
    query: Annotated[str, typer.Argument(help="DuckDB SQL; there is a view of every lake table.")],
    root: Root,
    format_: Annotated[SqlFormat, typer.Option("--format", help="How to print.")] = SqlFormat.table,
) -> None:
    """Query the lake: sources, fetches, clips, embeddings, failures, outcomes, datasets, samples, shards, runs."""
    from infra.storage import open_root
    from pipeline.catalog import Catalog

    result = Catalog(open_root(root, create=False)).query(query)
    rows = result.to_pylist()
    if format_ is SqlFormat.json:
        print_json(rows)
    elif format_ is SqlFormat.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(result.column_names)
        writer.writerows(list(row.values()) for row in rows)
    else:
        _print_rows(result.column_names, rows)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--root", help="Folder of the demo's data.")] = Path("demo"),
    num_cpus: NumCpus = None,
) -> None:
    """The whole line on a small site that the demo serves itself, checked against its known answers."""
    _prepare_services()
    from pipeline.demo.run import run_demo

    raise typer.Exit(run_demo(folder, num_cpus=num_cpus))


def main() -> None:
    """Entry point of the console script."""
    raise SystemExit(_exit_status(lambda: app(standalone_mode=True)))


def _exit_status(command: Callable[[], Any]) -> int:
    """Run a command; one of our errors becomes one line and the exit status that fits."""
    try:
        command()
    except ConfigError as err:
        stderr_console().print(f"avgen: {err}", style="red", markup=False)
        return EXIT_USAGE
    except AvgenError as err:
        stderr_console().print(f"avgen: {err}", style="red", markup=False)
        return EXIT_FAILED
    return 0


def _prepare_services() -> None:
    """Settings of Prefect and Ray that suit a command line; what the user has set stays."""
    defaults = {
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "RAY_BACKEND_LOG_LEVEL": "fatal",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def _warn_untrained(*weights: str) -> None:
    if "untrained" in weights:
        stderr_console().print(
            "Embeddings come from UNTRAINED models and every row says so;"
            " set embed.clip_weights and embed.clap_weights to train on them.",
            style="yellow",
        )


def _print_funnel(funnel: Any, *, as_json: bool) -> None:
    from pipeline.funnel_text import funnel_tables, funnel_tree, kept_line

    if as_json:
        print_json(funnel_tree(funnel))
        return
    from rich.console import Console

    console = Console(highlight=False)
    for table in funnel_tables(funnel):
        console.print(table)
    console.print(kept_line(funnel))


def _print_dataset(summary: Any, *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(summary))
        return
    verb = "packed" if summary.written else "is up to date"
    print(
        f"{summary.name} v{summary.version} {verb}: {summary.num_samples} samples of {summary.num_sources}"
        f" sources in {summary.num_shards} shards, {summary.num_bytes:,} bytes, {summary.duration_s:.0f} s"
        f"\n{summary.folder}"
    )


def _print_training(result: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    print(
        f"trained {result['steps']} steps, loss {result['first_loss']:.4f} -> {result['last_loss']:.4f}"
        f"\n{result['checkpoint']}"
    )


def _print_rows(columns: list[str], rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns)
    for row in rows:
        table.add_row(*(Text("" if value is None else str(value)) for value in row.values()))
    # A wide result keeps its columns: a pager or a file can scroll, a squeezed value is lost.
    unlimited = Console(width=_UNLIMITED_COLUMNS)
    Console(highlight=False, width=unlimited.measure(table).maximum).print(table)


if __name__ == "__main__":
    main()
