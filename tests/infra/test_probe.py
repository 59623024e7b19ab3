"""The header by the reading child, and one file lost for whatever a file does to it."""

import os
import signal
import threading
from fractions import Fraction
from pathlib import Path, PosixPath

import pytest

from infra.errors import ChildKilled, MediaTimeout, MediaTooLarge, MissingStream, Undecodable
from infra.media.reader import MediaReader, ReadLimits
from tests.media import ffmpeg, make_clip


def die_saying(pid: int, message: bytes) -> None:
    """Let the process write `message` to its stderr and crash."""
    with Path(f"/proc/{pid}/fd/2").open("ab", buffering=0) as stderr:
        stderr.write(message)
    os.kill(pid, signal.SIGSEGV)


class FatalPath(PosixPath):
    """Kills the child of `reader` at the moment when the path is written down for it, `num_kills` times."""

    reader: MediaReader
    num_kills: int

    def __str__(self) -> str:
        if self.num_kills:
            self.num_kills -= 1
            pid = self.reader._child._process.pid
            os.kill(pid, signal.SIGKILL)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        return super().__str__()


def test_probe_landscape_clip_states_header(tmp_path, reader):
    probe = reader.probe(make_clip(tmp_path / "a.mp4", duration_s=2))
    assert (probe.width_px, probe.height_px, probe.frame_rate_fps) == (640, 480, Fraction(25))
    assert (probe.sample_rate_hz, probe.num_audio_channels, probe.audio_codec) == (48_000, 1, "aac")
    assert probe.duration_s == pytest.approx(2.0, abs=0.1)


def test_probe_rotated_and_anamorphic_clips_state_display_size(tmp_path, reader):
    plain = make_clip(tmp_path / "plain.mp4", duration_s=1, video="testsrc2=size=320x240:rate=25")
    ffmpeg("-display_rotation", "90", "-i", plain, "-c", "copy", tmp_path / "rotated.mp4")
    ffmpeg("-i", plain, "-vf", "setsar=4/3", "-c:a", "copy", tmp_path / "wide.mp4")
    assert (
        reader.probe(tmp_path / "rotated.mp4").width_px,
        reader.probe(tmp_path / "rotated.mp4").height_px,
    ) == (
        240,
        320,
    )
    assert (reader.probe(tmp_path / "wide.mp4").width_px, reader.probe(tmp_path / "wide.mp4").height_px) == (
        427,
        240,
    )


def test_probe_no_audio_states_so(tmp_path, reader):
    probe = reader.probe(make_clip(tmp_path / "a.mp4", duration_s=1, audio=""))
    assert (probe.has_audio, probe.sample_rate_hz, probe.num_audio_channels) == (False, 0, 0)


@pytest.mark.parametrize("content", [b"", b"hello, this is text\n" * 100, os.urandom(5000)])
def test_probe_not_media_raises_undecodable(tmp_path, reader, content):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(Undecodable, match="header must be readable"):
        reader.probe(path)


def test_probe_audio_only_raises_missing_stream(tmp_path, reader):
    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", "-c:a", "aac", tmp_path / "a.mp4")
    with pytest.raises(MissingStream):
        reader.probe(tmp_path / "a.mp4")


def test_probe_playlist_naming_other_files_is_refused(tmp_path, reader):
    """A file called .mp4 whose content is a playlist must not make the child open what it names."""
    secret = make_clip(tmp_path / "secret.ts", duration_s=1)
    playlist = tmp_path / "a.mp4"
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{secret}\n#EXT-X-ENDLIST\n")
    with pytest.raises(Undecodable):
        reader.probe(playlist)
    concat = tmp_path / "b.mp4"
    concat.write_text(f"ffconcat version 1.0\nfile {secret}\n")
    with pytest.raises(Undecodable):
        reader.probe(concat)


def test_prober_survives_a_child_killed_by_a_file(tmp_path):
    """A fifo blocks the child; killing it costs that file and the next one is served by a new child."""
    reader = MediaReader(ReadLimits(stall_s=30))
    good = make_clip(tmp_path / "good.mp4", duration_s=1)
    reader.probe(good)
    fifo = tmp_path / "fifo.mp4"
    os.mkfifo(fifo)
    threading.Timer(1.0, die_saying, (reader._child._process.pid, b"warning\nboom\n")).start()
    with pytest.raises(Undecodable, match="ended with status -11: boom"):
        reader.probe(fifo)
    assert reader.probe(good).width_px == 640
    reader.close()


def test_prober_hanging_file_raises_media_timeout(tmp_path):
    reader = MediaReader(ReadLimits(stall_s=0.5))
    os.mkfifo(tmp_path / "fifo.mp4")
    with pytest.raises(MediaTimeout):
        reader.probe(tmp_path / "fifo.mp4")
    reader.close()


def test_probe_extreme_sample_aspect_ratio_states_a_size_or_is_too_large(tmp_path, reader):
    for name, aspect in (("narrow", "1/400"), ("wide", "400/1")):
        make_clip(tmp_path / f"{name}.mp4", duration_s=0.5, options=("-vf", f"setsar={aspect}:max=400"))
    assert (
        reader.probe(tmp_path / "narrow.mp4").width_px,
        reader.probe(tmp_path / "narrow.mp4").height_px,
    ) == (2, 480)
    with pytest.raises(MediaTooLarge, match="65535 px a side, got 256000 x 480"):
        reader.probe(tmp_path / "wide.mp4")


def test_prober_child_killed_while_it_waits_costs_no_file(tmp_path, reader):
    good = make_clip(tmp_path / "good.mp4", duration_s=0.5)
    reader.probe(good)
    os.kill(reader._child._process.pid, signal.SIGKILL)
    assert reader.probe(good).width_px == 640


@pytest.mark.parametrize("num_kills", [1, 2])
def test_prober_child_killed_just_before_it_is_asked_is_replaced_once(tmp_path, num_kills):
    reader = MediaReader()
    path = FatalPath(make_clip(tmp_path / "good.mp4", duration_s=0.5))
    path.reader, path.num_kills = reader, num_kills
    if num_kills == 1:
        assert reader.probe(path).width_px == 640
    else:
        with pytest.raises(ChildKilled):
            reader.probe(path)
    assert path.num_kills == 0
    assert reader.probe(path).width_px == 640
    reader.close()


def test_prober_chatty_child_is_not_blocked(tmp_path, reader):
    """A pipe would take 64 KiB of what nobody reads."""
    good = make_clip(tmp_path / "good.mp4", duration_s=0.5)
    reader.probe(good)
    fd = os.open(f"/proc/{reader._child._process.pid}/fd/2", os.O_WRONLY | os.O_NONBLOCK)
    try:
        assert os.write(fd, b"warning\n" * 40_000) == 320_000
    finally:
        os.close(fd)
    assert reader.probe(good).width_px == 640
