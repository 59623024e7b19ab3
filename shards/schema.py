"""What one sample is: its members, its metadata, its embeddings, and the bytes that each becomes.

Shapes: N seconds (one row a second), D embedding width.
"""

import io
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

from infra.config import canonical_json
from infra.errors import IntegrityError
from shards.strict_json import checked, parse_object, require_keys

# The members of a sample, in the order in which a shard holds them.
SAMPLE_MEMBERS: tuple[str, ...] = ("mp4", "flac", "json", "clip.npy", "clap.npy")
# The members of a staged clip: a sample that has no embeddings yet.
BUNDLE_MEMBERS: tuple[str, ...] = ("mp4", "flac", "json")
# The members of a clip in the bundle of its source's embeddings.
EMBEDDING_MEMBERS: tuple[str, ...] = ("clip.npy", "clap.npy")

# A dot would move the border between key and extension in WebDataset readers, a slash would make folders.
# 91 characters: a ustar name has room for 100, and ".clip.npy" takes 9 of them.
_KEY = re.compile(r"[A-Za-z0-9_-]{1,91}")


def sample_key(source_id: str, *, start_ms: int, end_ms: int) -> str:
    """Key of the clip [start_ms, end_ms) of a source; keys of one source sort by time.

    Raises:
        IntegrityError: `source_id` has a character that a key may not have.
    """
    key = f"{source_id}-{start_ms:08d}-{end_ms:08d}"
    check_key(key)
    return key


def source_of(key: str) -> str:
    """The source that a key made by `sample_key` belongs to."""
    return key.rsplit("-", 2)[0]


def check_key(key: str) -> None:
    """Raises `IntegrityError` unless `key` is 1 to 91 ASCII letters, digits, `_` and `-`."""
    if _KEY.fullmatch(key) is None:
        raise IntegrityError(f"a sample key must match {_KEY.pattern} (no dots, no slashes), got {key!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingModels:
    """The models whose embeddings a sample carries; weights are 'untrained' when none were loaded."""

    clip_model: str
    clip_weights: str
    clap_model: str
    clap_weights: str

    def __post_init__(self) -> None:
        for field in fields(self):
            checked(getattr(self, field.name), str, name=field.name, subject="embedding models")


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedMeta:
    """The `.json` member of a staged clip: where it comes from, what it holds, how it scored.

    Times are relative to the source, half-open. A text that the source does not state is empty.
    `num_frames` and `num_samples` count video frames and audio samples of the clip as written.
    """

    clip_id: str
    source_id: str
    recipe_id: str
    url: str
    title: str
    uploader: str
    channel_id: str
    video_id: str
    licence: str
    webpage_url: str
    upload_date: str
    opt_out: str
    tool_versions: str
    start_s: float
    end_s: float
    num_frames: int
    frame_rate_fps: float
    width_px: int
    height_px: int
    num_samples: int
    sample_rate_hz: int
    scores: Mapping[str, float]

    def __post_init__(self) -> None:
        subject = f"metadata of clip {self.clip_id}"
        for field in fields(self):
            value = checked(getattr(self, field.name), field.type, name=field.name, subject=subject)
            object.__setattr__(self, field.name, value)
        if not 0 <= self.start_s < self.end_s:
            raise IntegrityError(
                f"times must satisfy 0 <= start_s < end_s, got {self.start_s} and {self.end_s} ({subject})"
            )
        for name in (
            "num_frames",
            "frame_rate_fps",
            "width_px",
            "height_px",
            "num_samples",
            "sample_rate_hz",
        ):
            if getattr(self, name) <= 0:
                raise IntegrityError(f"{name} must be above 0, got {getattr(self, name)} ({subject})")

    def to_json_bytes(self) -> bytes:
        """Canonical JSON: equal metadata, equal bytes."""
        return canonical_json(asdict(self))

    @classmethod
    def from_json_bytes(cls, data: bytes) -> Self:
        """The inverse of `to_json_bytes`.

        Raises:
            IntegrityError: not JSON, or unknown, missing or mistyped keys.
        """
        subject = f"{cls.__name__} JSON"
        value = parse_object(data, subject=subject)
        require_keys(value, [field.name for field in fields(cls)], subject=subject)
        return cls(**value)

    def with_embeddings(self, models: EmbeddingModels) -> "ClipMeta":
        """Metadata of the sample that this clip becomes once it has embeddings."""
        staged = {field.name: getattr(self, field.name) for field in fields(StagedMeta)}
        return ClipMeta(**staged, **asdict(models))


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipMeta(StagedMeta):
    """The `.json` member of a sample: a staged clip's metadata and the models of its embeddings."""

    clip_model: str
    clip_weights: str
    clap_model: str
    clap_weights: str

    @property
    def models(self) -> EmbeddingModels:
        """The models of the embeddings, as one record."""
        return EmbeddingModels(**{field.name: getattr(self, field.name) for field in fields(EmbeddingModels)})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """One training sample; the media are encoded bytes, which this folder never looks into.

    Attributes:
        key: equals `meta.clip_id`.
        clip_embedding_ND: float16, one row a second of video, N >= 1.
        clap_embedding_D: float16, one embedding of the clip's whole audio.
    """

    key: str
    mp4: bytes
    flac: bytes
    meta: ClipMeta
    clip_embedding_ND: NDArray[np.float16]
    clap_embedding_D: NDArray[np.float16]

    def __post_init__(self) -> None:
        check_key(self.key)
        if self.key != self.meta.clip_id:
            raise IntegrityError(f"key must equal the clip_id, got {self.key} and {self.meta.clip_id}")
        _check_embedding(self.clip_embedding_ND, num_axes=2, subject=f"{self.key}.clip.npy")
        _check_embedding(self.clap_embedding_D, num_axes=1, subject=f"{self.key}.clap.npy")

    def to_members(self) -> dict[str, bytes]:
        """Bytes of every member by extension, in the order of `SAMPLE_MEMBERS`."""
        return {
            "mp4": self.mp4,
            "flac": self.flac,
            "json": self.meta.to_json_bytes(),
            "clip.npy": npy_bytes(self.clip_embedding_ND),
            "clap.npy": npy_bytes(self.clap_embedding_D),
        }

    @classmethod
    def from_members(cls, key: str, members: Mapping[str, bytes]) -> Self:
        """The inverse of `to_members`.

        Raises:
            IntegrityError: a member is missing, unknown, or does not hold what it should.
        """
        require_keys(members, SAMPLE_MEMBERS, subject=f"sample {key}")
        return cls(
            key=key,
            mp4=members["mp4"],
            flac=members["flac"],
            meta=ClipMeta.from_json_bytes(members["json"]),
            clip_embedding_ND=npy_array(members["clip.npy"], subject=f"{key}.clip.npy"),
            clap_embedding_D=npy_array(members["clap.npy"], subject=f"{key}.clap.npy"),
        )


def npy_bytes(array: NDArray[np.float16]) -> bytes:
    """The array as an .npy file: format 1.0, C order, little-endian."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.ascontiguousarray(array, dtype="<f2"), version=(1, 0))
    return stream.getvalue()


def npy_array(data: bytes, *, subject: str) -> NDArray[np.float16]:
    """The array that an .npy file holds.

    Raises:
        IntegrityError: not an .npy file, or bytes are missing or left over.
    """
    stream = io.BytesIO(data)
    try:
        array = np.lib.format.read_array(stream, allow_pickle=False)
    except (ValueError, EOFError) as err:
        raise IntegrityError(f"{subject} must be an .npy file, got {err}") from err
    if stream.read(1):
        raise IntegrityError(f"{subject} must end with its array, got bytes after it")
    return array


def _check_embedding(array: NDArray[np.float16], *, num_axes: int, subject: str) -> None:
    if array.dtype != np.float16 or array.ndim != num_axes or array.size == 0:
        raise IntegrityError(
            f"{subject} must be float16 with {num_axes} axes and not empty, got {array.dtype} {array.shape}"
        )
    if not np.isfinite(array).all():
        raise IntegrityError(f"{subject} must be finite, got NaN or infinity")
