"""What a person or a script sees: messages and progress on stderr, results on stdout."""

import json
import logging
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

EXIT_DONE, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
"""Exit statuses: done; it ran and what it checked does not hold; wrong usage or configuration."""
EXIT_INTERRUPTED, EXIT_READER_GONE = 130, 141
"""Ended by Ctrl-C, or by a reader of stdout that closed it: 128 + SIGINT and 128 + SIGPIPE, as in a shell."""

_PLAIN_LINES = 20
"""Lines that a whole job prints where there is no terminal to draw a bar on."""
_UNLIMITED_COLUMNS = 100_000


def stderr_console() -> Console:
    """For people: messages, progress, warnings."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(tree: Any) -> None:
    """For scripts: one JSON document on stdout.

    Raises:
        ValueError: it holds a number that JSON has no text for.
    """
    sys.stdout.write(json.dumps(tree, indent=2, allow_nan=False) + "\n")


def print_whole(*results: RenderableType) -> None:
    """For people, on stdout: a wide table keeps its columns, since a pager or a file can scroll."""
    console = Console(highlight=False)
    widest = max(Console(width=_UNLIMITED_COLUMNS).measure(result).maximum for result in results)
    console.width = max(console.width, widest)
    # Rich ends the process by itself when it writes to a reader that has gone; the caller decides here.
    with console.capture() as capture:
        for result in results:
            console.print(result)
    sys.stdout.write(capture.get())


def is_reader_gone() -> bool:
    """Whether whoever was reading stdout has closed it, as `head` does."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))


def discard_stdout() -> None:
    """Send what is still to be flushed to stdout nowhere."""
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


class Advance(Protocol):
    """Called with the number of finished items, a note on how they ended, and how many are known by now."""

    def __call__(self, num_done: int, note: str, *, total: int | None = None) -> None:
        """Show progress."""


@contextmanager
def progress(title: str, *, total: int | None = None) -> Iterator[Advance]:
    """A progress bar on a terminal, a line every so many items elsewhere: a `_PLAIN_LINES`th of the known ones."""
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

            def draw(num_done: int, note: str, *, total: int | None = total) -> None:
                bar.update(task, completed=num_done, note=note, total=total)

            yield draw
        return
    last_printed = 0

    def print_line(num_done: int, note: str, *, total: int | None = total) -> None:
        nonlocal last_printed
        if num_done == total or num_done - last_printed >= max(1, (total or 0) // _PLAIN_LINES):
            last_printed = num_done
            console.print(f"{title}: {num_done}/{'?' if total is None else total} {note}")

    yield print_line


def quiet_loggers(*names: str) -> None:
    """Let third parties speak only of errors."""
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
