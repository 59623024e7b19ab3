"""The recipe: every setting that decides what a dataset holds, in one file that people can read and diff."""

import json
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from crawl.policy import FetchConfig
from filters.registry import Bounds, all_filters
from infra.config import Config, config_hash, did_you_mean, load_config
from infra.errors import ConfigError
from infra.units import s_to_frames_floor
from pipeline.dedup_config import DedupConfig
from pipeline.frame_square import CropPolicy
from pipeline.mixture import DatasetConfig

_MIN_FRAMES = 8
"""The filters compare frames over time; fewer say nothing of cuts."""

RECIPES_DIR = Path(__file__).parent / "recipes"


class SplitConfig(Config):
    """How a source is cut into candidate clips."""

    clip_s: Annotated[float, Field(gt=0, le=60)] = 10.0
    """Length of a clip; the last one of a source may be shorter."""
    min_clip_s: Annotated[float, Field(gt=0)] = 3.0
    """A shorter clip is rejected with the reason `too_short`."""
    mode: Literal["window", "shots"] = "window"
    """`window`: a clip every `stride_ratio` of its length. `shots`: clips end at hard cuts; none contains one."""
    stride_ratio: Annotated[float, Field(gt=0, le=100)] = 1.0
    """From the start of a window to the next, in lengths of a clip: 0.5 overlaps by half, 2 leaves out as much."""
    max_clips_per_source: Annotated[int, Field(ge=1)] = 100_000
    """What comes after so many kept clips of a source is rejected with the reason `max_clips`."""
    measure_rejected: bool = False
    """Measure all of a clip that a cheaper measure has rejected, too, so that its bounds can be moved later."""

    def stride_frames(self, frame_rate_fps: Fraction) -> int:
        """Frames from the start of a window to the start of the next."""
        return max(1, s_to_frames_floor(self.stride_ratio * self.clip_s, frame_rate_fps))


class TranscodeConfig(Config):
    """How a kept clip is written."""

    side_px: Annotated[int, Field(ge=64, multiple_of=16)] = 512
    """Width and height; the short side is scaled to it, and `crop` says what of the long side is kept."""
    crop: CropPolicy = "center"
    """What becomes the square: the middle (`center`), where most stands out or moves (`smart`), all (`pad`)."""
    crop_black_bars: bool = False
    """Cut off constant black bars first and scale what lies between them to fit; at most 4 times larger."""
    frame_rate_fps: Annotated[Fraction, Field(ge=1, le=60)] = Fraction(8)
    """Rate at which frames are sampled, measured and written."""
    sample_rate_hz: Annotated[int, Field(ge=8000, le=48000)] = 16_000
    """Rate of the mono sound that is written."""
    x264_preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow"] = (
        "veryfast"
    )
    """Effort of the encoder."""
    x264_crf: Annotated[int, Field(ge=0, le=51)] = 23
    """Quality of the encoder: lower is better and larger."""
    keyframe_interval_frames: Annotated[int, Field(ge=1)] = 16
    """A decoder reaches any frame from at most this many before it."""


class EmbedConfig(Config):
    """Which models make the cached embeddings. `untrained` weights are random and named so in every row."""

    clip_model: str = "ViT-B-32"
    """Picture encoder: a model name of open_clip, or `tiny`."""
    clip_weights: str = "untrained"
    """A pretrained tag of open_clip, a file, or `untrained`."""
    clap_model: str = "HTSAT-tiny"
    """Sound encoder: `HTSAT-tiny`, `HTSAT-base`, `HTSAT-large` of laion-clap, or `tiny`."""
    clap_weights: str = "untrained"
    """A checkpoint file or a published name of laion-clap, or `untrained`."""
    clips_per_batch: Annotated[int, Field(ge=1, le=256)] = 8
    """Clips of one source that are embedded together."""


class BoundsConfig(Config):
    """A change to a filter's bounds; what is not named stays as the filter has it."""

    min: float | None = None
    """Lowest score that is kept."""
    max: float | None = None
    """Highest score that is kept."""
    strict: bool | None = None
    """Whether the bounds themselves are out."""

    @classmethod
    def of(cls, bounds: Bounds) -> "BoundsConfig":
        """Bounds as a change that makes them from any others that end where they end."""
        low, high = (value if math.isfinite(value) else None for value in (bounds.min, bounds.max))
        return cls(min=low, max=high, strict=bounds.strict)

    def over(self, default: Bounds) -> Bounds:
        """The bounds with these changes."""
        changes = {key: value for key, value in self.model_dump().items() if value is not None}
        return Bounds(**{"min": default.min, "max": default.max, "strict": default.strict} | changes)


class MediaConfig(Config):
    """What the media children may take, and what happens to a source afterwards."""

    keep_sources: bool = True
    """Keep fetched sources under `media/` when their clips are staged."""
    stall_s: Annotated[float, Field(gt=0)] = 60.0
    """A child that shows no progress for this long is killed and its source fails."""
    memory_mib: Annotated[int, Field(ge=256)] = 4096
    """Address space of a child."""


class Recipe(Config):
    """All settings of `avgen run`."""

    fetch: FetchConfig = FetchConfig()
    """What is fetched and how the web is asked."""
    split: SplitConfig = SplitConfig()
    """How a source is cut into candidate clips."""
    transcode: TranscodeConfig = TranscodeConfig()
    """How a kept clip is written."""
    filters: Mapping[str, BoundsConfig] = Field(default_factory=dict)
    """Bounds that differ from the filters' own, by filter name."""
    embed: EmbedConfig = EmbedConfig()
    """Which models make the cached embeddings."""
    media: MediaConfig = MediaConfig()
    """What the media children may take."""
    dedup: DedupConfig = DedupConfig()
    """What makes clips duplicates of each other, and which of them stays."""
    dataset: DatasetConfig = DatasetConfig()
    """What `avgen pack` selects of the kept clips."""

    @model_validator(mode="after")
    def _filters_exist(self) -> "Recipe":
        known = {spec.name: spec for spec in all_filters()}
        for name, change in self.filters.items():
            if name not in known:
                raise ValueError(f"unknown filter filters.{name}{did_you_mean(name, known)}")
            try:
                change.over(known[name].keep)
            except ConfigError as err:
                raise ValueError(f"filters.{name}: {err}") from err
        return self

    @model_validator(mode="after")
    def _windows_hold_frames(self) -> "Recipe":
        if self.split.min_clip_s > self.split.clip_s:
            raise ValueError(
                "split.min_clip_s must be at most split.clip_s,"
                f" got {self.split.min_clip_s} and {self.split.clip_s}"
            )
        if s_to_frames_floor(self.split.min_clip_s, self.transcode.frame_rate_fps) < _MIN_FRAMES:
            raise ValueError(
                f"split.min_clip_s must span {_MIN_FRAMES} frames at transcode.frame_rate_fps, got"
                f" {self.split.min_clip_s} s at {self.transcode.frame_rate_fps} fps"
            )
        return self

    @model_validator(mode="after")
    def _shots_have_no_stride(self) -> "Recipe":
        if self.split.mode == "shots" and self.split.stride_ratio != 1:
            raise ValueError(
                "split.stride_ratio must be 1 when split.mode is shots: a clip begins where the last one ends,"
                f" got {self.split.stride_ratio}"
            )
        return self

    @model_validator(mode="after")
    def _key_frames_reject_less(self) -> "Recipe":
        early, late = (
            self.bounds[name].min for name in ("keyframe_laplacian_variance", "laplacian_variance")
        )
        if early > late:
            raise ValueError(
                "filters.keyframe_laplacian_variance.min must be at most filters.laplacian_variance.min, for key"
                f" frames only reject early what all frames would, got {early:g} and {late:g}; set both"
            )
        return self

    @cached_property
    def recipe_id(self) -> str:
        """12 hex digits that change whenever the same media file could give a clip other bytes or scores.

        Not part of it: which file is fetched of a source, what children may take, how datasets are selected, and
        the bounds, for which clips are kept follows from their scores. Weights count by their name.
        """
        versions = {spec.name: spec.version for spec in all_filters()}
        identity = _Identity(split=self.split, transcode=self.transcode, embed=self.embed, versions=versions)
        return config_hash(identity)

    def with_all_bounds(self) -> "Recipe":
        """The same recipe with every bound written out: other defaults of a later version change nothing in it."""
        filters = {name: BoundsConfig.of(bounds) for name, bounds in self.bounds.items()}
        return self.model_copy(update={"filters": filters})

    @cached_property
    def bounds(self) -> Mapping[str, Bounds]:
        """The bounds of every filter, by name."""
        return bounds_with(self.filters)


class _Identity(Config):
    """What `recipe_id` is the hash of."""

    split: SplitConfig
    transcode: TranscodeConfig
    embed: EmbedConfig
    versions: Mapping[str, int]


def bounds_with(changes: Mapping[str, BoundsConfig]) -> Mapping[str, Bounds]:
    """The bounds of every filter, by name, some of them changed."""
    return {
        spec.name: changes[spec.name].over(spec.keep) if spec.name in changes else spec.keep
        for spec in all_filters()
    }


def recorded_bounds(recipe_json: str) -> Mapping[str, Bounds]:
    """The bounds of a recipe that a run has recorded; a filter that was dropped since then is passed over."""
    changes = json.loads(recipe_json).get("filters", {})
    known = {spec.name for spec in all_filters()}
    return bounds_with(
        {name: BoundsConfig.model_validate(change) for name, change in changes.items() if name in known}
    )


def load_recipe(name_or_path: str, overrides: Sequence[str]) -> Recipe:
    """The recipe of that name or file with `PATH=VALUE` overrides applied.

    Raises:
        ConfigError: see `infra.config.load_config`.
    """
    return load_config(Recipe, name_or_path=name_or_path, builtin_dir=RECIPES_DIR, overrides=overrides)
