"""JSON that is believed only when it is what it should be: typed fields in, `IntegrityError` for anything else."""

import json
import math
from collections.abc import Collection, Mapping
from numbers import Integral, Real
from typing import Any, NoReturn

from infra.errors import IntegrityError


def parse_object(data: bytes, *, subject: str) -> dict[str, Any]:
    """The JSON object that `data` spells.

    Raises:
        IntegrityError: not UTF-8, not JSON, or not an object.
    """

    def refuse_constant(text: str) -> NoReturn:
        raise IntegrityError(f"every number must be finite, got {text} (in {subject})")

    try:
        value = json.loads(data, parse_constant=refuse_constant)
    except (ValueError, RecursionError) as err:
        raise IntegrityError(f"{subject} must be JSON, got {err}") from err
    return object_of(value, subject=subject)


def object_of(value: object, *, subject: str) -> dict[str, Any]:
    """`value` itself. Raises `IntegrityError` unless it is a JSON object."""
    if not isinstance(value, dict):
        raise IntegrityError(f"{subject} must be a JSON object, got {type(value).__name__}")
    return value


def array_of(value: object, *, subject: str) -> list[Any]:
    """`value` itself. Raises `IntegrityError` unless it is a JSON array."""
    if not isinstance(value, list):
        raise IntegrityError(f"{subject} must be a JSON array, got {type(value).__name__}")
    return value


def require_keys(value: Mapping[str, object], names: Collection[str], *, subject: str) -> None:
    """Raises `IntegrityError` unless the keys of `value` are exactly `names`."""
    missing, unknown = sorted(set(names) - value.keys()), sorted(value.keys() - set(names))
    if missing or unknown:
        raise IntegrityError(
            f"{subject} must have exactly its {len(names)} keys, got missing {missing} and unknown {unknown}"
        )


def checked(value: object, kind: object, *, name: str, subject: str) -> Any:
    """`value` as a plain `str`, `int`, finite `float` or `dict[str, float]`, as `kind` says.

    A `bool` is no number here, and a fraction is no `int`.

    Raises:
        IntegrityError: `value` is of another kind.
    """
    if kind is str and isinstance(value, str):
        return value
    if kind is int and isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    if kind is float and isinstance(value, Real) and not isinstance(value, bool):
        return _finite(value, name=name, subject=subject)
    if kind == Mapping[str, float] and isinstance(value, Mapping):
        return {
            checked(key, str, name=f"a key of {name}", subject=subject): checked(
                number, float, name=f"{name}.{key}", subject=subject
            )
            for key, number in sorted(value.items())
        }
    raise IntegrityError(f"{name} must be {getattr(kind, '__name__', kind)}, got {value!r} (in {subject})")


def _finite(value: Real, *, name: str, subject: str) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise IntegrityError(f"{name} must be finite, got {number} (in {subject})")
    return number
