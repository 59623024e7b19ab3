from fractions import Fraction

import numpy as np
import pytest

from infra.errors import IntegrityError
from shards.strict_json import array_of, checked, object_of, require_keys


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (np.int64(3), int, 3),
        (3, float, 3.0),
        (Fraction(1, 4), float, 0.25),
        (np.float32(0.5), float, 0.5),
        ("x", str, "x"),
    ],
)
def test_checked_number_of_any_library_becomes_a_plain_one(value, kind, expected):
    result = checked(value, kind, name="n", subject="s")
    assert (result, type(result)) == (expected, kind)


@pytest.mark.parametrize(
    ("value", "kind"), [(True, int), (True, float), (1.0, int), ("1", float), (1, str), (10**400, float)]
)
def test_checked_other_kind_raises_integrity_error(value, kind):
    with pytest.raises(IntegrityError, match="n must be"):
        checked(value, kind, name="n", subject="s")


def test_require_keys_names_what_is_missing_and_unknown():
    with pytest.raises(IntegrityError, match=r"missing \['b'\] and unknown \['c'\]"):
        require_keys({"a": 1, "c": 2}, ["a", "b"], subject="s")


def test_object_of_and_array_of_other_kind_raise_integrity_error():
    with pytest.raises(IntegrityError, match="object, got list"):
        object_of([], subject="s")
    with pytest.raises(IntegrityError, match="array, got dict"):
        array_of({}, subject="s")
