"""The list of filters: what each needs, what its number means, which scores are kept by default."""

import importlib
import math
import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeAlias, TypeVar

import filters
from filters.signals import AudioSignal, AvSignal, KeyframeSignal, SpeechSignal, VideoSignal
from infra.errors import ConfigError, IntegrityError
from infra.media import Probe

Needs: TypeAlias = Literal["probe", "audio", "speech", "keyframes", "video", "av"]
Signal: TypeAlias = Probe | AudioSignal | SpeechSignal | KeyframeSignal | VideoSignal | AvSignal
Score: TypeAlias = float
"""One filter's number for one clip, in the filter's unit; finite once it left `measure`."""

# The cheapest to obtain first: a header, audio, what a model hears in it, key frames, then all frames.
_SIGNAL_TYPES: dict[Needs, type[Signal]] = {
    "probe": Probe,
    "audio": AudioSignal,
    "speech": SpeechSignal,
    "keyframes": KeyframeSignal,
    "video": VideoSignal,
    "av": AvSignal,
}
_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Bounds:
    """The scores that are kept. Zero is a bound like any other; infinity means no bound.

    Raises:
        ConfigError: a bound is NaN, or `min` is above `max`.
    """

    min: float = -math.inf
    """Lowest score kept."""
    max: float = math.inf
    """Highest score kept."""
    strict: bool = False
    """The bounds themselves are out: min < score < max."""

    def __post_init__(self) -> None:
        if not self.min <= self.max:  # NaN compares false, so it is refused here too
            raise ConfigError(f"bounds must satisfy min <= max, got min={self.min} max={self.max}")

    def admits(self, score: Score) -> bool:
        """Whether the score lies inside; NaN never does."""
        if self.strict:
            return self.min < score < self.max
        return self.min <= score <= self.max

    def describe(self) -> str:
        """The bounds in words, for reports: `>= 24`, `< 2`, `480 to 1080`, `any`."""
        lowest, highest = math.isfinite(self.min), math.isfinite(self.max)
        if lowest and highest:
            return f"{self.min:g} to {self.max:g}" + (" (both excluded)" if self.strict else "")
        if lowest:
            return f"{'>' if self.strict else '>='} {self.min:g}"
        return f"{'<' if self.strict else '<='} {self.max:g}" if highest else "any"


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """One registered measurement. It measures; bounds decide.

    Raises:
        ConfigError: the name is no column name, the version is below 1, or unit or source is empty.
    """

    name: str
    """Lake column and recipe key (`filters.<name>.min`)."""
    version: int
    """Goes up whenever the same input would score differently."""
    needs: Needs
    """Which signal `measure` takes."""
    unit: str
    keep: Bounds
    """Default bounds; a recipe may override them."""
    source: str
    """Where the method and the bounds come from."""
    measure: Callable[[Any], Score]

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"a filter's name must match {_NAME.pattern}, got {self.name!r}")
        if self.version < 1 or not self.unit or not self.source:
            raise ConfigError(f"filter {self.name} must have a version >= 1, a unit and a source")


_FILTERS: dict[str, Filter] = {}
# `Any`: each filter takes one of the signals; `measure` below checks which.
_MeasureT = TypeVar("_MeasureT", bound=Callable[[Any], Score])


def register(
    *, name: str, version: int, needs: Needs, unit: str, keep: Bounds, source: str
) -> Callable[[_MeasureT], _MeasureT]:
    """Decorator that adds a measuring function to the registry and returns it unchanged.

    Raises:
        ConfigError: the name is taken, or the description is incomplete.
    """

    def add(function: _MeasureT) -> _MeasureT:
        if name in _FILTERS:
            raise ConfigError(f"filter names must be unique, got {name} twice")
        _FILTERS[name] = Filter(
            name=name, version=version, needs=needs, unit=unit, keep=keep, source=source, measure=function
        )
        return function

    return add


@cache
def all_filters() -> tuple[Filter, ...]:
    """Every filter of this folder, in a stable order: what is cheapest to obtain first, then by name."""
    for module in pkgutil.iter_modules(filters.__path__, prefix="filters."):
        importlib.import_module(module.name)
    order = tuple(_SIGNAL_TYPES)
    return tuple(sorted(_FILTERS.values(), key=lambda entry: (order.index(entry.needs), entry.name)))


def measure(filter: Filter, signal: Signal) -> Score:
    """The filter's score of one signal, always finite.

    Raises:
        TooShort: the signal holds too little to measure.
        IntegrityError: the signal is of another kind than the filter needs, or the score is not finite.
    """
    expected = _SIGNAL_TYPES[filter.needs]
    if not isinstance(signal, expected):
        raise IntegrityError(f"{filter.name} must measure {expected.__name__}, got {type(signal).__name__}")
    score = filter.measure(signal)
    if not math.isfinite(score):
        raise IntegrityError(f"{filter.name} must score a finite number, got {score}; fix the filter")
    return score
