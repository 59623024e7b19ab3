"""Stage: signals of one candidate clip -> its scores and the reasons against it, the cheapest signals first."""

from collections.abc import Callable, Collection, Mapping
from itertools import groupby

from filters.registry import Bounds, Filter, Needs, Signal, measure
from infra.errors import TooShort
from pipeline.screen_source import Scores


def measure_clip(
    load: Callable[[Needs], Signal],
    *,
    filters: Collection[Filter],
    bounds: Mapping[str, Bounds],
    measure_rejected: bool,
) -> tuple[Scores, tuple[str, ...]]:
    """Scores of the filters that need more than the header, and the names of those whose bounds are broken.

    Once a bound is broken, the signals that cost more are not asked for, unless `measure_rejected`.

    Args:
        load: gives a signal when it is needed.
        filters: in the order of what their signals cost.

    Raises:
        TooShort: the clip has fewer frames or samples than a filter needs. Key frames may be too few.
        IntegrityError: a score is not finite.
    """
    scores: list[tuple[str, float]] = []
    reasons: list[str] = []
    for needs, group in groupby(filters, key=lambda spec: spec.needs):
        if needs == "probe" or (reasons and not measure_rejected):
            continue
        try:
            signal = load(needs)
            measured = [(spec.name, measure(spec, signal)) for spec in group]
        except TooShort:
            if needs != "keyframes":
                raise
            continue  # Key frames that say nothing decide nothing: all frames will.
        scores += measured
        reasons += [name for name, score in measured if not bounds[name].admits(score)]
    return tuple(scores), tuple(reasons)
