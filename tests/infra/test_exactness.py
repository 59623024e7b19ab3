"""What is seen and what is heard at one instant of a decoded span belong to one instant of the source.

The clips tell their own time: frame n shows the bits of n, and the sound is noise in which every place is
like no other. A picture may be half a source frame away from its instant, for there is none between; that is
the tolerance, plus `JITTER_S`. The sound is found to a sample.
"""

import io
import tarfile
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from infra.media.reader import MediaReader, ReadPlan
from tests.media import SPEECH, ffmpeg, make_clip, make_clock_clip, shown_numbers, sound_start_s
from tests.pipeline.test_curate_source import curate
from tests.segments import Segment, read_segment

PLAN = ReadPlan(frame_rate_fps=Fraction(8), short_side_px=72, window_frames=1000)
DURATION_S = 4.0
JITTER_S = 0.002
"""Time stamps of matroska are whole milliseconds; coders of sound are not exact to a sample."""
FILM, PAL, NTSC = Fraction(24_000, 1001), Fraction(25), Fraction(30_000, 1001)
B_FRAMES = ("-bf", "3", "-g", "12")


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    return make_clock_clip(
        tmp_path_factory.mktemp("film") / "a.mp4", rate_fps=FILM, duration_s=DURATION_S, options=B_FRAMES
    )


def decode(path: Path, reader: MediaReader, *, start_s: float = 0.0, end_s: float = float("inf")) -> Segment:
    return read_segment(reader, path, replace(PLAN, start_s=start_s, end_s=end_s))


def picture_lead_s(segment: Segment, rate_fps: Fraction, duration_s: float = DURATION_S) -> np.ndarray:
    """How much later in the source each picture is than the sound it comes with, second by second."""
    numbers_N = shown_numbers(segment.luma_NHW)
    heard_s_N = np.concatenate(
        [
            sound_start_s(segment.output_S[2000 * first :][:16_000], duration_s)
            + np.arange(min(8, segment.num_frames - first)) / 8
            for first in range(0, segment.num_frames, 8)
        ]
    )
    return numbers_N / float(rate_fps) - heard_s_N


def assert_in_step(segment: Segment, rate_fps: Fraction, duration_s: float = DURATION_S) -> None:
    assert len(segment.output_S) == segment.num_frames * 2000 > 0
    lead_s_N = picture_lead_s(segment, rate_fps, duration_s)
    assert np.abs(lead_s_N).max() <= 0.5 / rate_fps + JITTER_S


@pytest.mark.parametrize(
    "rate_fps", [FILM, Fraction(24), PAL, NTSC, Fraction(50), Fraction(60_000, 1001)], ids=str
)
def test_decode_source_rate_any_shows_the_nearest_frame_of_every_instant(tmp_path, reader, rate_fps):
    path = make_clock_clip(tmp_path / "a.mp4", rate_fps=rate_fps, duration_s=DURATION_S, options=("-bf", "3"))
    segment = decode(path, reader)
    assert (segment.num_frames, sound_start_s(segment.output_S, DURATION_S)) == (32, 0)
    assert_in_step(segment, rate_fps)


@pytest.mark.parametrize("start_s", [0.001, 0.333, 0.5, 1.0001, 1.7777, 2.49, 2.8])
def test_decode_span_cut_anywhere_starts_where_it_says(film, reader, start_s):
    segment = decode(film, reader, start_s=start_s, end_s=start_s + 1.1)
    assert segment.num_frames == 8
    assert sound_start_s(segment.output_S, DURATION_S) == pytest.approx(start_s, abs=0.001)
    assert_in_step(segment, FILM)


CONTAINERS = {
    "mpegts": ("a.ts", ()),
    "mpegts with one key frame": ("a.ts", ("-g", "1000", "-keyint_min", "1000", "-sc_threshold", "0")),
    "mpegts that starts late": ("a.ts", ("-output_ts_offset", "3.3")),
    "mpeg program stream": ("a.mpg", ("-c:v", "mpeg2video", "-q:v", "2", "-c:a", "mp2")),
    "matroska that starts late": ("a.mkv", (*B_FRAMES, "-output_ts_offset", "7.3")),
    "mp4 that starts late": ("a.mp4", (*B_FRAMES, "-output_ts_offset", "2.5")),
    "mp4 in fragments": ("a.mp4", (*B_FRAMES, "-movflags", "+frag_keyframe+empty_moov")),
    "flv": ("a.flv", ("-ar", "44100")),
    "webm": (
        "a.webm",
        ("-c:v", "libvpx", "-b:v", "1M", "-cpu-used", "8", "-deadline", "realtime", "-c:a", "libopus"),
    ),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_decode_span_of_any_container_is_in_step(tmp_path, reader, name):
    file_name, options = CONTAINERS[name]
    path = make_clock_clip(tmp_path / file_name, rate_fps=PAL, duration_s=DURATION_S, options=options)
    for start_s in (0.25, 2.01):
        segment = decode(path, reader, start_s=start_s, end_s=start_s + 1.5)
        assert segment.num_frames == 12
        # The container's zero is that of its earliest packet, which coders' delays put before ours.
        assert sound_start_s(segment.output_S, DURATION_S) == pytest.approx(start_s, abs=0.1)
        assert_in_step(segment, PAL)


def test_decode_span_far_into_mpegts_is_in_step(tmp_path, reader):
    """Beyond what is read ahead of a span in a file that has no index."""
    path = make_clock_clip(tmp_path / "a.ts", rate_fps=PAL, duration_s=40, options=("-g", "250"))
    segment = decode(path, reader, start_s=37.3, end_s=38.5)
    assert_in_step(segment, PAL, 40)


@pytest.mark.parametrize("start_s", [0.0, 0.6])
def test_decode_edit_list_that_hides_a_beginning_is_in_step(film, tmp_path, reader, start_s):
    """A copy that starts within a group of pictures: an edit list says what is not to be shown."""
    ffmpeg("-ss", "1.37", "-i", film, "-c", "copy", tmp_path / "cut.mp4")
    segment = decode(tmp_path / "cut.mp4", reader, start_s=start_s)
    assert sound_start_s(segment.output_S, DURATION_S) == pytest.approx(1.37 + start_s, abs=0.04)
    assert_in_step(segment, FILM)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_decode_sound_that_starts_late_comes_after_silence(film, tmp_path, reader, suffix):
    path = tmp_path / f"late.{suffix}"
    ffmpeg("-i", film, "-ss", "0.9", "-i", film, "-map", "0:v", "-map", "1:a", "-c:v", "copy",
           "-af", "asetpts=PTS+0.9/TB", "-c:a", "aac", path)  # fmt: skip
    segment = decode(path, reader)
    assert np.abs(segment.output_S[: 16_000 * 8 // 10]).max() <= 100
    later = replace(segment, i420_NB=segment.i420_NB[8:], output_S=segment.output_S[16_000:])
    assert_in_step(later, FILM)


def test_decode_sound_with_a_missing_packet_stays_in_step(tmp_path, reader):
    """Three fiftieths of a second are lost; what follows is not early by them."""
    path = make_clock_clip(
        tmp_path / "a.mkv",
        rate_fps=PAL,
        duration_s=DURATION_S,
        options=("-c:a", "pcm_s16le", "-af", "asetnsamples=320,aselect='not(between(t,0.49,0.549))'"),
    )
    assert_in_step(decode(path, reader), PAL)


def test_decode_variable_rate_shows_the_frame_on_display(tmp_path, reader):
    """Five frames of seven are missing here and there; the last one before them is held."""
    path = make_clock_clip(
        tmp_path / "a.mp4",
        rate_fps=Fraction(50),
        duration_s=DURATION_S,
        options=("-vf", "select='lt(mod(n,7),2)+lt(mod(n,50),20)',format=yuv420p", "-fps_mode", "vfr"),
    )
    segment = decode(path, reader)
    lead_s_N = picture_lead_s(segment, Fraction(50))
    assert segment.num_frames == 32
    assert (lead_s_N >= -5 / 50 - JITTER_S).all() and (lead_s_N <= 0.5 / 25 + JITTER_S).all()


@pytest.mark.parametrize(
    ("name", "rate", "start_s", "options"),
    [("a.mp4", "24000/1001", 0.337, B_FRAMES), ("a.ts", "60000/1001", 1.7, ("-output_ts_offset", "5"))],
)
def test_curate_source_flash_and_beep_are_together_in_the_written_sample(
    tmp_path, reader, name, rate, start_s, options
):
    """A flash of one output frame around second 1 of the span, and a beep that starts there."""
    zero_s = start_s + 1
    flash = f"drawbox=color=white:t=fill:enable='between(t,{zero_s - 0.0625},{zero_s + 0.0625})'"
    beep = f"0.9*sin(2*PI*3000*t)*between(t,{zero_s},{zero_s + 0.125})"
    path = make_clip(
        tmp_path / name,
        duration_s=6.2,
        video=f"testsrc2=size=480x480:rate={rate},{flash}",
        audio=SPEECH.replace("exprs='", f"exprs='{beep}+"),
        options=(*options, "-c:a", "ac3"),
    )
    outcome = curate(path, tmp_path / "root", reader, span_start_s=start_s, span_end_s=start_s + 4)[
        -1
    ].outcome
    with tarfile.open(tmp_path / "root" / outcome.curated.staged[0].bundle_key) as bundle:
        mp4, flac = (bundle.extractfile(member).read() for member in bundle.getmembers()[:2])
    with av.open(io.BytesIO(mp4)) as video:
        brightness_N = [frame.to_ndarray(format="gray").mean() for frame in video.decode(video=0)]
    with av.open(io.BytesIO(flac)) as sound:
        mono_S = np.concatenate([frame.to_ndarray()[0] for frame in sound.decode(audio=0)])
    beep_S = np.abs(np.convolve(mono_S, np.exp(2j * np.pi * 3000 / 16_000 * np.arange(32)), "valid"))
    beep_start_s = (np.flatnonzero(beep_S > beep_S.max() / 2)[0] + 16) / 16_000
    assert np.flatnonzero(np.array(brightness_N) > 200).tolist() == [8]
    assert beep_start_s == pytest.approx(1.0, abs=0.010)
    assert len(brightness_N) / 8 == len(mono_S) / 16_000 == 4
