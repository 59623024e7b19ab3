"""The `avgen` command line: the one place that may import every folder, and only inside a command.

Results go to stdout, messages and progress to stderr. Exit status: 0 done, 1 it ran and what it checked does
not hold, 2 wrong usage or configuration; 130 ended by Ctrl-C, 141 by a reader that closed stdout.
"""

import os
import shlex
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from typer.core import TyperGroup
from typer.exceptions import TyperException

from infra.errors import AvgenError, ConfigError
from infra.telemetry import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_READER_GONE,
    EXIT_USAGE,
    discard_stdout,
    is_reader_gone,
    stderr_console,
)
from pipeline.cli_care import care_commands
from pipeline.cli_dataset import dataset_commands
from pipeline.cli_lake import lake_commands
from pipeline.cli_options import (
    AllowPrivate,
    AsJson,
    DemoRoot,
    IngestOverrides,
    NumCpus,
    OnlyMissing,
    Overrides,
    PerShard,
    RecipeName,
    RequiredSources,
    RetryOverrides,
    Root,
    RunRecipeName,
    Seed,
    Sources,
    TrainOverrides,
    TrainRecipeName,
    Where,
    examples,
)
from pipeline.cli_output import hint, print_dataset, print_funnel, print_training, warn_untrained
from pipeline.cli_services import prepare_services, start_ray

app = typer.Typer(
    name="avgen",
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)

_READ_ONLY = {"sql", "status"}
_DEMO_DIR = Path("demo")


def _print_version(asked: bool) -> None:
    if asked:
        print(f"avgen {version('avgen')}")
        raise typer.Exit(EXIT_DONE)


@app.callback(
    invoke_without_command=True,
    epilog="""\b
First steps:
  avgen demo                                   see the whole line work
  avgen run --source dir:videos --root data    then your own videos
  avgen COMMAND --help                         options and examples""",
)
def avgen(
    context: typer.Context,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """From a video URL to a trained audio-video model: crawl, filter, transcode, pack, train."""
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command(
    epilog=examples("demo --num-cpus 4"),
    short_help="Try the whole line on made-up media.",
)
def demo(
    folder: DemoRoot = _DEMO_DIR,
    num_cpus: NumCpus = None,
) -> None:
    """Try the whole line on a small site that the demo serves itself, and check it against the known answers.

    Crawls, filters, transcodes, packs and trains a small model; needs no network.
    """
    prepare_services()
    start_ray(num_cpus)
    from pipeline.demo.run import run_demo

    raise typer.Exit(run_demo(folder, num_cpus=num_cpus))


@app.command(
    epilog=examples(
        "run --source dir:videos --root data",
        "run --source list:urls.csv --root data --set filters.snr_db.min=12",
        "run --only-missing --root data --set filters.snr_db.min=8",
    ),
    short_help="Ingest: sources into the lake.",
)
def run(
    root: Root,
    source: Sources = None,
    recipe: RunRecipeName = None,
    override: Overrides = None,
    only_missing: OnlyMissing = False,
    allow_private: AllowPrivate = False,
    num_cpus: NumCpus = None,
    as_json: AsJson = False,
) -> None:
    """Ingest: fetch sources, measure and filter their clips, and transcode the kept ones.

    Every clip with all its scores goes to the lake, kept or not. The same command again goes on where it stopped.
    Moving a bound (--set filters...) makes no work for what is measured: what is kept follows from the scores.
    Clips that only a looser bound admits are encoded with --only-missing.
    """
    from pipeline.ingest import plan_ingest, plan_only_missing

    overrides = [*(override or []), *(["fetch.allow_private=true"] if allow_private else [])]
    if only_missing and source:
        raise ConfigError("--only-missing must stand without --source: it is for the sources of the root")
    if only_missing:
        plan = plan_only_missing(root, recipe, overrides)
    else:
        plan = plan_ingest(source or [], root, recipe or "default", overrides)
    warn_untrained(plan.recipe.embed.clip_weights, plan.recipe.embed.clap_weights)
    prepare_services()
    start_ray(num_cpus)
    from pipeline import flow

    if only_missing:
        funnel = flow.only_missing(root, recipe, overrides, num_cpus)
    else:
        funnel = flow.ingest(source or [], root, recipe or "default", overrides, num_cpus)
    print_funnel(funnel, as_json=as_json)
    words = ("pack", "NAME") if funnel.kept_clips else ("sql", "from outcomes")
    hint("avgen", *words, "--root", root, as_json=as_json)


@app.command(
    epilog=examples(
        "retry --root data --class network",
        "retry --root data --class private --set fetch.cookies_path=c.txt",
    ),
    short_help="Try once more what failed in one way.",
)
def retry(
    root: Root,
    code: Annotated[
        str,
        typer.Option(
            "--class",
            metavar="CODE",
            help="How they failed, as the funnel (avgen status) names it: network, bot_check, private, ...",
        ),
    ],
    override: RetryOverrides = None,
    num_cpus: NumCpus = None,
    as_json: AsJson = False,
) -> None:
    """Fetch once more, now, what failed with one class, also when the failure was final.

    Uses the settings of the latest run; --set changes those of fetch (cookies, proxies, limits).
    """
    from pipeline.ingest import plan_retry

    plan_retry(root, code, override or [])
    prepare_services()
    start_ray(num_cpus)
    from pipeline.flow import retry as retry_flow

    print_funnel(retry_flow(root, code, override or [], num_cpus), as_json=as_json)


@app.command(
    epilog=examples("train --dataset mine@1 --root data --set num_steps=1000"),
    short_help="Train on a finished dataset.",
)
def train(
    root: Root,
    dataset: Annotated[
        str, typer.Option("--dataset", metavar="NAME[@V]", help="NAME for its latest version, or NAME@2.")
    ],
    recipe: RecipeName = "tiny",
    override: TrainOverrides = None,
    as_json: AsJson = False,
) -> None:
    """Train on a finished dataset, in a process of its own, on all GPUs or else on two CPU ranks.

    The same command again goes on from the last checkpoint of a training that was cut short.
    """
    from pipeline.train_job import plan_training

    plan_training(dataset, root, recipe=recipe, overrides=override or [])
    from train.config import load_train_config  # Imports torch.

    load_train_config(recipe, overrides=override or [])
    prepare_services()
    from pipeline.flow import train as train_flow

    print_training(train_flow(dataset, root, recipe, override or []), as_json=as_json)


@app.command(
    epilog=examples("nightly --source list:urls.csv --root data --dataset mine"),
    short_help="run, pack and train in one flow.",
)
def nightly(
    source: RequiredSources,
    root: Root,
    dataset: Annotated[
        str, typer.Option("--dataset", metavar="NAME", help="Name of the dataset to build and train on.")
    ],
    recipe: RecipeName = "default",
    override: IngestOverrides = None,
    where: Where = "true",
    samples_per_shard: PerShard = 1000,
    seed: Seed = 0,
    train_recipe: TrainRecipeName = "tiny",
    num_cpus: NumCpus = None,
) -> None:
    """The whole line in one flow: run, then pack, then train. The same command again goes on where it stopped."""
    from train.config import load_train_config

    load_train_config(train_recipe, overrides=[])
    prepare_services()
    from pipeline.flow import nightly as nightly_flow
    from pipeline.flow import plan_nightly

    plan = plan_nightly(source, root, dataset, recipe=recipe, overrides=override or [], where=where)
    warn_untrained(plan.recipe.embed.clip_weights, plan.recipe.embed.clap_weights)
    start_ray(num_cpus)
    pack_options = (where, samples_per_shard, seed)
    result = nightly_flow(
        source, root, dataset, recipe, override or [], *pack_options, train_recipe, num_cpus
    )
    print_funnel(result["funnel"], as_json=False)
    print_dataset(result["dataset"], as_json=False)
    print_training(result["training"], as_json=False)


app.add_typer(dataset_commands)
app.add_typer(care_commands)
app.add_typer(lake_commands)


def main() -> None:
    """Entry point of the console script."""
    signal.signal(signal.SIGINT, _end_at_once)
    raise SystemExit(exit_status(sys.argv[1:]))


def _end_at_once(*_: Any) -> None:
    """What Ctrl-C does. A kill loses nothing; unwinding Ray and Prefect takes a minute and prints pages."""
    goes_on = "" if _READ_ONLY & set(sys.argv[1:2]) else "; the same command goes on where it stopped"
    console = stderr_console()
    if console.is_terminal:
        console.show_cursor()  # A progress bar hides it,
        console.print()  # and stays on its line.
    _say_wrong(f"interrupted{goes_on}", EXIT_INTERRUPTED)
    os._exit(EXIT_INTERRUPTED)


def exit_status(arguments: Sequence[str]) -> int:
    """Run a command line. What goes wrong on purpose is one line on stderr and the exit status that fits."""
    group = typer.main.get_group(app)
    try:
        status = _invoke(group, arguments)
        sys.stdout.flush()
    except AvgenError as err:
        return _say_wrong(str(err), EXIT_USAGE if isinstance(err, ConfigError) else EXIT_FAILED)
    except TyperException as err:
        words = [word for word in arguments[:1] if word in group.commands]
        return _say_wrong(f"{_usage_message(err)}; see {shlex.join(['avgen', *words])} --help", EXIT_USAGE)
    except BrokenPipeError:
        if not is_reader_gone():
            raise
        discard_stdout()
        return EXIT_READER_GONE
    return status


def _invoke(group: TyperGroup, arguments: Sequence[str]) -> int:
    try:
        with group.make_context("avgen", list(arguments)) as context:
            group.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    return EXIT_DONE


def _say_wrong(message: str, status: int) -> int:
    stderr_console().print(f"avgen: {message}", style="red", markup=False)
    return status


def _usage_message(err: TyperException) -> str:
    """What must hold of the arguments, and what was found, in one line."""
    message = " ".join(err.format_message().split()).rstrip(".")
    if isinstance(err.__cause__, ValidationError) and "Input should" in message:
        message = f"{message.replace('Input should', 'must')}, got {err.__cause__.errors()[0]['input']}"
    return message[:1].lower() + message[1:].replace("Value error, ", "")


if __name__ == "__main__":
    main()
