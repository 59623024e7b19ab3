"""The media children: header facts, one clock for frames and samples, and an end for everything hostile."""

import hashlib
import os
import pickle
import signal
import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from infra.errors import ChildKilled, MediaTimeout, MissingStream, Undecodable
from infra.media.child import find_ffmpeg
from infra.media.decode import DecodeLimits, DecodePlan, Segment, open_decoder
from infra.media.encode import EncodePlan, encode_clip
from infra.media.probe import Prober
from tests.media import CORPUS, ffmpeg, make_clip, needs_corpus

PLAN = DecodePlan(frame_rate_fps=Fraction(8), short_side_px=64, sample_rate_hz=16_000)
ENCODE = EncodePlan(
    frame_rate_fps=Fraction(8),
    side_px=64,
    sample_rate_hz=16_000,
    x264_preset="ultrafast",
    x264_crf=20,
    keyframe_interval_frames=8,
    time_limit_s=30,
)


@pytest.fixture(scope="module")
def prober():
    prober = Prober()
    yield prober
    prober.close()


def read_all(path: Path, prober: Prober, plan: DecodePlan = PLAN, *, window: int = 10_000) -> list[Segment]:
    segments = []
    with open_decoder(
        path, prober(path), plan, binary=find_ffmpeg(), limits=DecodeLimits(stall_s=20)
    ) as decoder:
        while not decoder.ended:
            segments.append(decoder.read(window))
        decoder.finish()
    return [segment for segment in segments if segment.num_frames]


def test_probe_landscape_clip_states_header(tmp_path, prober):
    probe = prober(make_clip(tmp_path / "a.mp4", duration_s=2))
    assert (probe.width_px, probe.height_px, probe.frame_rate_fps) == (640, 480, Fraction(25))
    assert (probe.sample_rate_hz, probe.num_audio_channels, probe.audio_codec) == (48_000, 1, "aac")
    assert probe.duration_s == pytest.approx(2.0, abs=0.1)


def test_probe_rotated_and_anamorphic_clips_state_display_size(tmp_path, prober):
    plain = make_clip(tmp_path / "plain.mp4", duration_s=1, video="testsrc2=size=320x240:rate=25")
    ffmpeg("-display_rotation", "90", "-i", plain, "-c", "copy", tmp_path / "rotated.mp4")
    ffmpeg("-i", plain, "-vf", "setsar=4/3", "-c:a", "copy", tmp_path / "wide.mp4")
    assert (prober(tmp_path / "rotated.mp4").width_px, prober(tmp_path / "rotated.mp4").height_px) == (
        240,
        320,
    )
    assert (prober(tmp_path / "wide.mp4").width_px, prober(tmp_path / "wide.mp4").height_px) == (427, 240)


def test_probe_no_audio_states_so(tmp_path, prober):
    probe = prober(make_clip(tmp_path / "a.mp4", duration_s=1, audio=""))
    assert (probe.has_audio, probe.sample_rate_hz, probe.num_audio_channels) == (False, 0, 0)


@pytest.mark.parametrize("content", [b"", b"hello, this is text\n" * 100, os.urandom(5000)])
def test_probe_not_media_raises_undecodable(tmp_path, prober, content):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(Undecodable, match="header must be readable"):
        prober(path)


def test_probe_audio_only_raises_missing_stream(tmp_path, prober):
    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", "-c:a", "aac", tmp_path / "a.mp4")
    with pytest.raises(MissingStream):
        prober(tmp_path / "a.mp4")


def test_probe_playlist_naming_other_files_is_refused(tmp_path, prober):
    """A file called .mp4 whose content is a playlist must not make the child open what it names."""
    secret = make_clip(tmp_path / "secret.ts", duration_s=1)
    playlist = tmp_path / "a.mp4"
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{secret}\n#EXT-X-ENDLIST\n")
    with pytest.raises(Undecodable):
        prober(playlist)
    concat = tmp_path / "b.mp4"
    concat.write_text(f"ffconcat version 1.0\nfile {secret}\n")
    with pytest.raises(Undecodable):
        prober(concat)


def test_prober_survives_a_child_killed_by_a_file(tmp_path):
    """A fifo blocks the child; killing it costs that file and the next one is served by a new child."""
    prober = Prober(time_limit_s=30)
    good = make_clip(tmp_path / "good.mp4", duration_s=1)
    prober(good)
    fifo = tmp_path / "fifo.mp4"
    os.mkfifo(fifo)
    pid = prober._child.pid
    threading.Timer(1.0, os.kill, (pid, signal.SIGSEGV)).start()
    with pytest.raises(Undecodable, match="died with status -11"):
        prober(fifo)
    assert prober(good).width_px == 640
    prober.close()


def test_prober_hanging_file_raises_media_timeout(tmp_path):
    prober = Prober(time_limit_s=0.5)
    os.mkfifo(tmp_path / "fifo.mp4")
    prober._ensure_child()
    with pytest.raises(MediaTimeout):
        prober(tmp_path / "fifo.mp4")
    prober.close()


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


def test_decode_memory_limit_costs_one_source(tmp_path, prober):
    path = make_clip(tmp_path / "a.mp4", duration_s=1)
    limits = DecodeLimits(memory_mib=64)
    with (
        pytest.raises(Undecodable),
        open_decoder(path, prober(path), PLAN, binary=find_ffmpeg(), limits=limits) as decoder,
    ):
        decoder.read(8)


def test_encode_same_input_same_bytes_and_equal_lengths(tmp_path):
    rng = np.random.default_rng(0)
    i420_NB = np.repeat(rng.integers(16, 235, (24, 1), np.uint8), 64 * 64 * 3 // 2, axis=1)
    mono_S = (rng.standard_normal(48_000) * 1000).astype(np.int16)
    first, second = (
        encode_clip(i420_NB, mono_S, ENCODE, binary=find_ffmpeg(), work_dir=tmp_path) for _ in range(2)
    )
    assert (first.mp4, first.flac) == (second.mp4, second.flac)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a.mp4").write_bytes(first.mp4)
    (tmp_path / "a.flac").write_bytes(first.flac)
    with av.open(str(tmp_path / "a.mp4")) as container:
        frames = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
        assert (len(frames), container.streams.video[0].average_rate) == (24, 8)
        assert not container.streams.audio
    with av.open(str(tmp_path / "a.flac")) as container:
        decoded_S = np.concatenate([frame.to_ndarray().ravel() for frame in container.decode(audio=0)])
    np.testing.assert_array_equal(decoded_S, mono_S)


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


def test_every_error_pickles():
    from infra import errors

    classes = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, Exception)]
    for cls in classes:
        copy = pickle.loads(pickle.dumps(cls("what must hold")))
        assert (type(copy), str(copy), copy.code) == (cls, "what must hold", cls.code)
    codes = [cls.code for cls in classes]
    assert len(codes) == len(set(codes))


def test_no_child_is_left_behind():
    time.sleep(0.1)
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    names = [Path(f"/proc/{pid}/comm").read_text().strip() for pid in children]
    assert [name for name in names if name.startswith("ffmpeg")] == []
