"""What a person or a script sees: messages and progress on stderr, results on stdout."""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

EXIT_DONE, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
"""Exit statuses: done; it ran and what it checked does not hold; wrong usage or configuration."""

_PLAIN_LINES = 20
"""Lines that a whole job prints where there is no terminal to draw a bar on."""


def stderr_console() -> Console:
    """For people: messages, progress, warnings."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(tree: Any) -> None:
    """For scripts: one JSON document on stdout."""
    sys.stdout.write(json.dumps(tree, indent=2, default=str) + "\n")


class Advance(Protocol):
    """Called with the number of finished items and a note on how they ended."""

    def __call__(self, num_done: int, note: str) -> None:
        """Show progress."""


@contextmanager
def progress(title: str, *, total: int) -> Iterator[Advance]:
    """A progress bar on a terminal, at most `_PLAIN_LINES` plain lines elsewhere."""
    console = stderr_console()
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(title, total=total, note="")

            def draw(num_done: int, note: str) -> None:
                bar.update(task, completed=num_done, note=note)

            yield draw
        return
    step = max(1, total // _PLAIN_LINES)
    last_printed = 0

    def print_line(num_done: int, note: str) -> None:
        nonlocal last_printed
        if num_done == total or num_done - last_printed >= step:
            last_printed = num_done
            console.print(f"{title}: {num_done}/{total} {note}")

    yield print_line


def quiet_loggers(*names: str) -> None:
    """Let third parties speak only of errors."""
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
