"""A stream's sound without gaps, at its own rate and channels, on the clock of `packets`.

Runs in the reading child. C channels, T samples.
"""

from collections.abc import Iterator
from typing import NamedTuple, cast

import av
import numpy as np
from av.filter import Graph
from numpy.typing import NDArray

from infra.errors import Undecodable
from infra.media.decoding import Decoding, filtered
from infra.media.packets import US_PER_S, Packets

SLACK_SAMPLES = 4096
"""What comes at once at most, so what a buffer must hold beyond what is wanted."""
_SLIP_S = 0.01  # More than containers round a time stamp, less than a packet that may be missing.


class _Format(NamedTuple):
    """What must not change on the way."""

    sample_format: str
    layout: str
    num_channels: int
    sample_rate_hz: int


class SoundReader:
    """Fills a buffer with consecutive samples; sample 0 of the stream is at time zero."""

    def __init__(self, packets: Packets, stream: av.AudioStream) -> None:
        self._packets, self._stream = packets, stream
        self._decoding = Decoding(stream.codec_context.decode)
        self._stated = (stream.codec_context.channels, stream.codec_context.sample_rate)
        self._graph: Graph | None = None
        self._format: _Format | None = None
        self._chunks = self._read()
        self._num_held = 0

    def fill(self, buffer_CT: NDArray[np.float32], num_samples: int) -> int:
        """Decode until the buffer holds that many samples; fewer where the sound ends. How many it holds.

        The buffer has room for `SLACK_SAMPLES` more.
        """
        while self._num_held < num_samples:
            chunk_CT = next(self._chunks, None)
            if chunk_CT is None:
                break
            end = self._num_held + chunk_CT.shape[1]
            buffer_CT[:, self._num_held : end] = chunk_CT
            self._num_held = end
        return min(self._num_held, num_samples)

    def forget(self, buffer_CT: NDArray[np.float32], num_samples: int) -> None:
        """Go on so many samples later, whether they are in the buffer or not."""
        max_samples = buffer_CT.shape[1] - SLACK_SAMPLES
        while num_there := self.fill(buffer_CT, min(num_samples, max_samples)):
            num_left = self._num_held - num_there
            buffer_CT[:, :num_left] = buffer_CT[:, num_there : self._num_held]
            self._num_held = num_left
            num_samples -= num_there

    def _read(self) -> Iterator[NDArray[np.float32]]:
        """All of the sound in pieces of at most `SLACK_SAMPLES`."""
        timed = self._packets.take(self._stream.index)
        while timed is not None:
            for frame in self._decoding.frames(timed.packet):
                yield from self._aligned(frame)
            timed = self._packets.take(self._stream.index)
        for frame in self._decoding.frames(None):
            yield from self._aligned(frame)
        self._decoding.require_most()
        if self._graph is not None:
            yield from _arrays(filtered(self._graph, None, av.AudioFrame))

    def _aligned(self, frame: av.AudioFrame) -> Iterator[NDArray[np.float32]]:
        format = _Format(frame.format.name, frame.layout.name, frame.layout.nb_channels, frame.sample_rate)
        if self._graph is None:
            self._require_stated(format)
            self._graph, self._format = self._make_graph(frame), format
        if format != self._format:
            raise Undecodable(f"all sound must be {self._format} as the first, got {format} on the way")
        return _arrays(filtered(self._graph, frame, av.AudioFrame))

    def _require_stated(self, format: _Format) -> None:
        found = (format.num_channels, format.sample_rate_hz)
        if found != self._stated:
            raise Undecodable(
                f"sound must have the channels and rate {self._stated} of its header, got {found}"
            )

    def _make_graph(self, frame: av.AudioFrame) -> Graph:
        """Fills gaps of the time line with silence and drops what comes before zero."""
        graph = Graph()
        graph.threads = 1
        try:
            source = graph.add_abuffer(
                sample_rate=frame.sample_rate,
                format=frame.format.name,
                layout=frame.layout.name,
                time_base=self._stream.time_base,
            )
        except ValueError as err:  # PyAV does not know the layout.
            raise Undecodable(f"sound must be of channels that ffmpeg knows, got {err}") from err
        nodes = [
            source,
            graph.add("asetpts", f"PTS-{self._packets.origin_us / US_PER_S:.6f}/TB"),
            graph.add("aresample", f"async=1:first_pts=0:min_hard_comp={_SLIP_S}"),
            graph.add("aformat", "sample_fmts=fltp"),
            graph.add("asetnsamples", f"n={SLACK_SAMPLES}:p=0"),
            graph.add("abuffersink"),
        ]
        graph.link_nodes(*nodes).configure()
        return graph


def _arrays(frames: Iterator[av.AudioFrame]) -> Iterator[NDArray[np.float32]]:
    return (cast("NDArray[np.float32]", frame.to_ndarray()) for frame in frames)
