"""A candidate clip: what filters, encoders and models want of it, decoded or computed when it is asked for.

C channels, T samples at the source's rate, N frames, S samples of one channel.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from filters.registry import Needs, Signal
from filters.signals import AudioSignal, AvSignal, KeyframeSignal, SpeechSignal, VideoSignal
from infra.errors import TooShort
from infra.media import Probe
from infra.media.reader import MediaSource, Pictures
from infra.media.resample import SPEECH_RATE_HZ, mono_mix, resampled
from infra.units import frames_to_s, frames_to_samples

SpeechDetector = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Mono samples at `SPEECH_RATE_HZ` -> probability of speech, one for every 32 ms."""


@dataclass
class Candidate:
    """The first frames of the source's window with their sound; good until the window moves on."""

    source: MediaSource
    probe: Probe
    frame_rate_fps: Fraction
    speech: SpeechDetector
    first_frame: int
    num_frames: int
    window_CT: NDArray[np.float32]
    """The sound of the window, which may be longer than the clip."""
    _resampled: dict[int, NDArray[np.float32]] = field(default_factory=dict)

    @cached_property
    def pictures(self) -> Pictures:
        """The clip's frames."""
        return self.source.pictures().first(self.num_frames)

    @property
    def native_CT(self) -> NDArray[np.float32]:
        """The clip's sound at the source's own rate and channels."""
        return self.window_CT[:, : self.num_samples(self.probe.sample_rate_hz)]

    @property
    def duration_s(self) -> float:
        """Length of picture and sound."""
        return frames_to_s(self.num_frames, self.frame_rate_fps)

    def num_samples(self, sample_rate_hz: int) -> int:
        """Length of the sound at a rate."""
        return frames_to_samples(
            self.num_frames, sample_rate_hz=sample_rate_hz, frame_rate_fps=self.frame_rate_fps
        )

    def mono(self, sample_rate_hz: int) -> NDArray[np.float32]:
        """The sound as one channel at another rate."""
        if sample_rate_hz not in self._resampled:
            self._resampled[sample_rate_hz] = resampled(
                self._mono_T,
                sample_rate_hz=self.probe.sample_rate_hz,
                out_rate_hz=sample_rate_hz,
                num_out=self.num_samples(sample_rate_hz),
            )
        return self._resampled[sample_rate_hz]

    def signal(self, needs: Needs) -> Signal:
        """What filters look at.

        Raises:
            TooShort: there is no key frame.
            MediaError: see `MediaSource`.
        """
        match needs:
            case "audio":
                return self._audio
            case "speech":
                return SpeechSignal(probability_N=self.speech(self.mono(SPEECH_RATE_HZ)))
            case "keyframes":
                return self._keyframes()
            case "video":
                return self._video
            case "av":
                return AvSignal(video=self._video, audio=self._audio)
        raise AssertionError(f"clips have no {needs} signal")

    def _keyframes(self) -> KeyframeSignal:
        keys = self.source.key_frames()
        if not len(keys.i420_NB):
            raise TooShort("a clip must hold a key frame to be judged by its key frames, it has none")
        return KeyframeSignal(luma_KHW=keys.luma_NHW)

    @cached_property
    def _mono_T(self) -> NDArray[np.float32]:
        layout, sample_rate_hz = self.probe.audio_layout, self.probe.sample_rate_hz
        return mono_mix(self.native_CT, layout=layout, sample_rate_hz=sample_rate_hz)

    @cached_property
    def _audio(self) -> AudioSignal:
        return AudioSignal(audio_CT=self.native_CT, sample_rate_hz=self.probe.sample_rate_hz)

    @property
    def _video(self) -> VideoSignal:
        return VideoSignal(luma_NHW=self.pictures.luma_NHW, frame_rate_fps=self.frame_rate_fps)
