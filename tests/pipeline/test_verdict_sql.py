import math

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters.registry import Bounds
from pipeline.verdict_sql import admitted_range, admitted_sql, bounded, broken_sql

numbers = st.floats(allow_nan=False, allow_infinity=False, width=64)
ends = st.one_of(numbers, st.sampled_from([0.0, 1.0, 10.0]))


@st.composite
def any_bounds(draw):
    low, high = sorted([draw(st.one_of(ends, st.just(-math.inf))), draw(st.one_of(ends, st.just(math.inf)))])
    return Bounds(min=low, max=high, strict=draw(st.booleans()))


def asked(expression: str, score: float) -> bool:
    ((value,),) = duckdb.execute(f"select {expression} from (select ?::double as x)", [score]).fetchall()
    return value


@settings(deadline=None)
@given(any_bounds(), st.one_of(ends, st.just(None)), st.data())
def test_sql_says_what_bounds_say(bounds, score, data):
    if score is None:
        score = data.draw(st.sampled_from([bounds.min, bounds.max]))
        if not math.isfinite(score):
            score = 0.0
    assert asked(broken_sql("x", bounds), score) == (not bounds.admits(score))
    lowest, highest = admitted_range(bounds)
    assert (lowest <= score <= highest) == bounds.admits(score)


@pytest.mark.parametrize(
    ("x", "faults", "admitted"),
    [("1.0", "null", True), ("3.0", "null", False), ("null", "null", True), ("1.0", "['too_short']", False)],
)
def test_admitted_needs_no_fault_and_no_score_outside(x, faults, admitted):
    expression = admitted_sql({"x": Bounds(max=2.0), "free": Bounds()})
    sql = f"select {expression} from (select {x}::double as x, null::double as free, {faults} as faults)"
    assert duckdb.sql(sql).fetchall() == [(admitted,)]


def test_bounded_are_the_filters_that_can_reject():
    assert bounded({"a": Bounds(), "b": Bounds(min=0), "c": Bounds(max=1)}) == ["b", "c"]
