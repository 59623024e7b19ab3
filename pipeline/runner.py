"""Runs one stage on one record: the only place where a bad input becomes a `Failed`."""

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from infra.config import storable_text
from infra.errors import AvgenError, MediaError, TransientError
from pipeline.records import Failed

OutT = TypeVar("OutT")

ATTEMPTS = 3
FIRST_BACKOFF_S = 1.0


def run_one(stage_name: str, stage: Callable[[], OutT], *, subject_id: str) -> OutT | Failed:
    """The stage's result, or `Failed` when the input is bad or the world stays unwilling.

    A `TransientError` is tried again `ATTEMPTS - 1` times with doubling pauses. Anything that is not one of
    our errors is a bug and propagates.
    """
    for attempt in range(ATTEMPTS):
        try:
            return stage()
        except MediaError as err:
            return failure(stage_name, err, subject_id=subject_id)
        except TransientError as err:
            if attempt == ATTEMPTS - 1:
                return failure(stage_name, err, subject_id=subject_id)
            time.sleep(FIRST_BACKOFF_S * 2**attempt)
    raise AssertionError("the last attempt returns")


def run_parts(stage_name: str, parts: Iterator[OutT], *, subject_id: str) -> Iterator[OutT | Failed]:
    """The parts of a stage that fans out; a bad input ends them with a `Failed`."""
    try:
        yield from parts
    except (MediaError, TransientError) as err:
        yield failure(stage_name, err, subject_id=subject_id)


def failure(stage_name: str, err: AvgenError, *, subject_id: str) -> Failed:
    """The record of an error."""
    return Failed(subject_id=subject_id, stage=stage_name, code=err.code, message=storable_text(str(err)))
