"""Stage: EmbedInputs of kept clips -> ClipEmbeddings.

A batch never mixes sources, so its composition, and with it every bit of the result, is the same in every run.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.records import ClipEmbeddings, EmbedInput


class Encoder(Protocol):
    """A frozen encoder of pictures or of sounds."""

    @property
    def weights(self) -> str:
        """Which weights were loaded, or `untrained`."""

    def encode(self, batch: NDArray, /) -> NDArray[np.float16]:
        """One unit vector a row."""


def embed_clips(
    inputs: Sequence[EmbedInput], *, pictures: Encoder, sounds: Encoder
) -> tuple[ClipEmbeddings, ...]:
    """A picture embedding a second and one sound embedding for every clip, in order."""
    if not inputs:
        return ()
    pictures_ND = pictures.encode(np.concatenate([clip.rgb_NHWC for clip in inputs]))
    ends = np.cumsum([len(clip.rgb_NHWC) for clip in inputs])
    per_clip = np.split(pictures_ND, ends[:-1])
    sounds_BD = np.concatenate(
        [
            sounds.encode(np.stack([clip.mono_E for clip in same_length]))
            for _, same_length in groupby(inputs, key=lambda clip: len(clip.mono_E))
        ]
    )
    return tuple(
        ClipEmbeddings(
            clip_id=clip.clip_id,
            clip_ND=clip_ND,
            clip_weights=pictures.weights,
            clap_D=clap_D,
            clap_weights=sounds.weights,
        )
        for clip, clip_ND, clap_D in zip(inputs, per_clip, sounds_BD, strict=True)
    )
