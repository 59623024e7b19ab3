"""A media file worked off as the pipeline does it, and how far it came."""

from contextlib import suppress
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from filters.registry import Needs, all_filters
from infra.errors import MediaError
from pipeline.curate_source import Workplace, curate_source
from pipeline.recipe import Recipe
from pipeline.records import Curated
from tests.stored import Source

Fate: TypeAlias = Literal["kept", "failed"] | Needs
"""`kept`: a clip was. `failed`: it cannot be decoded. Else the costliest signal that was looked at."""


def curate(source: Source, *, recipe: Recipe, place: Workplace) -> Curated | None:
    """Curate the whole source: what became of it; none when it cannot be decoded."""
    with suppress(MediaError):
        *_, last = curate_source(source.item, source.fetched, recipe=recipe, workplace=place)
        assert last.outcome is not None
        return last.outcome.curated
    return None


def fate(curated: Curated | None) -> Fate:
    """How far a source came."""
    if curated is None:
        return "failed"
    if any(verdict.kept for verdict in curated.verdicts):
        return "kept"
    needs = {spec.name: spec.needs for spec in all_filters()}
    looked_at = [needs[name] for verdict in curated.verdicts for name, _ in verdict.scores]
    return max(looked_at, key=get_args(Needs).index, default="probe")


def require_fate(path: Path, wanted: Fate, curated: Curated | None) -> None:
    """Raises `SystemExit` when the source ended elsewhere: what is measured then is not what the report says."""
    if (came_to := fate(curated)) != wanted:
        raise SystemExit(f"{path.name} must come as far as {wanted!r}, got {came_to!r}")
