"""What flows from stage to stage: small, frozen, picklable; URIs and hashes, never media bytes.

    SourceItem -> FetchedMedia -> (per clip) Verdict -> StagedClip -> ClipEmbeddings
                                   a source ends as SourceOutcome or Failed

`SourceItem` and `FetchedMedia` belong to crawl/. The one exception to "no frames" is `EmbedInput`: the
few small pictures and the sound that an embedding needs, which live only between two stages.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from crawl.fetch import FetchedMedia
from crawl.items import SourceItem
from infra.media import Probe
from infra.units import s_to_ms
from pipeline.fingerprint_clip import Fingerprint
from shards.manifest import MemberRecord
from shards.schema import sample_key

NO_AUDIO = "no_audio"
TOO_SHORT = "too_short"
MAX_CLIPS = "max_clips"
FAULTS = frozenset({NO_AUDIO, TOO_SHORT, MAX_CLIPS})
"""Reasons against a span that no bound decides; every other reason is the name of a filter."""


def clip_id_of(source_id: str, start_s: float, end_s: float) -> str:
    """The name of a span of a source: the same span has the same name in every run."""
    return sample_key(source_id, start_ms=s_to_ms(start_s), end_ms=s_to_ms(end_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A subject that could not be brought to a verdict."""

    subject_id: str
    stage: str
    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A span of a source with every score that was computed and every reason against keeping it."""

    source_id: str
    start_s: float
    end_s: float
    stage: str
    """Which stage decided: `screen` on the header (the span is the whole source) or `measure`."""
    scores: tuple[tuple[str, float], ...]
    reject_reasons: tuple[str, ...]
    """Names of the filters whose bounds the scores break, `no_audio`, `too_short`, `max_clips`."""

    @property
    def clip_id(self) -> str:
        """Name of the span."""
        return clip_id_of(self.source_id, self.start_s, self.end_s)

    @property
    def kept(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.reject_reasons

    @property
    def faults(self) -> tuple[str, ...]:
        """The reasons that hold whatever the bounds are."""
        return tuple(reason for reason in self.reject_reasons if reason in FAULTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedClip:
    """Where a clip's media lie in a bundle of its source, and its embeddings in another one."""

    clip_id: str
    bundle_key: str
    """Path below the root."""
    members: tuple[MemberRecord, ...]
    """Its mp4, flac and json, in file order."""
    embedding_key: str = ""
    """Path below the root; empty until the clip is embedded."""
    embedding_members: tuple[MemberRecord, ...] = ()
    """Its clip.npy and clap.npy."""
    fingerprints: tuple[Fingerprint, ...] = ()
    """Of a clip that was staged just now: what copies of it are found by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedInput:
    """What the encoders need of one kept clip."""

    clip_id: str
    rgb_NHWC: NDArray[np.uint8]
    """One 224x224 picture a second."""
    mono_E: NDArray[np.float32]
    """The clip's own sound at 48 kHz."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipEmbeddings:
    """The cached embeddings of one clip."""

    clip_id: str
    clip_ND: NDArray[np.float16]
    clip_weights: str
    clap_D: NDArray[np.float16]
    clap_weights: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Curated:
    """What became of a fetched source: the header facts, a verdict a span, and where its clips are staged."""

    probe: Probe
    verdicts: tuple[Verdict, ...]
    staged: tuple[StagedClip, ...]
    """Those that are kept, and those that an earlier pass under other bounds kept."""
    pass_index: int = 0
    """How often the source was curated before under this recipe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOutcome:
    """Everything a source ends with; exactly one of `failed` and `curated` is set."""

    item: SourceItem
    fetched: FetchedMedia | None = None
    curated: Curated | None = None
    failed: Failed | None = None

    def __post_init__(self) -> None:
        assert (self.failed is None) != (self.curated is None)


@dataclass(frozen=True, slots=True, kw_only=True)
class CuratePart:
    """A share of a source's clips on the way to the encoders; the last part carries the outcome."""

    source_id: str
    part_index: int
    """Counts the parts of a source from 0; actors may hand them on in another order."""
    inputs: tuple[EmbedInput, ...] = ()
    outcome: SourceOutcome | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedPart:
    """A `CuratePart` after the encoders."""

    source_id: str
    part_index: int
    embeddings: tuple[ClipEmbeddings, ...] = ()
    outcome: SourceOutcome | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedSource:
    """A source with all that the lake will say of it."""

    outcome: SourceOutcome
    embeddings: tuple[ClipEmbeddings, ...] = field(default=())
