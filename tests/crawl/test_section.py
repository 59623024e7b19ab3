"""A section decodes to what its span of the whole file decodes to, costs little of it, or is not made at all."""

import itertools
import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawl.formats import Stream
from crawl.section import (
    ReadSpan,
    Section,
    SectionLimits,
    WholeNeeded,
    cut,
    fetch_section,
    merge,
    sections_of,
)
from infra.media.reader import MediaReader, ReadPlan
from tests.crawl.web import Site
from tests.crawl.web_client import failure, http_client
from tests.media import CORPUS, ffmpeg, needs_corpus
from tests.segments import Segment, read_segment

LIMITS = SectionLimits(timeout_s=60, stall_s=20)
PLAN = ReadPlan(frame_rate_fps=Fraction(25), short_side_px=48, window_frames=1000)
DURATION_S = 10
SPANS = [(0.4, 2.0), (6.31, 9.0)]


def bytes_of(path: Path) -> ReadSpan:
    whole = path.read_bytes()
    return lambda first, last: (whole[first : last + 1], len(whole))


def section_of(paths: list[Path], span: tuple[float, float], out: Path) -> Section:
    section = cut([bytes_of(path) for path in paths], start_s=span[0], end_s=span[1], out=out, limits=LIMITS)
    assert isinstance(section, Section), section
    return section


def decode(path: Path, reader: MediaReader, start_s: float, end_s: float) -> Segment:
    return read_segment(reader, path, replace(PLAN, start_s=start_s, end_s=end_s))


def assert_same(whole: Path, section: Section, span: tuple[float, float], reader: MediaReader) -> None:
    """The frames and samples of the span, and of its last third by itself, are those of the whole file."""
    assert section.start_s <= span[0]
    assert section.end_s >= span[1] - 0.1
    for start_s in (span[0], span[0] + (span[1] - span[0]) * 2 / 3):
        expected = decode(whole, reader, start_s, span[1])
        found = decode(section.path, reader, start_s - section.start_s, span[1] - section.start_s)
        assert expected.num_frames > 10
        assert np.array_equal(found.i420_NB, expected.i420_NB)
        assert np.array_equal(found.native_CT, expected.native_CT)


# ---- which sections ----

times = st.integers(0, 400).map(lambda tenth: tenth / 10)
spans = st.lists(st.tuples(times, times).filter(lambda span: span[0] < span[1]), max_size=12)
gaps = st.integers(0, 100).map(lambda tenth: tenth / 10)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ([], ()),
        ([(3.0, 5.0)], ((3.0, 5.0),)),
        ([(10.0, 20.0), (0.0, 8.0)], ((0.0, 20.0),)),
        ([(10.0, 20.0), (0.0, 7.9)], ((0.0, 7.9), (10.0, 20.0))),
        ([(0.0, 9.0), (1.0, 2.0)], ((0.0, 9.0),)),
        ([(0.0, math.inf), (50.0, 60.0)], ((0.0, math.inf),)),
    ],
)
def test_sections_of_spans_two_seconds_apart_are_one(wanted, expected):
    assert sections_of(wanted, 2.0) == expected


@given(spans=spans, gap_s=gaps)
def test_sections_of_any_spans_hold_each_and_lie_apart(spans, gap_s):
    sections = sections_of(spans, gap_s)
    for start_s, end_s in spans:
        assert sum(first_s <= start_s and end_s <= last_s for first_s, last_s in sections) == 1
    for before, after in itertools.pairwise(sections):
        assert after[0] - before[1] > gap_s
    assert {edge for section in sections for edge in section} <= {edge for span in spans for edge in span}


@given(spans=spans, gap_s=gaps, data=st.data())
def test_sections_of_sections_or_of_another_order_are_the_same(spans, gap_s, data):
    sections = sections_of(spans, gap_s)
    assert sections_of(sections, gap_s) == sections
    assert sections_of(data.draw(st.permutations(spans)), gap_s) == sections


# ---- exactly the same ----


def picture(rate: str = "25") -> tuple[str, ...]:
    return ("-f", "lavfi", "-i", f"testsrc2=size=96x64:rate={rate}")


def sound(rate_hz: int = 44_100) -> tuple[str, ...]:
    return ("-f", "lavfi", "-i", f"anoisesrc=r={rate_hz}:seed=3:a=0.3")


X264 = ("-c:v", "libx264", "-preset", "ultrafast", "-bf", "3", "-g", "50", "-pix_fmt", "yuv420p")
OPEN = ("-x264-params", "open-gop=1:bframes=3:b-pyramid=2:keyint=50:scenecut=0")
X265 = (
    "-c:v",
    "libx265",
    "-preset",
    "ultrafast",
    "-x265-params",
    "keyint=50:open-gop=1:bframes=4:log-level=0",
)
VP9 = ("-c:v", "libvpx-vp9", "-cpu-used", "8", "-deadline", "realtime", "-g", "60")
AAC, OPUS = ("-c:a", "aac"), ("-c:a", "libopus")
DASH = ("-movflags", "+frag_keyframe+empty_moov+default_base_moof+global_sidx")

KINDS = {
    "index first": ("a.mp4", (*picture(), *sound(), *X264, *AAC, "-movflags", "+faststart")),
    "index last": ("a.mp4", (*picture("30000/1001"), *sound(48_000), *X264, *AAC)),
    "fragments with sidx": ("a.mp4", (*picture(), *sound(), *X264, *AAC, *DASH)),
    "starts late": ("a.mp4", (*picture(), *sound(), *X264, *AAC, "-output_ts_offset", "2.5")),
    "open groups": ("a.mp4", (*picture(), *sound(), *X264, *OPEN, *AAC)),
    "hevc, mp3": ("a.mp4", (*picture(), *sound(), *X265, "-c:a", "libmp3lame")),
    "quicktime, pcm": ("a.mov", (*picture(), *sound(), *X264, "-c:a", "pcm_s16be")),
    "matroska": ("a.mkv", (*picture("24000/1001"), *sound(), *X264, *AAC)),
    "matroska starts late": ("a.mkv", (*picture(), *sound(), *X264, *AAC, "-output_ts_offset", "7.3")),
    "matroska, vorbis": ("a.mkv", (*picture(), *sound(), *X264, "-c:a", "libvorbis")),
    "matroska, flac": ("a.mkv", (*picture(), *sound(), *X264, "-c:a", "flac")),
    "webm": ("a.webm", (*picture(), *sound(48_000), *VP9, *OPUS)),
    "mpegts": ("a.ts", (*picture(), *sound(48_000), *X264, *AAC)),
}


@pytest.mark.parametrize("name", KINDS)
def test_cut_any_container_decodes_to_the_same(tmp_path, reader, name):
    file_name, options = KINDS[name]
    path = tmp_path / file_name
    ffmpeg(*options, "-t", str(DURATION_S), path)
    for span in SPANS:
        assert_same(path, section_of([path], span, tmp_path / "section"), span, reader)


def test_cut_edit_list_that_hides_a_beginning_decodes_to_the_same(tmp_path, reader):
    """Its sound is cut within a packet, so the copy is entered a packet later, which a plain AAC does not mind."""
    options = (*AAC, "-aac_pns", "0", "-t", str(DURATION_S))
    ffmpeg(*picture(), *sound(), *X264, *options, tmp_path / "a.mp4")
    path = tmp_path / "edited.mp4"
    ffmpeg("-ss", "1.37", "-i", tmp_path / "a.mp4", "-c", "copy", path)
    for span in [(0.0, 2.0), (0.6, 2.0), (6.31, 8.5)]:
        assert_same(path, section_of([path], span, tmp_path / "section"), span, reader)


PAIRS = {
    "mp4 and mp4": (("v.mp4", (*X264, *DASH)), ("a.m4a", (*sound(), *AAC, "-f", "mp4", *DASH)), ".mp4"),
    "webm and webm": (("v.webm", VP9), ("a.webm", (*sound(48_000), *OPUS)), ".mkv"),
    "mp4 and webm": (("v.mp4", (*X264, *DASH)), ("a.webm", (*sound(48_000), *OPUS)), ".mkv"),
    "webm and mp4": (("v.webm", VP9), ("a.m4a", (*sound(), *AAC, "-f", "mp4", *DASH)), ".mkv"),
}


@pytest.mark.parametrize("name", PAIRS)
def test_cut_two_files_decodes_to_the_same_as_merged(tmp_path, reader, name):
    (video_name, video), (audio_name, audio), suffix = PAIRS[name]
    paths = [tmp_path / video_name, tmp_path / audio_name]
    ffmpeg(*picture("30000/1001"), *video, "-t", str(DURATION_S), paths[0])
    ffmpeg(*audio, "-t", str(DURATION_S), paths[1])
    whole = merge(paths, out=tmp_path / "whole", limits=LIMITS)
    assert (whole.name, reader.probe(whole).has_audio) == (f"whole{suffix}", True)
    for span in SPANS:
        section = section_of(paths, span, tmp_path / "section")
        assert section.path.suffix == suffix
        assert_same(whole, section, span, reader)


@needs_corpus
@pytest.mark.parametrize(
    ("name", "span"),
    [
        ("screen_1080p_2min.mp4", (61.234, 66.0)),
        ("pancake_240p_opus.mkv", (7.1, 10.0)),
        ("portrait_480x640.mp4", (16.0, 23.1)),
        ("nasa_180p_8khz.mp4", (7.0, 13.0)),
        ("lecture_360p.mp4", (6.3, 12.0)),
    ],
)
def test_cut_real_files_decodes_to_the_same(tmp_path, reader, name, span):
    assert_same(CORPUS / name, section_of([CORPUS / name], span, tmp_path / "section"), span, reader)


@needs_corpus
def test_cut_ten_seconds_of_two_minutes_moves_less_than_a_fifth(tmp_path):
    """Golden: 720,896 of 4,090,211 bytes in 4 requests, 2026-11-23."""
    path = CORPUS / "screen_1080p_2min.mp4"
    section = section_of([path], (30.0, 40.0), tmp_path / "section")
    assert (section.num_bytes_read, section.num_requests) == (720_896, 4)
    assert section.path.stat().st_size < path.stat().st_size / 8


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    large = ("-s", "320x240", "-movflags", "+faststart")
    ffmpeg(*picture(), *sound(), *X264, *AAC, *large, "-t", str(DURATION_S), path)
    return path


def test_cut_twice_gives_the_same_bytes(clip, tmp_path):
    first, again = (section_of([clip], (6.3, 9.0), tmp_path / name) for name in ("first", "again"))
    assert first.path.read_bytes() == again.path.read_bytes()
    other = section_of([clip], (6.3, 9.5), tmp_path / "other")
    assert other.path.read_bytes() != first.path.read_bytes()


def test_merge_twice_gives_the_same_bytes(clip, tmp_path):
    first, again = (merge([clip, clip], out=tmp_path / name, limits=LIMITS) for name in ("first", "again"))
    assert first.read_bytes() == again.read_bytes()


def test_cut_small_file_takes_two_requests(clip, tmp_path):
    section = section_of([clip], (6.3, 9.0), tmp_path / "section")
    assert (section.num_requests, section.num_bytes_read) == (2, clip.stat().st_size)


# ---- over HTTP ----


def stream(url: str, protocol: str = "http") -> Stream:
    return Stream(
        url=url, protocol=protocol, ext="mp4", format_id="0", http_headers={}, has_video=True, has_audio=True
    )


def test_fetch_section_from_a_server_is_that_of_the_file(site: Site, clip, tmp_path):
    (site.folder / "long.mp4").write_bytes(clip.read_bytes())
    with http_client() as http:
        streams = [stream(site.url("/long.mp4"))]
        fetched = fetch_section(
            streams, start_s=6.3, end_s=9.0, http=http, out=tmp_path / "fetched", limits=LIMITS
        )
    assert isinstance(fetched, Section)
    asked = [request.headers["range"] for request in site.asked("/long.mp4")]
    assert asked[0] == "bytes=0-262143"
    assert len(asked) == fetched.num_requests == 2
    assert fetched.path.read_bytes() == section_of([clip], (6.3, 9.0), tmp_path / "cut").path.read_bytes()


@pytest.mark.parametrize(
    ("path", "protocol"), [("/~ranges=no/long.mp4", "http"), ("/long.mp4", "m3u8_native")]
)
def test_fetch_section_that_cannot_be_had_in_parts_says_so(site: Site, clip, tmp_path, path, protocol):
    (site.folder / "long.mp4").write_bytes(clip.read_bytes())
    with http_client() as http:
        streams = [stream(site.url(path), protocol)]
        outcome = fetch_section(streams, start_s=6.3, end_s=9.0, http=http, out=tmp_path / "a", limits=LIMITS)
    assert isinstance(outcome, WholeNeeded)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "code"),
    [("/none.mp4", "gone"), ("/status/429", "rate_limited"), ("/~lie=short/long.mp4", "network")],
)
def test_fetch_section_that_the_server_denies_is_its_error(site: Site, clip, tmp_path, path, code):
    (site.folder / "long.mp4").write_bytes(clip.read_bytes())
    with http_client() as http, failure(code):
        streams = [stream(site.url(path))]
        fetch_section(streams, start_s=6.3, end_s=9.0, http=http, out=tmp_path / "a", limits=LIMITS)
    assert list(tmp_path.iterdir()) == []
