"""Scores and bounds -> verdict, as SQL: what `Bounds.admits` says in Python, for millions of rows. Pure.

A span is kept when it is staged and nothing speaks against it: no fault, and no score outside its bounds. A score
that was not computed (an earlier one had rejected the span) speaks neither for nor against it. What has no reason
against it and is not staged is `missing`: the bounds were tighter when it was measured.
"""

import math
from collections.abc import Callable, Iterable, Mapping

from filters.registry import Bounds


def admitted_range(bounds: Bounds) -> tuple[float, float]:
    """The lowest and the highest score that are kept, both included; infinite where there is no bound."""
    if not bounds.strict:
        return bounds.min, bounds.max
    return math.nextafter(bounds.min, math.inf), math.nextafter(bounds.max, -math.inf)


def bounded(bounds: Mapping[str, Bounds]) -> list[str]:
    """Names of the filters that can reject anything, in the order of the mapping."""
    return [name for name, bound in bounds.items() if math.isfinite(bound.min) or math.isfinite(bound.max)]


def broken_sql(name: str, bounds: Bounds) -> str:
    """Whether the score of a filter lies outside its bounds; NULL where it was not computed."""
    low, high = ("<=", ">=") if bounds.strict else ("<", ">")
    sides = []
    if math.isfinite(bounds.min):
        sides.append(f"{name} {low} {bounds.min!r}")
    if math.isfinite(bounds.max):
        sides.append(f"{name} {high} {bounds.max!r}")
    return f"({' or '.join(sides)})" if sides else "false"


def admitted_sql(bounds: Mapping[str, Bounds]) -> str:
    """Whether no fault and no score speaks against a span; never NULL."""
    tests = [f"if({broken_sql(name, bounds[name])}, false, true)" for name in bounded(bounds)]
    return " and ".join(["faults is null", *tests])


def reasons_sql(bounds: Mapping[str, Bounds]) -> str:
    """Every reason against a span: its faults, and the filters whose bounds it breaks, by name."""
    # What is not broken is NULL, and NULLs are dropped.
    broken = ", ".join(
        f"if({broken_sql(name, bounds[name])}, '{name}', null)" for name in sorted(bounded(bounds))
    )
    names = f"list_filter([{broken}], lambda reason: reason is not null)" if broken else "[]::varchar[]"
    return f"list_concat(coalesce(faults, []::varchar[]), {names})"


def verdict_columns(bounds_by_recipe: Mapping[str, Mapping[str, Bounds]]) -> str:
    """The columns `reject_reasons`, `kept` and `missing` of the measured spans of several recipes."""
    # A number tells as much as the name of the bundle, and is read in a fraction of the time.
    staged = "mp4_bytes is not null"
    admitted = _by_recipe(bounds_by_recipe, admitted_sql)
    return (
        f"{_by_recipe(bounds_by_recipe, reasons_sql)} as reject_reasons,\n"
        f"{staged} and {admitted} as kept,\n"
        f"not ({staged}) and {admitted} as missing"
    )


def _by_recipe(
    bounds_by_recipe: Mapping[str, Mapping[str, Bounds]], expression: Callable[[Mapping[str, Bounds]], str]
) -> str:
    """An expression over a span that depends on the bounds of its recipe; a recipe without any has none."""
    recipes: dict[str, list[str]] = {}
    for recipe_id, bounds in bounds_by_recipe.items():
        recipes.setdefault(expression(bounds), []).append(recipe_id)
    if len(recipes) == 1:
        return f"({next(iter(recipes))})"
    cases = (
        f"when recipe_id in ({', '.join(repr(recipe_id) for recipe_id in recipe_ids)}) then {text}"
        for text, recipe_ids in recipes.items()
    )
    otherwise = expression({})
    return f"(case {' '.join(cases)} else {otherwise} end)" if recipes else f"({otherwise})"


def bounds_rows(
    bounds_by_recipe: Mapping[str, Mapping[str, Bounds]],
) -> Iterable[tuple[str, str, float, float]]:
    """Recipe, filter, lowest and highest score that is kept, for every filter that is bounded."""
    for recipe_id, bounds in bounds_by_recipe.items():
        for name in bounded(bounds):
            yield recipe_id, name, *admitted_range(bounds[name])
