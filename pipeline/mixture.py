"""Settings of a dataset: its splits, caps of channels, weights of source kinds, a number of clips, strata."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from infra.config import Config

_Fraction = Annotated[float, Field(ge=0, lt=1)]


class SplitsConfig(Config):
    """Which share of the channels is held out; what a clip's channel is says `pipeline.splits`."""

    val: _Fraction = 0.0
    """Share of the channels for validation. A higher share only moves channels out of train."""
    test: _Fraction = 0.0
    """Share of the channels for tests. A higher share only moves channels out of train."""
    salt: str = "split"
    """Another word draws other channels; `--seed` does not."""

    @model_validator(mode="after")
    def _something_is_left_for_train(self) -> "SplitsConfig":
        if self.val + self.test >= 1:
            raise ValueError(
                f"split.val + split.test must be below 1: the rest is train, got {self.val} and {self.test}"
            )
        return self


class StratifyConfig(Config):
    """How `max_clips` is shared out: every stratum gives as many clips, a smaller one gives all that it has."""

    column: str = ""
    """A column of `clips`, `kind`, `channel` or `licence`; empty: clips are drawn from all alike."""
    bins: Annotated[int, Field(ge=2, le=1000)] = 10
    """Strata of a column of numbers; every text is a stratum of its own, and so is what has no value."""
    edges: Literal["width", "quantile"] = "width"
    """Bins equally wide from the 1st to the 99th percentile (evens out the scores), or bins equally full."""


class DatasetConfig(Config):
    """What is selected of the clips that pass the filters and `--where`; the rules apply in this order."""

    dedup: Literal["auto", "on", "off"] = "auto"
    """Keep one clip of each duplicate group: `auto` once `avgen dedup` has run."""
    split: SplitsConfig = SplitsConfig()
    """Which clips are held out from training."""
    max_clips_per_channel: Annotated[int, Field(ge=1)] | None = None
    """At most so many clips of a channel; unset: any number."""
    max_hours_per_channel: Annotated[float, Field(gt=0)] | None = None
    """At most so many hours of a channel; unset: any number."""
    weights: Mapping[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """Source kind -> its share of the hours, in any unit; 0 leaves it out. All kinds have one, or none has."""
    max_clips: Annotated[int, Field(ge=1)] | None = None
    """At most so many clips in all; unset: any number."""
    stratify: StratifyConfig = StratifyConfig()
    """How `max_clips` is shared out."""

    @model_validator(mode="after")
    def _some_kind_weighs(self) -> "DatasetConfig":
        if self.weights and not any(self.weights.values()):
            raise ValueError("weights must give one kind more than 0, got 0 for all; drop a kind with 0")
        return self

    @model_validator(mode="after")
    def _strata_share_a_number(self) -> "DatasetConfig":
        if self.stratify.column and self.max_clips is None:
            raise ValueError("stratify.column needs max_clips, the number that its strata share; set both")
        return self
