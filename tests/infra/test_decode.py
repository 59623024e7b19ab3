"""The decoding child: one clock for frames and samples, and an end for everything hostile."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from infra.errors import ChildKilled, MediaTimeout, MediaTooLarge, Undecodable
from infra.media.child import find_ffmpeg, spawn
from infra.media.decode import DecodeLimits, DecodePlan, Segment, open_decoder
from infra.media.pipes import Pipes, open_pipes
from infra.media.probe import Prober
from infra.units import BYTES_PER_MIB
from tests.media import CORPUS, ffmpeg, make_clip, needs_corpus

PLAN = DecodePlan(frame_rate_fps=Fraction(8), short_side_px=64, sample_rate_hz=16_000)
# A mebibyte holds ten frames of this size.
LARGE = replace(PLAN, short_side_px=256)
ROOMY = DecodeLimits(stall_s=20)
TIGHT = DecodeLimits(stall_s=20, skew_mib=1)
TONE = "aevalsrc=exprs='0.3*sin(2*PI*300*t)':s=48000"


@pytest.fixture(scope="module")
def prober():
    prober = Prober()
    yield prober
    prober.close()


def read_all(
    path: Path,
    prober: Prober,
    plan: DecodePlan = PLAN,
    *,
    window: int = 10_000,
    limits: DecodeLimits = ROOMY,
) -> list[Segment]:
    segments = []
    with open_decoder(path, prober(path), plan, binary=find_ffmpeg(), limits=limits) as decoder:
        while not decoder.ended:
            segments.append(decoder.read(window))
        decoder.finish()
    return [segment for segment in segments if segment.num_frames]


def assert_same_segments(got: list[Segment], expected: list[Segment]) -> None:
    assert [segment.start_frame for segment in got] == [segment.start_frame for segment in expected]
    for name in ("i420_NB", "native_TC", "embed_E", "output_S"):
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_decode_windows_join_to_the_whole(tmp_path, prober):
    """Reading in windows of 7 frames gives the bytes of one read, at rates that do not divide by 8."""
    path = make_clip(tmp_path / "a.mp4", duration_s=3, options=("-ar", "44100"))
    (whole,) = read_all(path, prober)
    parts = read_all(path, prober, window=7)
    assert [part.start_frame for part in parts] == list(range(0, 24, 7))
    for name in ("i420_NB", "native_TC", "embed_E", "output_S"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_array_equal(joined, getattr(whole, name))
    assert (whole.num_frames, len(whole.native_TC), len(whole.embed_E), len(whole.output_S)) == (
        24,
        132_300,
        144_000,
        48_000,
    )


@pytest.mark.parametrize("delay", ["video", "audio"])
def test_decode_late_stream_is_put_on_the_common_clock(tmp_path, prober, delay):
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
    (segment,) = read_all(path, prober)
    flash_frame = int(segment.luma_NHW.mean(axis=(1, 2)).argmax())
    beep_sample = int(np.flatnonzero(np.abs(segment.output_S) > 3000)[0])
    assert flash_frame == 16
    assert beep_sample / 16_000 == pytest.approx(2.0, abs=0.005)


def test_decode_container_that_starts_late_begins_at_its_own_zero(tmp_path, prober):
    path = make_clip(tmp_path / "a.ts", duration_s=2, options=("-output_ts_offset", "100"))
    (segment,) = read_all(path, prober)
    assert segment.num_frames == 16


def test_decode_span_reads_only_that_part(tmp_path, prober):
    path = make_clip(tmp_path / "a.mp4", duration_s=4)
    (whole,) = read_all(path, prober)
    plan = DecodePlan(
        frame_rate_fps=Fraction(8), short_side_px=64, sample_rate_hz=16_000, start_s=1.0, end_s=3.0
    )
    (part,) = read_all(path, prober, plan)
    assert (part.num_frames, len(part.output_S)) == (16, 32_000)
    assert np.abs(part.luma_NHW[0].astype(int) - whole.luma_NHW[8]).mean() < 2


def test_decode_downmix_never_exceeds_full_scale(tmp_path, prober):
    path = make_clip(
        tmp_path / "a.mp4", duration_s=1, audio="aevalsrc='0.9*sin(2*PI*300*t)|0.9*sin(2*PI*300*t)':s=48000"
    )
    (segment,) = read_all(path, prober)
    assert segment.native_TC.shape[1] == 2
    assert 0.85 < np.abs(segment.embed_E).max() < 1.0


def test_decode_corrupt_body_ends_in_a_class(tmp_path, prober):
    """Noise over the middle of the file decodes with losses or is refused; it never hangs or crashes us."""
    path = make_clip(tmp_path / "a.mp4", duration_s=2, options=("-movflags", "+faststart"))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4000] = os.urandom(4000)
    path.write_bytes(content)
    try:
        segments = read_all(path, prober)
    except Undecodable:
        return
    assert sum(segment.num_frames for segment in segments) <= 17


def test_decode_stalled_child_raises_media_timeout_and_is_reaped(tmp_path, prober):
    path = make_clip(tmp_path / "a.mp4", duration_s=20)
    limits = DecodeLimits(stall_s=1.0)
    with (
        pytest.raises(MediaTimeout, match="progress every 1 s"),
        open_decoder(path, prober(path), PLAN, binary=find_ffmpeg(), limits=limits) as decoder,
    ):
        decoder.read(1)
        child = decoder._pipes._process
        child.send_signal(signal.SIGSTOP)
        while not decoder.ended:
            decoder.read(80)
    assert child.returncode == -signal.SIGKILL


def test_decode_picture_beyond_the_memory_limit_raises_media_too_large(tmp_path, prober):
    path = make_clip(tmp_path / "a.mp4", duration_s=0.5, video="testsrc2=size=3840x2160:rate=10")
    limits = DecodeLimits(memory_mib=256)
    with (
        pytest.raises(MediaTooLarge, match="memory limit"),
        open_decoder(path, prober(path), PLAN, binary=find_ffmpeg(), limits=limits) as decoder,
    ):
        decoder.read(8)
        decoder.finish()


def test_decode_child_killed_from_outside_is_not_the_files_fault(tmp_path, prober):
    path = make_clip(tmp_path / "a.mp4", duration_s=20)
    with (
        pytest.raises(ChildKilled, match="killed by signal 9"),
        open_decoder(
            path, prober(path), PLAN, binary=find_ffmpeg(), limits=DecodeLimits(stall_s=20)
        ) as decoder,
    ):
        decoder.read(1)
        decoder._pipes._process.kill()
        while not decoder.ended:
            decoder.read(8)
        decoder.finish()


@needs_corpus
def test_decode_is_the_same_in_every_run(prober):
    path = CORPUS / "stage_704p.mp4"
    digests = set()
    for _ in range(2):
        (segment,) = read_all(path, prober)
        digests.add(hashlib.sha256(segment.i420_NB.tobytes() + segment.output_S.tobytes()).hexdigest())
    assert len(digests) == 1


def test_no_child_is_left_behind():
    time.sleep(0.1)
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    names = [Path(f"/proc/{pid}/comm").read_text().strip() for pid in children]
    assert [name for name in names if name.startswith("ffmpeg")] == []


@pytest.mark.parametrize(
    ("video", "sound"),
    [("testsrc2=size=64x64:rate=8:d=40", TONE + ":d=2"), ("testsrc2=size=64x64:rate=8:d=2", TONE + ":d=40")],
    ids=["sound ends early", "picture ends early"],
)
def test_decode_stream_that_ends_long_before_the_other_gives_what_both_cover(tmp_path, prober, video, sound):
    """In bounded memory, with the same windows as with room for everything, and the whole length counted."""
    path = make_clip(
        tmp_path / "a.mov", duration_s=40, video=video, audio=sound, options=("-c:a", "pcm_s16le")
    )
    segments = []
    with open_decoder(path, prober(path), LARGE, binary=find_ffmpeg(), limits=TIGHT) as decoder:
        while not decoder.ended:
            segments.append(decoder.read(8))
            assert max(map(len, decoder._pipes._held.values())) <= 9 * 256 * 256 * 3 // 2 + BYTES_PER_MIB
        assert decoder.finish() == 40
    assert [segment.num_frames for segment in segments] == [8, 8, 0]
    assert_same_segments(segments[:2], read_all(path, prober, LARGE, window=8))


def test_decode_sound_that_pauses_for_longer_than_can_be_held_raises_media_too_large(tmp_path, prober):
    path = tmp_path / "a.mkv"
    ffmpeg(
        "-f", "lavfi", "-i", "testsrc2=size=64x64:rate=8", "-f", "lavfi", "-i", TONE, "-t", "40",
        "-af", "aselect='lt(t,2)+gt(t,38)'", "-c:v", "libx264", "-c:a", "pcm_s16le", path,
    )  # fmt: skip
    (whole,) = read_all(path, prober, LARGE)
    assert whole.num_frames == 320
    assert np.abs(whole.output_S[3 * 16_000 : 37 * 16_000]).max() == 0
    with pytest.raises(MediaTooLarge, match="video came too far ahead"):
        read_all(path, prober, LARGE, window=8, limits=TIGHT)


def test_decode_window_larger_than_the_skew_is_read(tmp_path, prober):
    path = make_clip(tmp_path / "a.mp4", duration_s=4)
    (segment,) = read_all(path, prober, LARGE, limits=TIGHT)
    assert segment.i420_NB.nbytes > 2 * BYTES_PER_MIB
    assert_same_segments([segment], read_all(path, prober, LARGE))


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


def test_decode_size_that_changes_on_the_way_keeps_the_clock(tmp_path, prober):
    (segment,) = read_all(joined(tmp_path, (), (), ("320x240", "640x480")), prober)
    assert (segment.num_frames, segment.width_px) == (32, 86)
    assert int(segment.luma_NHW.mean(axis=(1, 2)).argmax()) == 16
    beep_sample = 16_000 + int(np.flatnonzero(np.abs(segment.output_S[16_000 + 3200 :]) > 3000)[0]) + 3200
    assert beep_sample / 16_000 == pytest.approx(2.0, abs=0.05)


def test_decode_shape_that_changes_on_the_way_raises_undecodable(tmp_path, prober):
    with pytest.raises(Undecodable, match="submitting a packet to the muxer"):
        read_all(joined(tmp_path, (), (), ("320x240", "426x240")), prober)


def test_decode_channels_that_change_on_the_way_raise_undecodable(tmp_path, prober):
    path = joined(tmp_path, ("-ac", "2"), ("-ac", "1"), ("320x240", "320x240"))
    with pytest.raises(Undecodable, match="Changing audio frame properties"):
        read_all(path, prober)


def test_decode_build_of_ffmpeg_that_lets_the_frame_size_change_raises_undecodable(tmp_path, prober):
    """A stand-in for the binary that `AVGEN_FFMPEG` may name: 2 frames of 8x8, then frames of 4x4."""
    binary = tmp_path / "ffmpeg"
    binary.write_text(
        f"#!{sys.executable}\nimport os, sys\n"
        "video, *sounds = [int(word[5:]) for word in sys.argv if word.startswith('pipe:')]\n"
        "large, small = [b'FRAME' + bytes([10]) + bytes(side * side * 3 // 2) for side in (8, 4)]\n"
        "os.write(video, b'YUV4MPEG2 W8 H8' + bytes([10]) + 2 * large + 20 * small)\n"
        "for sound in sounds: os.write(sound, bytes(4 * 48_000))\n"
    )
    binary.chmod(0o755)
    probe = prober(make_clip(tmp_path / "a.mp4", duration_s=1))
    with (
        pytest.raises(Undecodable, match="every frame must be 8 x 8"),
        open_decoder(tmp_path / "a.mp4", probe, PLAN, binary=binary, limits=TIGHT) as decoder,
    ):
        decoder.read(8)


@pytest.mark.parametrize(
    "options", [("-vf", "scale=1024:64,setsar=1"), ("-vf", "setsar=1/100"), ("-vf", "setsar=100")]
)
def test_decode_extremely_long_picture_raises_media_too_large_before_a_child_starts(
    tmp_path, prober, options
):
    path = make_clip(tmp_path / "a.mp4", duration_s=0.5, options=options)
    with (
        pytest.raises(MediaTooLarge, match="at most 8 times the shorter"),
        open_decoder(path, prober(path), PLAN, binary=tmp_path / "none", limits=TIGHT),
    ):
        pass


@pytest.mark.parametrize("counts", [(1, 5_000_000), (4_000_000, 1_000_001), (0, 2_500_000, 2_500_000, 1)])
def test_pipes_take_gives_the_bytes_of_a_stream_in_order(counts):
    """However much is held beyond what is taken: more, less, or nothing."""
    program = "import os, sys\nfd = int(sys.argv[1])\nleft = memoryview(bytes(range(251)) * 20_000)\n"
    program += "while left: left = left[os.write(fd, left):]\n"
    expected_B = np.tile(np.arange(251, dtype=np.uint8), 20_000)
    with open_pipes(("bytes",)) as (reads, writes):
        child = spawn(
            [sys.executable, "-c", program, str(writes["bytes"])],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=tuple(writes.values()),
            max_bytes=1024 * BYTES_PER_MIB,
        )
        os.close(writes.pop("bytes"))
        pipes = Pipes(child, reads, stall_s=20, spare_bytes=6 * BYTES_PER_MIB, subject="a")
        taken = []
        for count in counts:
            assert pipes.wait_for({"bytes": count})["bytes"] >= count
            taken.append(pipes.take("bytes", count))
        num_left = pipes.drain()["bytes"]
        assert child.stderr is not None
        child.stderr.close()
    assert [len(taken_B) for taken_B in taken] == list(counts)
    assert sum(counts) + num_left == len(expected_B)
    np.testing.assert_array_equal(np.concatenate(taken), expected_B[: sum(counts)])
