"""Settings of `avgen dedup`: by what clips are compared, how alike duplicates are, and which of them stays."""

from typing import Annotated

from pydantic import Field, model_validator

from infra.config import Config

_Share = Annotated[float, Field(gt=0, le=1)]
_Bits = Annotated[int, Field(ge=0, le=96)]


class PictureConfig(Config):
    """Likeness of pictures: PDQ codes of the moments at which they are most still."""

    enabled: bool = True
    """Compare pictures."""
    max_distance_bits: _Bits = 48
    """Pictures are near when their codes of 256 bits differ in at most so many."""
    min_similarity: _Share = 0.3
    """Clips that share this part of their moments are duplicates; those that share less need the same sound."""
    min_similarity_with_audio: _Share = 0.1
    """Clips with the same sound are duplicates when they share this part of their moments."""
    min_moments: Annotated[int, Field(ge=1)] = 2
    """Fewer shared moments (a title, a logo) need the same sound, unless neither clip has any other moment."""

    @model_validator(mode="after")
    def _sound_asks_for_less(self) -> "PictureConfig":
        if self.min_similarity_with_audio > self.min_similarity:
            raise ValueError(
                "min_similarity_with_audio must be at most min_similarity,"
                f" got {self.min_similarity_with_audio:g} and {self.min_similarity:g}"
            )
        return self


class AudioConfig(Config):
    """Likeness of sounds: codes after Haitsma and Kalker of the moments at which they change most."""

    enabled: bool = True
    """Compare sounds."""
    max_distance_bits: _Bits = 60
    """Sounds are near when their codes of 256 bits differ in at most so many."""
    min_similarity: _Share = 0.3
    """Clips have the same sound when they share this part of their moments."""
    min_moments: Annotated[int, Field(ge=1)] = 2
    """And at least so many moments."""
    links: bool = False
    """Clips with the same sound are duplicates whatever they show. Off: music under other pictures is none."""


class SemanticConfig(Config):
    """Likeness of meaning: the mean of the CLIP embeddings. Clips with `untrained` embeddings are not compared."""

    enabled: bool = True
    """Compare embeddings."""
    min_cosine: Annotated[float, Field(ge=0.9, le=1)] = 0.97
    """Clips mean the same when the cosine between them is at least this."""
    links: bool = False
    """Clips that mean the same are duplicates. Off: two takes of a scene are none, unless they sound the same."""


class DedupConfig(Config):
    """What makes clips duplicates of each other. Identical files, spans of them and staged bytes always are."""

    picture: PictureConfig = PictureConfig()
    """Likeness of pictures."""
    audio: AudioConfig = AudioConfig()
    """Likeness of sounds."""
    semantic: SemanticConfig = SemanticConfig()
    """Likeness of meaning."""
    keep: tuple[Annotated[str, Field(min_length=1)], ...] = (
        "width_px * height_px desc",
        "laplacian_variance desc",
        "end_s - start_s desc",
        "clip_id",
    )
    """Which clip of a group stays: the first by these terms of an SQL order over `clips`."""
    clips_per_step: Annotated[int, Field(ge=1)] = 200_000
    """Clips that are compared and written together: bounds memory, and what a kill costs."""
