"""Commands of `avgen` that look after what is there: check, repair, forget, remove what nothing names."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer
from rich.text import Text

from infra.telemetry import EXIT_FAILED, print_json, print_whole, stderr_console
from pipeline.cli_options import AsJson, Root, examples

care_commands = typer.Typer()

_DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would change, and change nothing.")]
_Version = Annotated[str, typer.Argument(metavar="NAME[@V]", help="NAME for its latest version, or NAME@2.")]


def _named(flag: str, what: str) -> typer.models.OptionInfo:
    return typer.Option(flag, metavar="VALUE", help=f"{what} May be repeated.")


@care_commands.command(
    epilog=examples("verify mine --root data", "verify mine@1 --root data --every 1 --json"),
    short_help="Check every byte of a dataset.",
)
def verify(
    dataset: _Version,
    root: Root,
    every: Annotated[
        int, typer.Option("--every", metavar="N", min=1, help="Decode every N-th sample of a shard.")
    ] = 100,
    as_json: AsJson = False,
) -> None:
    """Check a dataset: every byte against the manifest, that webdataset reads the same from it, that samples
    decode, and that the lake says the same.

    Prints a line for each thing that does not hold, and ends with status 1 then.
    """
    from pipeline.lifecycle_text import verify_lines, verify_tree
    from pipeline.verify_dataset import plan_verify, verify_dataset

    report = verify_dataset(plan_verify(dataset, root, every=every))
    if as_json:
        print_json(verify_tree(report))
    else:
        _print_lines(verify_lines(report))
    if report.problems:
        raise typer.Exit(EXIT_FAILED)


@care_commands.command(
    epilog=examples("repair mine --root data", "repair mine@1 --root data --dry-run"),
    short_help="Make broken shards again from bundles.",
)
def repair(dataset: _Version, root: Root, dry_run: _DryRun = False, as_json: AsJson = False) -> None:
    """Make broken shards of a dataset again, byte for byte, from the staged bundles; also index, lists and card.

    Sound shards are not touched. When a bundle is gone nothing takes its place: the message says what to do.
    """
    from pipeline.lifecycle_text import repair_lines
    from pipeline.repair_dataset import plan_repair
    from pipeline.repair_dataset import repair as make_again

    plan = plan_repair(dataset, root)
    found = plan if dry_run else make_again(plan)
    if as_json:
        print_json(
            {"shards": found.shards, "files": found.files, "num_bytes": found.num_bytes, "done": not dry_run}
        )
    else:
        _print_lines(repair_lines(found, done=not dry_run))


@care_commands.command(
    epilog=examples(
        "forget --root data --url https://a.org/v",
        "forget --root data --channel UCxyz --dry-run",
        "forget --root data --clip-id 7f3a...-00000000-00010000",
    ),
    short_help="Take something down, everywhere.",
)
def forget(
    root: Root,
    url: Annotated[list[str] | None, _named("--url", "An address, and every address of its video.")] = None,
    source_id: Annotated[list[str] | None, _named("--source-id", "A source.")] = None,
    channel: Annotated[list[str] | None, _named("--channel", "All of a channel or uploader.")] = None,
    clip_id: Annotated[list[str] | None, _named("--clip-id", "One clip of a source.")] = None,
    dry_run: _DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Remove what is named from media, bundles, lake, shards and indices, down to the last byte, and never fetch
    it again.

    What stays is a hash on the blocklist and a row without content in the table forgotten. All versions of all
    datasets are written anew without its samples. The same command again finishes what a kill interrupted.
    """
    from pipeline.forget import forget as take_down
    from pipeline.forget import plan_forget
    from pipeline.lifecycle_text import forget_lines

    plan = plan_forget(
        root, urls=url or [], source_ids=source_id or [], channels=channel or [], clip_ids=clip_id or []
    )
    summary = plan.summary if dry_run else take_down(plan)
    if as_json:
        print_json(asdict(summary) | {"done": not dry_run})
    else:
        _print_lines(forget_lines(summary, done=not dry_run))


@care_commands.command(
    epilog=examples("gc --root data", "gc --root data --versions-keep 2 --yes"),
    short_help="Remove what nothing names.",
)
def gc(
    root: Root,
    versions_keep: Annotated[
        int | None,
        typer.Option(
            "--versions-keep", metavar="K", help="Also remove all but the last K versions of a dataset."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; otherwise it is only listed.")] = False,
    as_json: AsJson = False,
) -> None:
    """List bundles, media, downloads, shards and temporary files that nothing names; --yes removes them."""
    from pipeline.collect_garbage import collect_garbage, plan_gc
    from pipeline.lifecycle_text import gc_lines, gc_tree

    plan = plan_gc(root, versions_keep=versions_keep)
    if yes:
        plan = collect_garbage(plan)
    if as_json:
        print_json(gc_tree(plan) | {"done": yes})
        return
    _print_lines(gc_lines(plan, done=yes))
    if plan.orphans and not yes:
        stderr_console().print("nothing was removed; --yes removes it", markup=False)


def _print_lines(lines: Sequence[str]) -> None:
    print_whole(*map(Text, lines))
