import pytest

from infra.errors import Gone, NetworkFailure
from pipeline import runner
from pipeline.records import Failed
from pipeline.runner import run_one, run_parts


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    monkeypatch.setattr(runner, "FIRST_BACKOFF_S", 0.0)


def test_run_one_bad_input_becomes_failed_at_once():
    calls = []

    def stage():
        calls.append(1)
        raise Gone("there is nothing (x)")

    expected = Failed(subject_id="s", stage="fetch", code="gone", message="there is nothing (x)")
    assert run_one("fetch", stage, subject_id="s") == expected
    assert len(calls) == 1


def test_run_one_transient_error_is_tried_again():
    answers = [NetworkFailure("reset"), NetworkFailure("reset"), None]

    def stage():
        answer = answers.pop(0)
        if answer:
            raise answer
        return "media"

    assert run_one("fetch", stage, subject_id="s") == "media"


def test_run_one_transient_error_that_stays_becomes_failed():
    calls = []

    def stage():
        calls.append(1)
        raise NetworkFailure("reset")

    result = run_one("fetch", stage, subject_id="s")
    assert (result.code, len(calls)) == ("network", runner.ATTEMPTS)


def test_run_one_bug_propagates():
    with pytest.raises(KeyError):
        run_one("fetch", lambda: {}["x"], subject_id="s")


def test_run_parts_failure_ends_what_came_before():
    def parts():
        yield 1
        raise Gone("late")

    first, second = run_parts("curate", parts(), subject_id="s")
    assert first == 1
    assert (second.stage, second.code) == ("curate", "gone")
