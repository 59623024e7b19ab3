"""What a decoded picture looks like, whatever the source's size, shape, range, depth, fields and transfer."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from infra.media.reader import MediaReader, ReadPlan
from tests.media import ffmpeg, make_clip
from tests.segments import Segment, read_segment

PLAN = ReadPlan(frame_rate_fps=Fraction(8), short_side_px=128, window_frames=8)
SOUND = "aevalsrc=exprs='0.3*sin(2*PI*300*t)':s=16000"
PATCHES = np.array(
    [[255, 255, 255], [128, 128, 128], [40, 40, 40], [200, 40, 40],
     [40, 160, 40], [40, 40, 200], [200, 200, 40], [120, 80, 60]]
)  # fmt: skip
"""RGB of the eight patches, from left to right."""
SDR_TOLERANCE = 5
"""Two roundings to 8 bits of limited range, and a coder."""

# Source: ITU-R BT.2087-0, table 1 and BT.2020-2, table 4.
BT2020_FROM_BT709 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
BT2020_LUMA = np.array([0.2627, 0.6780, 0.0593])
WHITE_NITS = 203.0  # Source: ITU-R BT.2408, HDR reference white.


def decode(path: Path, reader: MediaReader) -> Segment:
    return read_segment(reader, path, PLAN, num_frames=8)


def colours(segment: Segment) -> NDArray[np.float64]:
    """RGB in the middle of eight upright bands of the second picture, by the BT.709 equations."""
    height_px, width_px = segment.height_px, segment.width_px
    num_luma = height_px * width_px
    u_HW, v_HW = segment.i420_NB[1, num_luma:].reshape(2, height_px // 2, width_px // 2)
    middles = ((np.arange(8) + 0.5) * width_px / 8).astype(int)
    luma = (segment.luma_NHW[1, height_px // 2, middles] - 16.0) / 219
    u, v = ((plane[height_px // 4, middles // 2] - 128.0) / 224 for plane in (u_HW, v_HW))
    return 255 * np.stack([luma + 1.5748 * v, luma - 0.1873 * u - 0.4681 * v, luma + 1.8556 * u], axis=1)


def make_patches(
    path: Path, pixel_format: str, *, size: str = "512x128", options: tuple[str, ...] = ()
) -> Path:
    """One second of the patches, converted by ffmpeg as `pixel_format` and `options` say."""
    raw = path.with_suffix(".rgb")
    raw.write_bytes(np.tile(np.repeat(PATCHES, 64, axis=0).astype(np.uint8), (24 * 128, 1, 1)).tobytes())
    ffmpeg(
        "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "512x128", "-r", "24", "-i", raw, "-f", "lavfi",
        "-i", SOUND, "-t", "1", "-vf", f"scale={size.replace('x', ':')}:flags=neighbor:{pixel_format}",
        "-c:v", "libx264", "-preset", "veryfast", "-crf", "10", "-c:a", "aac", *options, path,
    )  # fmt: skip
    return path


@pytest.mark.parametrize(
    "pixel_format",
    [
        "out_color_matrix=bt709:out_range=tv,format=yuv420p",
        "out_color_matrix=bt601:out_range=tv,format=yuv420p",
        "out_color_matrix=bt709:out_range=pc,format=yuvj420p",
        "out_color_matrix=bt601:out_range=pc,format=yuvj444p",
        "out_color_matrix=bt709:out_range=tv,format=yuv420p10le",
        "out_color_matrix=bt2020:out_range=tv,format=yuv420p10le",
        "out_color_matrix=bt709:out_range=tv,format=yuv422p",
    ],
)
def test_decode_colours_of_any_matrix_range_and_depth_are_kept(tmp_path, reader, pixel_format):
    segment = decode(make_patches(tmp_path / "a.mp4", pixel_format), reader)
    np.testing.assert_allclose(colours(segment), PATCHES, atol=SDR_TOLERANCE)


@pytest.mark.parametrize(
    ("size", "expected"),
    [("511x127", (516, 128)), ("513x129", (510, 128)), ("515x301", (220, 128)), ("301x515", (128, 220))],
)
def test_decode_odd_size_keeps_shape_and_colours(tmp_path, reader, size, expected):
    """Chroma of odd sizes cannot be halved: such a file has a chroma sample for every pixel."""
    path = make_patches(tmp_path / "a.mp4", "out_color_matrix=bt709:out_range=tv,format=yuv444p", size=size)
    segment = decode(path, reader)
    assert (segment.width_px, segment.height_px) == expected
    np.testing.assert_allclose(colours(segment), PATCHES, atol=SDR_TOLERANCE)


def box(segment: Segment) -> tuple[int, int, int, int]:
    """First and last bright column, first and last bright row of the second picture."""
    bright_HW = segment.luma_NHW[1] > 125
    columns, rows = (np.flatnonzero(bright_HW.any(axis=axis)) for axis in (0, 1))
    return int(columns[0]), int(columns[-1]), int(rows[0]), int(rows[-1])


BOX = "color=black:size=256x128:rate=24,drawbox=x=16:y=32:w=32:h=32:color=white:t=fill"


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [
        (90, (32, 63, 256 - 48, 256 - 17)),
        (180, (256 - 48, 256 - 17, 64, 95)),
        (270, (64, 95, 16, 47)),
    ],
)
def test_decode_rotated_source_stands_upright(tmp_path, reader, degrees, expected):
    """The rotation is counter-clockwise, as ffmpeg's `display_rotation` says."""
    plain = make_clip(tmp_path / "plain.mp4", duration_s=1, video=BOX, audio=SOUND)
    ffmpeg("-display_rotation", str(degrees), "-i", plain, "-c", "copy", tmp_path / "a.mp4")
    assert box(decode(tmp_path / "a.mp4", reader)) == pytest.approx(expected, abs=1)


@pytest.mark.parametrize(
    ("aspect", "expected"),
    [
        ("2/1", (512, 128, 32, 95, 32, 63)),
        ("1/4", (128, 256, 8 * 4 // 2 - 8, 23, 64, 127)),
        ("4/3", (342, 128, 21, 63, 32, 63)),
    ],
)
def test_decode_anamorphic_source_is_stretched_as_it_is_shown(tmp_path, reader, aspect, expected):
    path = make_clip(tmp_path / "a.mp4", duration_s=1, video=f"{BOX},setsar={aspect}", audio=SOUND)
    segment = decode(path, reader)
    assert (segment.width_px, segment.height_px, *box(segment)) == pytest.approx(expected, abs=1)


def test_decode_portrait_source_keeps_its_shape(tmp_path, reader):
    path = make_clip(tmp_path / "a.mp4", duration_s=1, video=f"{BOX},transpose=clock", audio=SOUND)
    segment = decode(path, reader)
    assert (segment.width_px, segment.height_px) == (128, 256)
    assert box(segment) == pytest.approx((64, 95, 16, 47), abs=1)


def comb(segment: Segment) -> float:
    """How much more rows differ from the next row than from the one after it; combing makes it large."""
    luma_NHW = segment.luma_NHW.astype(float)
    near, far = (np.abs(luma_NHW[:, step:] - luma_NHW[:, :-step]).mean() for step in (1, 2))
    return float(near - far)


MOVING_BAR = (
    "color=black:size=256x128:rate=50[b];color=white:size=32x128:rate=50[w];[b][w]overlay=x='mod(200*t,256)'"
)


@pytest.mark.parametrize("tool", ["libx264", "mpeg2video"])
def test_decode_interlaced_source_has_no_combs(tmp_path, reader, tool):
    path = make_clip(
        tmp_path / "a.mkv",
        duration_s=1,
        video=f"{MOVING_BAR},tinterlace=interleave_top,fieldorder=tff",
        audio=SOUND,
        options=("-c:v", tool, "-q:v", "2", "-flags", "+ildct+ilme"),
    )
    assert reader.probe(path).is_interlaced
    assert comb(decode(path, reader)) < 1


def test_decode_progressive_source_is_not_touched_by_the_deinterlacer(tmp_path, reader):
    """Lines of one pixel, which a deinterlacer would blur, stay."""
    path = make_clip(
        tmp_path / "a.mp4",
        duration_s=1,
        video="color=black:size=256x128:rate=24,drawgrid=w=0:h=2:t=1:c=white",
        audio=SOUND,
    )
    segment = decode(path, reader)
    assert not reader.probe(path).is_interlaced
    assert comb(segment) > 100


def pq_signal(nits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inverse EOTF. Source: SMPTE ST 2084, equation 5.2."""
    y = (nits / 10_000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375


def hlg_signal(nits: NDArray[np.float64]) -> NDArray[np.float64]:
    """OETF after the inverse OOTF of a 1000 nit display. Source: ITU-R BT.2100-2, table 5."""
    luminance = nits @ BT2020_LUMA / 1000
    scene = nits / 1000 / luminance[:, None] ** (0.2 / 1.2)
    upper = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), upper)


def make_hdr(path: Path, transfer: str, options: tuple[str, ...] = ()) -> Path:
    """The patches at reference white, ten bits of BT.2020."""
    nits = WHITE_NITS * (PATCHES / 255) ** 2.4 @ BT2020_FROM_BT709.T
    signal = {"smpte2084": pq_signal, "arib-std-b67": hlg_signal}[transfer](nits)
    luma = signal @ BT2020_LUMA
    planes = (
        876 * luma + 64,
        896 * (signal[:, 2] - luma) / 1.8814 + 512,
        896 * (signal[:, 0] - luma) / 1.4746 + 512,
    )
    picture = b"".join(
        np.tile(np.repeat(np.rint(plane), width), (height, 1)).astype("<u2").tobytes()
        for plane, width, height in zip(planes, (64, 32, 32), (128, 64, 64), strict=True)
    )
    raw = path.with_suffix(".yuv")
    raw.write_bytes(picture * 24)
    ffmpeg(
        "-f", "rawvideo", "-pix_fmt", "yuv420p10le", "-s", "512x128", "-r", "24",
        "-color_range", "tv", "-color_trc", transfer, *options, "-i", raw, "-f", "lavfi", "-i", SOUND, "-t", "1",
        "-c:v", "libx264", "-preset", "veryfast", "-crf", "8", "-c:a", "aac", path,
    )  # fmt: skip
    return path


BT2020 = ("-color_primaries", "bt2020", "-colorspace", "bt2020nc")


@pytest.mark.parametrize(
    ("transfer", "tags"), [("smpte2084", BT2020), ("smpte2084", ()), ("arib-std-b67", BT2020)]
)
def test_decode_hdr_source_is_tone_mapped(tmp_path, reader, transfer, tags):
    """Colours up to mid grey are kept, brighter ones come nearer to white's 217, which leaves room for lights."""
    path = make_hdr(tmp_path / "a.mp4", transfer, tags)
    assert reader.probe(path).is_hdr
    segment = decode(path, reader)
    expected = np.minimum(PATCHES, 217)
    greys = colours(segment)[:3]
    np.testing.assert_allclose(greys, expected[:3], atol=4)
    np.testing.assert_allclose(colours(segment), expected, atol=15)
