"""What is no section: the whole is needed, the video is bad, or it takes too long. Nothing is left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from crawl.section import ReadSpan, SectionLimits, WholeNeeded, cut, merge
from tests.crawl.test_section import (
    AAC,
    DURATION_S,
    LIMITS,
    X264,
    assert_same,
    bytes_of,
    picture,
    section_of,
    sound,
)
from tests.crawl.web_client import failure
from tests.media import CORPUS, ffmpeg, needs_corpus


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    large = ("-s", "320x240", "-movflags", "+faststart")
    ffmpeg(*picture(), *sound(), *X264, *AAC, *large, "-t", str(DURATION_S), path)
    return path


def outcome_of(read: ReadSpan, out: Path, *, start_s: float = 6.3, limits: SectionLimits = LIMITS) -> object:
    try:
        return cut([read], start_s=start_s, end_s=start_s + 3, out=out, limits=limits)
    finally:
        assert list(out.parent.glob(out.name)) == []
        assert children() == []


def children() -> list[int]:
    """Processes that this thread has started."""
    text = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text()
    return [
        pid for pid in map(int, text.split()) if b"section_child" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


@needs_corpus
def test_cut_picture_that_needs_the_first_packet_needs_the_whole(tmp_path):
    """4:4:4 by an old x264: its first packet names it, and decoders then make the mistake that it made."""
    outcome = outcome_of(bytes_of(CORPUS / "cockatoo_720p_20fps.mp4"), tmp_path / "section", start_s=6.5)
    assert isinstance(outcome, WholeNeeded)
    assert "key frame" in outcome.reason


def test_cut_file_without_index_needs_the_whole(tmp_path):
    """Matroska that was written to a pipe; its sound is made so that it is too long to be searched."""
    path = tmp_path / "a.mkv"
    options = ("-ac", "2", "-c:a", "pcm_f32le", "-live", "1")
    ffmpeg(*picture(), *sound(48_000), *X264, *options, "-t", "25", path)
    outcome = outcome_of(bytes_of(path), tmp_path / "section", start_s=20)
    assert isinstance(outcome, WholeNeeded)
    assert 0 < outcome.num_bytes_read < path.stat().st_size * 0.6


def test_cut_container_that_is_not_searched_needs_the_whole(clip, tmp_path):
    ffmpeg("-i", clip, "-c:v", "copy", "-c:a", "libmp3lame", tmp_path / "a.avi")
    assert isinstance(outcome_of(bytes_of(tmp_path / "a.avi"), tmp_path / "section"), WholeNeeded)


def test_cut_far_into_mpegts_needs_the_whole(clip, tmp_path):
    """Up to half a minute the reader starts at its beginning, and so does a section."""
    ffmpeg("-stream_loop", "4", "-i", clip, "-c", "copy", tmp_path / "a.ts")
    outcome = outcome_of(bytes_of(tmp_path / "a.ts"), tmp_path / "section", start_s=27.1)
    assert isinstance(outcome, WholeNeeded)
    assert outcome.num_bytes_read < (tmp_path / "a.ts").stat().st_size


def test_cut_span_after_the_end_is_too_short(clip, tmp_path):
    with failure("too_short", "10.0"):
        outcome_of(bytes_of(clip), tmp_path / "section", start_s=10.2)


def test_cut_span_over_the_end_stops_there(clip, tmp_path, reader):
    section = section_of([clip], (8.0, 30.0), tmp_path / "section")
    assert section.end_s == pytest.approx(DURATION_S, abs=0.05)
    assert_same(clip, section, (8.0, section.end_s), reader)


def test_cut_file_that_ends_before_its_header_says_is_truncated(clip, tmp_path):
    (tmp_path / "a.mp4").write_bytes(clip.read_bytes()[: clip.stat().st_size * 2 // 3])
    with failure("truncated"):
        outcome_of(bytes_of(tmp_path / "a.mp4"), tmp_path / "section", start_s=6)
    with failure("truncated"):
        outcome_of(bytes_of(tmp_path / "a.mp4"), tmp_path / "section", start_s=9)
    with failure("truncated"):
        merge([tmp_path / "a.mp4"], out=tmp_path / "merged", limits=LIMITS)


def test_cut_what_is_no_media_is_undecodable(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"<!DOCTYPE html>" + bytes(range(256)) * 900)
    with failure("undecodable"):
        outcome_of(bytes_of(tmp_path / "a.mp4"), tmp_path / "section")


def test_cut_sound_alone_is_a_missing_stream(tmp_path):
    ffmpeg(*sound(), *AAC, "-t", "2", tmp_path / "a.m4a")
    with failure("missing_stream"):
        outcome_of(bytes_of(tmp_path / "a.m4a"), tmp_path / "section")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda found, total, first: (found[:-1], total), "were asked for"),
        (lambda found, total, first: (found, total + first), "keep its length"),
    ],
)
def test_cut_server_that_contradicts_itself_is_a_network_failure(clip, tmp_path, spoil, words):
    read = bytes_of(clip)
    with failure("network", words):
        outcome_of(lambda first, last: spoil(*read(first, last), first), tmp_path / "section")


def signalled(read: ReadSpan, number: int) -> Callable[[int, int], tuple[bytes, int]]:
    """Sends a signal to the child that asks for more than the first bytes."""

    def spoiled(first: int, last: int) -> tuple[bytes, int]:
        if first:
            os.kill(children()[0], number)
        return read(first, last)

    return spoiled


def test_cut_child_that_stops_is_ended_after_a_while(clip, tmp_path):
    with failure("media_timeout", "0.5 s"):
        limits = replace(LIMITS, stall_s=0.5)
        outcome_of(signalled(bytes_of(clip), signal.SIGSTOP), tmp_path / "section", limits=limits)


def test_cut_child_that_is_killed_costs_nothing_but_time(clip, tmp_path):
    with failure("child_killed"):
        outcome_of(signalled(bytes_of(clip), signal.SIGKILL), tmp_path / "section")


def test_cut_over_its_limits_is_refused(clip, tmp_path):
    read, out = bytes_of(clip), tmp_path / "section"
    with failure("too_large", "300000"):
        outcome_of(read, out, limits=replace(LIMITS, max_bytes=300_000))
    with failure("timeout", "0.2 s"):
        outcome_of(
            lambda first, last: (time.sleep(0.3), read(first, last))[1],
            out,
            limits=replace(LIMITS, timeout_s=0.2, stall_s=0.2),
        )
    with failure("media_too_large"):
        outcome_of(read, out, limits=replace(LIMITS, memory_mib=64))


PARENT = """
import sys, time
from pathlib import Path
from crawl.section import SectionLimits, cut
def read(first, last):
    print("asked", flush=True)
    time.sleep(60)
cut([read], start_s=0, end_s=1, out=Path(sys.argv[1]), limits=SectionLimits())
"""


def test_cut_parent_that_is_killed_takes_its_child_along(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "a")], stdout=subprocess.PIPE, cwd=Path.cwd()
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"asked\n"
        (child,) = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        parent.kill()
    deadline_s = time.monotonic() + 20
    while Path(f"/proc/{child}/exe").exists() and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert not Path(f"/proc/{child}/exe").exists()


def test_cut_onto_a_full_disk_is_that(clip, tmp_path):
    (tmp_path / "section").symlink_to("/dev/full")
    with failure("disk_full"):
        outcome_of(bytes_of(clip), tmp_path / "section")
    assert Path("/dev/full").exists()
