"""Decoded frames as they are shown, small: upright, square pixels, limited-range bt709, 4:2:0, one size for all.

Runs in the reading child.
"""

import math
import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
from av.filter import Graph
from av.filter.context import FilterContext
from av.sidedata.sidedata import Type

from infra.errors import Undecodable
from infra.media.decoding import filtered
from infra.media.tone_map import table_file

HDR_TRANSFERS = (16, 18)  # AVCOL_TRC_SMPTE2084, AVCOL_TRC_ARIB_STD_B67, ffmpeg libavutil/pixfmt.h
_HD_HEIGHT_PX = 720  # Untagged video of this height and more is taken for bt709, as players do.
_FULL_RANGE = 2  # AVCOL_RANGE_JPEG, ffmpeg libavutil/pixfmt.h
# By AVColorSpace, ffmpeg libavutil/pixfmt.h, in the words of the scale filter.
_MATRICES = {
    1: "bt709", 4: "fcc", 5: "bt470", 6: "smpte170m", 7: "smpte240m", 9: "bt2020", 10: "bt2020"
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Look:
    """What decides how a frame is scaled."""

    width_px: int
    height_px: int
    pixel_format: str
    matrix: str
    is_full_range: bool
    transfer: int
    """0 unless HDR."""


class Scaler:
    """Scales frames so that the short side is `short_side_px`."""

    def __init__(self, *, short_side_px: int, aspect: Fraction) -> None:
        """Arguments: size of the result; how much wider than high a pixel is."""
        self._short_side_px, self._aspect = short_side_px, aspect
        self._look: _Look | None = None
        self._graph: Graph | None = None
        self._display_matrix: bytes | None = (
            None  # Nine 32-bit numbers; empty when frames are upright as they are.
        )
        self.size_px: tuple[int, int] = (0, 0)
        """Width and height of what comes out; zero before the first frame."""

    def __call__(self, frame: av.VideoFrame) -> av.VideoFrame:
        """The scaled frame.

        Raises:
            Undecodable: it has another shape than the frames before.
        """
        if (
            self._display_matrix is None
        ):  # Of the first alone: PyAV keeps a frame whose side data was looked at.
            self._display_matrix = _display_matrix(frame)
        look = _look_of(frame)
        if self._graph is None or look != self._look:
            self._graph, self._look = self._make_graph(look), look
        (scaled,) = filtered(self._graph, frame, av.VideoFrame)
        size_px = (scaled.width, scaled.height)
        if self.size_px not in (size_px, (0, 0)):
            raise Undecodable(f"every frame must be {self.size_px} as the first, got {size_px} on the way")
        self.size_px = size_px
        return scaled

    def _make_graph(self, look: _Look) -> Graph:
        graph = Graph()
        graph.threads = 1
        nodes = [
            graph.add_buffer(
                width=look.width_px,
                height=look.height_px,
                format=av.VideoFormat(look.pixel_format),
                time_base=Fraction(1, 1000),
            ),
            *self._add_scaling(graph, look),
            graph.add("format", "yuv420p"),
            *(graph.add(*turn) for turn in _turns(self._display_matrix)),
            graph.add("buffersink"),
        ]
        graph.link_nodes(*nodes).configure()
        return graph

    def _add_scaling(self, graph: Graph, look: _Look) -> list[FilterContext]:
        """To the size that is wanted and limited-range bt709."""
        width_px, height_px = self._scaled_px(look)
        in_range = "full" if look.is_full_range else "limited"
        size = f"w={width_px}:h={height_px}:flags=bicubic:in_range={in_range}"
        if not look.transfer:
            colour = f"in_color_matrix={look.matrix}:out_color_matrix=bt709:out_range=limited"
            return [graph.add("scale", f"{size}:{colour}")]
        with table_file(look.transfer) as path:
            return [
                graph.add("scale", f"{size}:in_color_matrix=bt2020:out_range=full"),
                graph.add("format", "gbrp10le"),
                graph.add("lut3d", f"file={path}"),
                graph.add("scale", "out_color_matrix=bt709:out_range=limited"),
            ]

    def _scaled_px(self, look: _Look) -> tuple[int, int]:
        """Width and height before turning, even."""
        aspect = look.width_px * self._aspect / look.height_px
        long_px = 2 * math.floor(self._short_side_px * max(aspect, 1 / aspect) / 2 + Fraction(1, 2))
        return (long_px, self._short_side_px) if aspect >= 1 else (self._short_side_px, long_px)


def _display_matrix(frame: av.VideoFrame) -> bytes:
    """Nine 32-bit numbers; empty when frames are upright as they are."""
    data: Any = frame.side_data.get(Type.DISPLAYMATRIX)  # type: ignore[call-overload]
    return bytes(data or b"")


def _look_of(frame: av.VideoFrame) -> _Look:
    matrix = _MATRICES.get(int(frame.colorspace), "bt709" if frame.height >= _HD_HEIGHT_PX else "bt601")
    return _Look(
        width_px=frame.width,
        height_px=frame.height,
        pixel_format=frame.format.name,
        matrix=matrix,
        is_full_range=int(frame.color_range) == _FULL_RANGE or frame.format.name.startswith("yuvj"),
        transfer=int(frame.color_trc) if int(frame.color_trc) in HDR_TRANSFERS else 0,
    )


def _turns(display_matrix: bytes | None) -> list[tuple[str, str] | tuple[str]]:
    """Filters that turn a frame upright. Source: ffmpeg 9, fftools, autorotate."""
    if not display_matrix:
        return []
    a, b, _, c, d, *_ = struct.unpack("<9i", display_matrix)
    # The angle of libavutil's av_display_rotation_get, clockwise.
    degrees = math.degrees(math.atan2(b / (math.hypot(b, d) or 1), a / (math.hypot(a, c) or 1))) % 360
    match round(degrees / 90) % 4:
        case 1:
            return [("transpose", "cclock_flip" if c > 0 else "clock")]
        case 2:
            return [*([("hflip",)] if a < 0 else []), *([("vflip",)] if d < 0 else [])]
        case 3:
            return [("transpose", "clock_flip" if c < 0 else "cclock")]
    return [("vflip",)] if d < 0 else []
