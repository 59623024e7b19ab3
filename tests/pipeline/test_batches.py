"""Batches are full or old, and lose nothing."""

import threading

import pytest

from infra.errors import IntegrityError
from pipeline.batches import batches


def test_batches_are_full_or_last_and_lose_nothing():
    found = list(batches(iter(range(8)), max_things=3, max_age_s=60))
    assert [thing for batch in found for thing in batch] == list(range(8))
    assert [len(batch) for batch in found] == [3, 3, 2]


def test_batches_thing_that_is_ready_does_not_wait_for_one_that_takes_long():
    go_on = threading.Event()

    def things():
        yield 0
        assert go_on.wait(60)
        yield 1

    found = batches(things(), max_things=64, max_age_s=0.05)
    assert next(found) == [0]
    go_on.set()
    assert list(found) == [[1]]


def test_batches_error_is_raised_after_what_came_before():
    def things():
        yield 0
        raise IntegrityError("bytes are wrong")

    found = batches(things(), max_things=64, max_age_s=60)
    assert next(found) == [0]
    with pytest.raises(IntegrityError, match="bytes are wrong"):
        next(found)


def test_batches_that_nobody_wants_any_more_end_their_thread():
    ended = threading.Event()

    def things():
        try:
            yield from range(10**9)
        finally:
            ended.set()

    found = batches(things(), max_things=2, max_age_s=60)
    assert next(found) == [0, 1]
    found.close()
    assert ended.wait(60)
