"""An error of a bad input becomes a record; a bug does not."""

import pytest

from infra.errors import Gone, NetworkFailure
from pipeline.records import Failed
from pipeline.runner import failure, run_parts


@pytest.mark.parametrize("error", [Gone("late"), NetworkFailure("late")])
def test_run_parts_failure_ends_what_came_before(error):
    def parts():
        yield 1
        raise error

    expected = Failed(subject_id="s", stage="curate", code=error.code, message="late")
    assert list(run_parts("curate", parts(), subject_id="s")) == [1, expected]


def test_run_parts_bug_propagates():
    def parts():
        yield {}["x"]

    with pytest.raises(KeyError):
        list(run_parts("curate", parts(), subject_id="s"))


def test_failure_message_is_storable_and_scrubbed():
    failed = failure(
        "fetch", Gone("no \udcff for pw"), subject_id="s", scrub=lambda text: text.replace("pw", "***")
    )
    assert failed.message == "no \\udcff for ***"
