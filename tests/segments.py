"""Windows of a media file as copies: what `MediaReader` gives is overwritten by its next call."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from infra.media import Probe
from infra.media.reader import MediaReader, MediaSource, Pictures, ReadPlan, Sound
from infra.media.resample import mono_mix, resampled, to_int16
from infra.units import frames_to_samples

OUTPUT_RATE_HZ = 16_000


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A window with picture and sound; S samples of one channel at 16 kHz."""

    start_frame: int
    i420_NB: NDArray[np.uint8]
    height_px: int
    width_px: int
    native_CT: NDArray[np.float32]
    output_S: NDArray[np.int16]

    @property
    def num_frames(self) -> int:
        return len(self.i420_NB)

    @property
    def luma_NHW(self) -> NDArray[np.uint8]:
        return self.pictures.luma_NHW

    @property
    def pictures(self) -> Pictures:
        return Pictures(i420_NB=self.i420_NB, height_px=self.height_px, width_px=self.width_px)


def read_segments(
    reader: MediaReader, path: Path, plan: ReadPlan, probe: Probe | None = None
) -> tuple[list[Segment], float]:
    """All windows that hold a frame, and the length of the source."""
    probe = probe or reader.probe(path)
    segments: list[Segment] = []
    with reader.open(path, probe, plan) as source:
        for first in range(0, 1 << 30, plan.window_frames):
            sound = source.sound()
            if sound.num_frames:
                segments.append(_segment(source, sound, probe, plan, first))
            if sound.has_ended:
                break
            source.advance(plan.window_frames)
        return segments, source.finish()


def read_segment(
    reader: MediaReader, path: Path, plan: ReadPlan, *, num_frames: int = 1000, probe: Probe | None = None
) -> Segment:
    """One window of at most `num_frames`, from the start of the plan's span."""
    plan = replace(plan, window_frames=num_frames)
    probe = probe or reader.probe(path)
    with reader.open(path, probe, plan) as source:
        return _segment(source, source.sound(), probe, plan, 0)


def _segment(source: MediaSource, sound: Sound, probe: Probe, plan: ReadPlan, first: int) -> Segment:
    pictures = source.pictures()
    num_out = frames_to_samples(
        sound.num_frames, sample_rate_hz=OUTPUT_RATE_HZ, frame_rate_fps=plan.frame_rate_fps
    )
    mono_T = mono_mix(sound.native_CT, layout=probe.audio_layout, sample_rate_hz=probe.sample_rate_hz)
    mono_S = resampled(
        mono_T, sample_rate_hz=probe.sample_rate_hz, out_rate_hz=OUTPUT_RATE_HZ, num_out=num_out
    )
    return Segment(
        start_frame=first,
        i420_NB=pictures.i420_NB.copy(),
        height_px=pictures.height_px,
        width_px=pictures.width_px,
        native_CT=sound.native_CT.copy(),
        output_S=to_int16(mono_S),
    )
