import pytest

from infra.config import canonical_json
from infra.errors import IntegrityError


def test_canonical_json_has_one_spelling():
    assert canonical_json({"b": [1, 2.5], "a": "caf\u00e9\n"}) == rb'{"a":"caf\u00e9\n","b":[1,2.5]}'


def test_canonical_json_nan_raises_integrity_error():
    with pytest.raises(IntegrityError, match="finite"):
        canonical_json({"a": float("nan")})
