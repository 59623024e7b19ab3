"""Samples of a clip -> the same sound as one channel at another rate. C channels, T and S samples."""

from fractions import Fraction

import av
import numpy as np
from av.filter import Graph
from numpy.typing import NDArray

from infra.media.decoding import filtered

EMBED_RATE_HZ = 48_000
"""Rate of the mono signal for audio embeddings. Source: CLAP, arXiv 2211.06687, section 4.1."""
SPEECH_RATE_HZ = 16_000
"""Rate of the mono signal in which speech is sought. Source: silero-vad, see model/encoders/speech.py."""

_PIECE_SAMPLES = 1 << 14  # At once: small pieces stay in the cache, and the resampler keeps no large buffers.


def mono_mix(native_CT: NDArray[np.float32], *, layout: str, sample_rate_hz: int) -> NDArray[np.float32]:
    """ffmpeg's down-mix to one channel [T], scaled so that it cannot exceed full scale. Weights: ITU-R BS.775.

    Args:
        layout: which channels there are, as ffmpeg names it.
    """
    if len(native_CT) == 1:
        return native_CT[0]
    return _converted(native_CT, layout, sample_rate_hz, sample_rate_hz)


def resampled(
    mono_T: NDArray[np.float32], *, sample_rate_hz: int, out_rate_hz: int, num_out: int
) -> NDArray[np.float32]:
    """`num_out` samples at another rate.

    A clip is resampled by itself: it does not depend on what surrounds it. Rounding may leave a sample too many
    or too few, which is cut off or a zero.
    """
    out_S = mono_T
    if out_rate_hz != sample_rate_hz:
        out_S = _converted(mono_T[np.newaxis], "mono", sample_rate_hz, out_rate_hz)
    return np.pad(out_S[:num_out], (0, max(0, num_out - len(out_S))))


def to_int16(mono_S: NDArray[np.float32]) -> NDArray[np.int16]:
    """Nearest 16-bit samples; full scale is 1.0, what is beyond is clipped."""
    return np.clip(np.rint(mono_S * 32768), -32768, 32767).astype(np.int16)


def _converted(
    sound_CT: NDArray[np.float32], layout: str, sample_rate_hz: int, out_rate_hz: int
) -> NDArray[np.float32]:
    graph = Graph()
    graph.threads = 1
    nodes = [
        graph.add_abuffer(
            sample_rate=sample_rate_hz, format="fltp", layout=layout, time_base=Fraction(1, sample_rate_hz)
        ),
        graph.add("aresample", f"{out_rate_hz}:ochl=mono:rematrix_maxval=1"),
        graph.add("aformat", f"sample_fmts=flt:channel_layouts=mono:sample_rates={out_rate_hz}"),
        graph.add("abuffersink"),
    ]
    graph.link_nodes(*nodes).configure()
    pieces: list[av.AudioFrame] = []
    for first in range(0, sound_CT.shape[1], _PIECE_SAMPLES):
        piece_CT = np.ascontiguousarray(sound_CT[:, first : first + _PIECE_SAMPLES])
        frame = av.AudioFrame.from_ndarray(piece_CT, format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = sample_rate_hz, first, Fraction(1, sample_rate_hz)
        pieces += filtered(graph, frame, av.AudioFrame)
    pieces += filtered(graph, None, av.AudioFrame)
    return np.concatenate([piece.to_ndarray()[0] for piece in pieces])
