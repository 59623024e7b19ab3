"""Turns the error of a bad input into the record `Failed`: the only place that does."""

from collections.abc import Callable, Iterator
from typing import TypeVar

from infra.config import storable_text
from infra.errors import AvgenError, MediaError, TransientError
from pipeline.records import Failed

OutT = TypeVar("OutT")


def run_parts(stage_name: str, parts: Iterator[OutT], *, subject_id: str) -> Iterator[OutT | Failed]:
    """The parts of a stage that fans out; a bad input ends them with a `Failed`."""
    try:
        yield from parts
    except (MediaError, TransientError) as err:
        yield failure(stage_name, err, subject_id=subject_id)


def failure(
    stage_name: str, err: AvgenError, *, subject_id: str, scrub: Callable[[str], str] = storable_text
) -> Failed:
    """The record of an error.

    Args:
        scrub: takes secrets out of the message.
    """
    message = storable_text(scrub(str(err)))
    return Failed(subject_id=subject_id, stage=stage_name, code=err.code, message=message)
