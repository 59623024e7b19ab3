from hypothesis import given
from hypothesis import strategies as st

from pipeline.id_set import IdSet

IDS = st.integers(0, 2**64 - 1).map(lambda number: f"{number:016x}")


@given(first=st.sets(IDS), later=st.lists(IDS))
def test_id_set_is_a_set(first, later):
    found, expected = IdSet.of(first), set(first)
    for source_id in later:
        assert found.add(source_id) == (source_id not in expected)
        expected.add(source_id)
    assert len(found) == len(expected)
    assert all(source_id in found for source_id in expected)
    assert ("0" * 16 in found) == ("0" * 16 in expected)
