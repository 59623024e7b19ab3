"""Stage: Probe -> scores and reasons of the header alone, before anything is decoded."""

from collections.abc import Collection, Mapping

from filters.registry import Bounds, Filter, measure
from infra.errors import MissingStream
from infra.media import Probe
from pipeline.records import NO_AUDIO, TOO_SHORT

Scores = tuple[tuple[str, float], ...]


def screen_source(
    probe: Probe, *, filters: Collection[Filter], bounds: Mapping[str, Bounds], min_duration_s: float
) -> tuple[Scores, tuple[str, ...]]:
    """Scores of the filters that need only the header, and every reason to reject the source.

    A header that does not state its duration passes here; the decoded length decides then.
    """
    scores: list[tuple[str, float]] = []
    reasons: list[str] = []
    for spec in filters:
        if spec.needs != "probe":
            continue
        try:
            score = measure(spec, probe)
        except MissingStream:
            reasons.append(NO_AUDIO)
            continue
        scores.append((spec.name, score))
        if not bounds[spec.name].admits(score):
            reasons.append(spec.name)
    if 0 < probe.duration_s < min_duration_s:
        reasons.append(TOO_SHORT)
    return tuple(scores), tuple(reasons)
