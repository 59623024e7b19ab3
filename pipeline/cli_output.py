"""What the commands of `avgen` print: results on stdout, what to know or do next on stderr."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.text import Text

from infra.telemetry import print_json, print_whole, stderr_console


def warn_untrained(*weights: str) -> None:
    """Say it before the work starts when any of the weights are random."""
    if "untrained" in weights:
        stderr_console().print(
            "Embeddings come from UNTRAINED models and every row says so;"
            " set embed.clip_weights and embed.clap_weights to train on them.",
            style="yellow",
        )


def hint(*words: str, as_json: bool) -> None:
    """Say what to do next, after what was printed on stdout."""
    if not as_json:
        sys.stdout.flush()
        stderr_console().print(f"next: {shlex.join(words)}", markup=False)


def print_funnel(funnel: Any, *, pauses: Sequence[Any] = (), as_json: bool) -> None:
    """What went in and what became of it, and the hosts that are left alone."""
    from pipeline.funnel_text import funnel_tables, funnel_tree, kept_line, pause_lines

    if as_json:
        print_json(funnel_tree(funnel) | {"paused_hosts": [asdict(pause) for pause in pauses]})
    else:
        print_whole(*funnel_tables(funnel), *map(Text, pause_lines(pauses)), kept_line(funnel))


def print_selection(selection: Any, *, as_json: bool, is_result: bool) -> None:
    """What would be packed: on stdout when that is what was asked for, else on stderr, for people only."""
    from pipeline.selection_text import selection_line, selection_tables, selection_tree

    if is_result and as_json:
        print_json(selection_tree(selection))
    elif is_result:
        print_whole(*selection_tables(selection), Text(selection_line(selection)))
    elif not as_json:
        stderr_console().print(
            *selection_tables(selection), selection_line(selection), sep="\n", markup=False
        )


def print_dedup(summary: Any, *, as_json: bool) -> None:
    """What is the same as what."""
    if as_json:
        print_json(asdict(summary))
        return
    from pipeline.dedup_text import dedup_tables

    print_whole(*dedup_tables(summary))


def print_dataset(summary: Any, *, as_json: bool) -> None:
    """What a packed version holds, and where."""
    if as_json:
        print_json(asdict(summary))
        return
    verb = "packed" if summary.written else "is up to date"
    reused = f" ({summary.num_reused_shards} of earlier versions)" if summary.num_reused_shards else ""
    splits = ", ".join(f"{split.split} {split.num_samples}" for split in summary.splits)
    text = (
        f"{summary.name} v{summary.version} {verb}: {summary.num_samples} samples ({splits}) of"
        f" {summary.num_sources} sources in {summary.num_shards} shards{reused}, {summary.num_bytes:,} bytes,"
        f" {summary.duration_s:.0f} s\n{summary.folder}"
    )
    print_whole(Text(text))


def print_training(result: dict[str, Any], *, as_json: bool) -> None:
    """How far training got, and its last checkpoint."""
    if as_json:
        print_json(result)
        return
    text = (
        f"trained {result['steps']} steps, loss {result['first_loss']:.4f} -> {result['last_loss']:.4f}"
        f"\n{result['checkpoint']}"
    )
    print_whole(Text(text))
