"""The reading child: one clock for frames and samples, and an end for everything hostile."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import psutil
import pytest

from infra.errors import ChildKilled, MediaTimeout, MediaTooLarge, Undecodable
from infra.media.reader import MediaReader, ReadLimits, ReadPlan
from tests.media import CORPUS, ffmpeg, make_clip, make_clock_clip, needs_corpus, shown_numbers
from tests.segments import Segment, read_segments

PLAN = ReadPlan(frame_rate_fps=Fraction(8), short_side_px=64, window_frames=1000)
LARGE = replace(PLAN, short_side_px=256)
TIGHT = ReadLimits(stall_s=20, skew_mib=1)
TONE = "aevalsrc=exprs='0.3*sin(2*PI*300*t)':s=48000"


def read_all(path: Path, reader: MediaReader, plan: ReadPlan = PLAN, *, window: int = 1000) -> list[Segment]:
    return read_segments(reader, path, replace(plan, window_frames=window))[0]


def assert_same_segments(got: list[Segment], expected: list[Segment]) -> None:
    assert [segment.start_frame for segment in got] == [segment.start_frame for segment in expected]
    for name in ("i420_NB", "native_CT", "output_S"):
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_decode_windows_join_to_the_whole(tmp_path, reader):
    """Reading in windows of 7 frames gives the bytes of one read, at rates that do not divide by 8."""
    path = make_clip(tmp_path / "a.mp4", duration_s=3, options=("-ar", "44100"))
    (whole,) = read_all(path, reader)
    parts = read_all(path, reader, window=7)
    assert [part.start_frame for part in parts] == list(range(0, 24, 7))
    np.testing.assert_array_equal(np.concatenate([part.i420_NB for part in parts]), whole.i420_NB)
    native_CT = np.concatenate([part.native_CT for part in parts], axis=1)
    np.testing.assert_array_equal(native_CT, whole.native_CT)
    assert (whole.num_frames, whole.native_CT.shape, len(whole.output_S)) == (24, (1, 132_300), 48_000)


@pytest.mark.parametrize("delay", ["video", "audio"])
def test_decode_late_stream_is_put_on_the_common_clock(tmp_path, reader, delay):
    """A flash and a beep at second 2 stay together when one stream starts half a second late."""
    path = tmp_path / "a.mkv"
    video = "color=black:size=64x64:rate=24,drawbox=color=white:t=fill:enable='between(t,1.999,2.124)'"
    audio = "aevalsrc='0.8*sin(2*PI*1000*t)*between(t,2,2.125)':s=48000"
    late = {"video": ("setpts=PTS", "anull"), "audio": ("null", "anull")}[delay]
    cut_video = "trim=start=0.5," + late[0] if delay == "video" else "null"
    cut_audio = "atrim=start=0.5" if delay == "audio" else late[1]
    ffmpeg(
        "-f", "lavfi", "-i", video, "-f", "lavfi", "-i", audio, "-t", "4", "-vf", cut_video,
        "-af", cut_audio, "-c:v", "libx264", "-c:a", "pcm_s16le", path,
    )  # fmt: skip
    (segment,) = read_all(path, reader)
    flash_frame = int(segment.luma_NHW.mean(axis=(1, 2)).argmax())
    beep_sample = int(np.flatnonzero(np.abs(segment.output_S) > 3000)[0])
    assert flash_frame == 16
    assert beep_sample / 16_000 == pytest.approx(2.0, abs=0.005)


def test_decode_container_that_starts_late_begins_at_its_own_zero(tmp_path, reader):
    path = make_clip(tmp_path / "a.ts", duration_s=2, options=("-output_ts_offset", "100"))
    (segment,) = read_all(path, reader)
    assert segment.num_frames == 16


def test_decode_span_reads_only_that_part(tmp_path, reader):
    path = make_clip(tmp_path / "a.mp4", duration_s=4)
    (whole,) = read_all(path, reader)
    plan = replace(PLAN, start_s=1.0, end_s=3.0)
    (part,) = read_all(path, reader, plan)
    assert (part.num_frames, len(part.output_S)) == (16, 32_000)
    assert np.abs(part.luma_NHW[0].astype(int) - whole.luma_NHW[8]).mean() < 2


def test_decode_downmix_never_exceeds_full_scale(tmp_path, reader):
    path = make_clip(
        tmp_path / "a.mp4", duration_s=1, audio="aevalsrc='0.9*sin(2*PI*300*t)|0.9*sin(2*PI*300*t)':s=48000"
    )
    (segment,) = read_all(path, reader)
    assert segment.native_CT.shape[0] == 2
    assert 0.85 < np.abs(segment.output_S).max() / 32768 < 1.0


def test_decode_corrupt_body_ends_in_a_class(tmp_path, reader):
    """Noise over the middle of the file decodes with losses or is refused; it never hangs or crashes us."""
    path = make_clip(tmp_path / "a.mp4", duration_s=2, options=("-movflags", "+faststart"))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4000] = os.urandom(4000)
    path.write_bytes(content)
    try:
        segments = read_all(path, reader)
    except Undecodable:
        return
    assert sum(segment.num_frames for segment in segments) <= 17


def test_decode_stalled_child_raises_media_timeout_and_is_reaped(tmp_path):
    path = make_clip(tmp_path / "a.mp4", duration_s=20)
    with closing(MediaReader(ReadLimits(stall_s=1.0))) as reader:
        probe = reader.probe(path)
        child = reader._child._process
        with (
            pytest.raises(MediaTimeout, match="progress every"),
            reader.open(path, probe, replace(PLAN, window_frames=8)) as source,
        ):
            source.sound()
            child.send_signal(signal.SIGSTOP)
            source.pictures()
        assert child.returncode == -signal.SIGKILL


def test_decode_slow_child_that_goes_on_is_waited_for(tmp_path):
    """The limit is on silence: work that takes several times as long is reported on its way."""
    path = make_clip(tmp_path / "a.mp4", duration_s=20)
    with closing(MediaReader(ReadLimits(stall_s=1.0))) as reader:
        probe = reader.probe(path)
        child = reader._child._process
        with reader.open(path, probe, PLAN) as source:
            source.sound()
            threading.Thread(target=slow_down, args=(child, 40)).start()
            assert len(source.pictures().i420_NB) == 160


def slow_down(process: subprocess.Popen[bytes], num_pauses: int) -> None:
    """Let the process run for a tenth of the time."""
    for _ in range(num_pauses):
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.09)
        process.send_signal(signal.SIGCONT)
        time.sleep(0.01)


def test_decode_picture_beyond_the_memory_limit_raises_media_too_large(tmp_path):
    path = make_clip(tmp_path / "a.mp4", duration_s=0.5, video="testsrc2=size=7680x4320:rate=10")
    with closing(MediaReader()) as roomy:
        probe = roomy.probe(path)
    with closing(MediaReader(ReadLimits(memory_mib=360))) as reader, pytest.raises(MediaTooLarge):
        read_segments(reader, path, PLAN, probe)


def test_decode_child_killed_from_outside_is_not_the_files_fault(tmp_path, reader):
    path = make_clip(tmp_path / "a.mp4", duration_s=20)
    with (
        pytest.raises(ChildKilled, match="killed by signal 9"),
        reader.open(path, reader.probe(path), replace(PLAN, window_frames=8)) as source,
    ):
        source.sound()
        reader._child._process.kill()
        source.pictures()
    assert reader.probe(path).width_px == 640


@needs_corpus
def test_decode_is_the_same_in_every_run(reader):
    path = CORPUS / "stage_704p.mp4"
    digests = set()
    for _ in range(2):
        (segment,) = read_all(path, reader)
        digests.add(hashlib.sha256(segment.i420_NB.tobytes() + segment.output_S.tobytes()).hexdigest())
    assert len(digests) == 1


def test_reader_that_is_closed_leaves_no_child(tmp_path):
    reader = MediaReader()
    reader.probe(make_clip(tmp_path / "a.mp4", duration_s=0.5))
    child = reader._child._process
    assert child.poll() is None
    reader.close()
    assert child.returncode == -signal.SIGKILL


WORKER = """
import sys
from pathlib import Path
from infra.media.reader import MediaReader
reader = MediaReader()
reader.probe(Path(sys.argv[1]))
print(reader._child._process.pid, flush=True)
input()
"""


def test_child_of_a_worker_that_is_killed_ends_by_itself(tmp_path):
    path = make_clip(tmp_path / "a.mp4", duration_s=0.5)
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with worker:
        child = psutil.Process(int(worker.stdout.readline()))
        assert child.is_running()
        worker.kill()
    psutil.wait_procs([child], timeout=10)
    assert not child.is_running()


def rows_of_all_frames(path: Path, num_rows: int) -> list[int]:
    """For each row the index of the frame that is nearest to it, the later one of two, by decoding everything."""
    with av.open(str(path)) as container:
        times_s = [frame.pts * frame.time_base for frame in container.decode(video=0)]
    zero_s = min(times_s)
    rows_s = [zero_s + Fraction(row, 8) for row in range(num_rows)]
    return [
        min(range(len(times_s)), key=lambda index, row_s=row_s: (abs(times_s[index] - row_s), -index))
        for row_s in rows_s
    ]


CODERS = {
    "h264": ("-bf", "3", "-x264-params", "b-pyramid=none:b-adapt=0:keyint=60"),
    "h264 with a pyramid": ("-bf", "3", "-x264-params", "b-pyramid=normal:b-adapt=0:keyint=60"),
    "h264 with open groups": ("-bf", "3", "-x264-params", "open-gop=1:b-adapt=0:keyint=12"),
    "hevc": ("-c:v", "libx265", "-x265-params", "log-level=none:bframes=4:keyint=60"),
    "mpeg4": ("-c:v", "mpeg4", "-bf", "2", "-q:v", "2"),
    "mpeg2": ("-c:v", "mpeg2video", "-bf", "2", "-q:v", "2"),
    "vp9": ("-c:v", "libvpx-vp9", "-b:v", "1M", "-cpu-used", "8", "-deadline", "realtime"),
    "av1": ("-c:v", "libsvtav1", "-preset", "12", "-crf", "30"),
}  # fmt: skip


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("rate", ["24000/1001", "50"])
def test_decode_frames_that_nothing_refers_to_are_left_out_without_a_trace(tmp_path, reader, rate, coder):
    """Each frame shows its number, so a row that is another frame than the nearest is seen."""
    path = make_clock_clip(tmp_path / "a.mkv", rate_fps=Fraction(rate), duration_s=4.0, options=CODERS[coder])
    (segment,) = read_all(path, reader)
    assert shown_numbers(segment.luma_NHW).tolist() == rows_of_all_frames(path, segment.num_frames)


@pytest.mark.parametrize(("x", "num_seen"), [("8*n", 16), ("8", 1)], ids=["moving", "still"])
def test_decode_small_change_of_a_still_picture_is_seen(tmp_path, reader, x, num_seen):
    """Frames that are alike are scaled once; these differ in one block, off the lines compared first."""
    video = f"color=gray:size=256x64:rate=8[a];color=white:size=4x4:rate=8[b];[a][b]overlay=x={x}:y=38"
    path = make_clip(tmp_path / "a.mp4", duration_s=2, video=video, options=("-qp", "0"))
    (segment,) = read_all(path, reader)
    assert len({frame_HW.tobytes() for frame_HW in segment.luma_NHW}) == num_seen
    assert segment.luma_NHW.max(axis=(1, 2)).min() > 200


@pytest.mark.parametrize("looked_at", [{0, 2, 3}, {1, 4, 5}, {5}, set()], ids=str)
@pytest.mark.parametrize("interval", [12, 30, 1000])
def test_decode_windows_that_are_left_out_change_no_other(tmp_path, reader, looked_at, interval):
    """However key frames lie to windows: before, in, after them, or only at the start."""
    path = make_clock_clip(
        tmp_path / "a.mp4",
        rate_fps=Fraction(24),
        duration_s=6.0,
        options=("-bf", "3", "-g", str(interval), "-sc_threshold", "0"),
    )
    whole = read_all(path, reader, window=8)
    with reader.open(path, reader.probe(path), replace(PLAN, window_frames=8)) as source:
        for index in range(6):
            assert source.sound().num_frames == 8
            if index in looked_at:
                np.testing.assert_array_equal(source.pictures().i420_NB, whole[index].i420_NB)
            source.advance(8)
        assert source.finish() == pytest.approx(6, abs=0.1)


def test_decode_windows_that_overlap_hold_the_same_frames_and_samples(tmp_path, reader):
    path = make_clip(tmp_path / "a.mp4", duration_s=4)
    (whole,) = read_all(path, reader)
    with reader.open(path, reader.probe(path), replace(PLAN, window_frames=16)) as source:
        for first in range(0, 17, 5):
            sound = source.sound()
            np.testing.assert_array_equal(
                sound.native_CT, whole.native_CT[:, 6000 * first :][:, : 6000 * sound.num_frames]
            )
            frames_NB = source.pictures().i420_NB
            np.testing.assert_array_equal(frames_NB, whole.i420_NB[first : first + 16])
            source.advance(5)


def test_decode_windows_with_gaps_between_hold_the_same_frames_and_samples(tmp_path, reader):
    path = make_clip(tmp_path / "a.mp4", duration_s=6)
    (whole,) = read_all(path, reader)
    with reader.open(path, reader.probe(path), replace(PLAN, window_frames=8)) as source:
        for first in (0, 20, 40):
            np.testing.assert_array_equal(
                source.sound().native_CT, whole.native_CT[:, 6000 * first :][:, :48_000]
            )
            np.testing.assert_array_equal(source.pictures().i420_NB, whole.i420_NB[first : first + 8])
            source.advance(20)
        assert source.sound().num_frames == 0


def test_key_frames_are_those_of_the_window_and_few(tmp_path, reader):
    path = make_clock_clip(
        tmp_path / "a.mp4",
        rate_fps=Fraction(24),
        duration_s=6.0,
        options=("-bf", "3", "-g", "36", "-keyint_min", "36", "-sc_threshold", "0"),
    )
    dense = make_clock_clip(tmp_path / "b.mp4", rate_fps=Fraction(24), duration_s=2.0, options=("-g", "1"))
    found = []
    with reader.open(path, reader.probe(path), replace(PLAN, window_frames=16)) as source:
        while source.sound().num_frames:
            found.append(shown_numbers(source.key_frames().luma_NHW).tolist())
            source.pictures()
            source.advance(16)
    assert found == [[0, 36], [72], [108]]
    with reader.open(dense, reader.probe(dense), replace(PLAN, window_frames=16)) as source:
        source.sound()
        assert shown_numbers(source.key_frames().luma_NHW).tolist() == [0, 12, 24, 36]


@pytest.mark.parametrize(
    ("video", "sound"),
    [("testsrc2=size=64x64:rate=8:d=40", TONE + ":d=2"), ("testsrc2=size=64x64:rate=8:d=2", TONE + ":d=40")],
    ids=["sound ends early", "picture ends early"],
)
def test_decode_stream_that_ends_long_before_the_other_gives_what_both_cover(tmp_path, reader, video, sound):
    """In bounded memory, with the same windows as with room for everything, and the whole length counted."""
    path = make_clip(
        tmp_path / "a.mov", duration_s=40, video=video, audio=sound, options=("-c:a", "pcm_s16le")
    )
    plan = replace(LARGE, window_frames=8)
    with closing(MediaReader(TIGHT)) as tight:
        segments, length_s = read_segments(tight, path, plan)
    assert length_s == 40
    assert [segment.num_frames for segment in segments] == [8, 8]
    assert_same_segments(segments, read_segments(reader, path, plan)[0])


def test_decode_sound_that_pauses_for_longer_than_can_be_held_raises_media_too_large(tmp_path, reader):
    path = tmp_path / "a.mkv"
    ffmpeg(
        "-f", "lavfi", "-i", "testsrc2=size=192x108:rate=8,noise=alls=90:allf=t", "-f", "lavfi", "-i", TONE,
        "-t", "40", "-af", "aselect='lt(t,2)+gt(t,38)'", "-c:v", "libx264", "-crf", "10",
        "-c:a", "pcm_s16le", path,
    )  # fmt: skip
    (whole,) = read_all(path, reader, LARGE)
    assert whole.num_frames == 320
    assert np.abs(whole.output_S[3 * 16_000 : 37 * 16_000]).max() == 0
    with closing(MediaReader(TIGHT)) as tight, pytest.raises(MediaTooLarge, match="too far ahead"):
        read_all(path, tight, LARGE, window=8)


def joined(folder: Path, first: tuple[str, ...], second: tuple[str, ...], sizes: tuple[str, str]) -> Path:
    """A second of one format, then three seconds of another whose second 1 has a white picture and a beep."""
    flash = "drawbox=color=white:t=fill:enable='between(t,0.999,1.124)'"
    sound = "aevalsrc=exprs='0.8*sin(2*PI*1000*t)*between(t,1,1.125)':s=48000"
    make_clip(
        folder / "a.ts", duration_s=1, video=f"color=black:size={sizes[0]}:rate=24", audio=TONE, options=first
    )
    make_clip(
        folder / "b.ts",
        duration_s=3,
        video=f"color=black:size={sizes[1]}:rate=24,{flash}",
        audio=sound,
        options=(*second, "-output_ts_offset", "1"),
    )
    path = folder / "joined.ts"
    path.write_bytes((folder / "a.ts").read_bytes() + (folder / "b.ts").read_bytes())
    return path


def test_decode_size_that_changes_on_the_way_keeps_the_clock(tmp_path, reader):
    (segment,) = read_all(joined(tmp_path, (), (), ("320x240", "640x480")), reader)
    assert (segment.num_frames, segment.width_px) == (32, 86)
    assert int(segment.luma_NHW.mean(axis=(1, 2)).argmax()) == 16
    beep_sample = 16_000 + int(np.flatnonzero(np.abs(segment.output_S[16_000 + 3200 :]) > 3000)[0]) + 3200
    assert beep_sample / 16_000 == pytest.approx(2.0, abs=0.05)


def test_decode_shape_that_changes_on_the_way_raises_undecodable(tmp_path, reader):
    with pytest.raises(Undecodable, match=r"every frame must be \(86, 64\)"):
        read_all(joined(tmp_path, (), (), ("320x240", "426x240")), reader)


def test_decode_channels_that_change_on_the_way_raise_undecodable(tmp_path, reader):
    path = joined(tmp_path, ("-ac", "2"), ("-ac", "1"), ("320x240", "320x240"))
    with pytest.raises(Undecodable, match="all sound must be"):
        read_all(path, reader)


@pytest.mark.parametrize(
    "options", [("-vf", "scale=1024:64,setsar=1"), ("-vf", "setsar=1/100"), ("-vf", "setsar=100")]
)
def test_decode_extremely_long_picture_raises_media_too_large(tmp_path, reader, options):
    path = make_clip(tmp_path / "a.mp4", duration_s=0.5, options=options)
    with pytest.raises(MediaTooLarge, match="at most 8 times the shorter"):
        read_all(path, reader)
