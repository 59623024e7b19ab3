"""Files that want to do harm: each costs its source, with a class, and nothing else.

What else is hostile has its place in `test_probe.py` (text, noise, a fifo, playlists, crashes of the probe),
`test_reader.py` (stopped, killed and starved children, jumps of format) and `tests/crawl`.
"""

import os
import random
import signal
import struct
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from infra.errors import MediaError, MediaTimeout, MediaTooLarge, Truncated, Undecodable
from infra.media import Probe
from infra.media.reader import MediaReader, ReadLimits, ReadPlan
from tests.media import ffmpeg, make_clip
from tests.segments import read_segments

PLAN = ReadPlan(frame_rate_fps=Fraction(8), short_side_px=64, window_frames=8)
LIMITS = ReadLimits(stall_s=10, memory_mib=2048, skew_mib=16)
DURATION_S = 1.5
FORMATS = ("mp4", "mkv", "ts", "avi", "flv")
WHOLE = "whole"


@pytest.fixture(scope="module")
def reader():
    reader = MediaReader(LIMITS)
    yield reader
    reader.close()


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> dict[str, bytes]:
    """A small clip in several containers, by suffix."""
    folder = tmp_path_factory.mktemp("clips")
    clip = make_clip(
        folder / "a.mp4",
        duration_s=DURATION_S,
        video="testsrc2=size=64x64:rate=24",
        audio="sine=sample_rate=44100",
        options=("-movflags", "+faststart"),
    )
    for suffix in FORMATS[1:]:
        ffmpeg("-i", clip, "-c", "copy", folder / f"a.{suffix}")
    return {suffix: (folder / f"a.{suffix}").read_bytes() for suffix in FORMATS}


def decode(path: Path, reader: MediaReader, probe: Probe | None = None) -> float:
    """Read a file to its end, one second at a time; seconds of it."""
    return read_segments(reader, path, PLAN, probe)[1]


def fate(path: Path, reader: MediaReader) -> str:
    """`WHOLE`, or the code of the error that the file ends in; any other exception propagates."""
    try:
        probe = reader.probe(path)
        if probe.has_audio:
            decode(path, reader, probe)
    except MediaError as err:
        return err.code
    return WHOLE


def write_truncated(path: Path, clips: dict[str, bytes], seed: int) -> Path:
    rng = random.Random(seed)
    content = clips[rng.choice(FORMATS)]
    path.write_bytes(content[: rng.randrange(len(content))])
    return path


def write_flipped(path: Path, clips: dict[str, bytes], seed: int) -> Path:
    """One to forty bits are flipped; half of the files only where headers are."""
    rng = random.Random(seed)
    content = bytearray(clips[rng.choice(FORMATS)])
    end = len(content) if rng.random() < 0.5 else min(2500, len(content))
    for _ in range(rng.randint(1, 40)):
        content[rng.randrange(end)] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return path


FATES = {WHOLE, "undecodable", "truncated", "missing_stream", "media_too_large"}
"""All but the time limits: nothing small takes long."""


def test_decode_file_truncated_anywhere_has_a_fate(tmp_path, clips, reader):
    for seed in range(50):
        assert fate(write_truncated(tmp_path / "a", clips, seed), reader) in FATES, seed


def test_decode_file_with_flipped_bits_has_a_fate(tmp_path, clips, reader):
    for seed in range(200):
        assert fate(write_flipped(tmp_path / "a", clips, seed), reader) in FATES, seed


@pytest.mark.parametrize("side_px", [30_000, 100_000])
def test_decode_header_that_claims_a_huge_picture_is_refused(tmp_path, reader, side_px):
    """ffv1 believes the container's size."""
    path = make_clip(
        tmp_path / "a.avi",
        duration_s=0.2,
        video="color=black:size=66x68:rate=24",
        audio="",
        options=("-c:v", "ffv1"),
    )
    claim = path.read_bytes().replace(struct.pack("<ii", 66, 68), struct.pack("<ii", side_px, side_px))
    path.write_bytes(claim)
    with pytest.raises((Undecodable, MediaTooLarge)):
        reader.probe(path)


def ebml(element_id: str, content: bytes) -> bytes:
    """An element with an eight-byte size. Source: RFC 8794, section 6."""
    return bytes.fromhex(element_id) + (len(content) | 1 << 56).to_bytes(8, "big") + content


def test_probe_file_with_ten_thousand_streams_is_refused(tmp_path, reader):
    """ffmpeg takes a thousand."""
    tracks = b"".join(
        ebml(
            "ae",
            ebml("d7", number.to_bytes(2, "big"))
            + ebml("73c5", number.to_bytes(2, "big"))
            + ebml("83", b"\x01")
            + ebml("86", b"V_VP8")
            + ebml("e0", ebml("b0", b"\x40") + ebml("ba", b"\x40")),
        )
        for number in range(1, 10_001)
    )
    header = ebml("1a45dfa3", ebml("4282", b"matroska"))
    path = tmp_path / "a.mkv"
    path.write_bytes(header + ebml("18538067", ebml("1654ae6b", tracks)))
    with pytest.raises(Undecodable):
        reader.probe(path)


def write_claim(path: Path, clips: dict[str, bytes], duration_s: float) -> Path:
    """The matroska clip with another duration in its header."""
    before, mark, after = clips["mkv"].partition(bytes.fromhex("448988"))
    assert mark
    path.write_bytes(before + mark + struct.pack(">d", duration_s * 1000) + after[8:])
    return path


def test_probe_duration_that_the_bytes_cannot_fill_raises_truncated(tmp_path, clips, reader):
    with pytest.raises(Truncated, match="2592000 s"):
        reader.probe(write_claim(tmp_path / "a.mkv", clips, 30 * 86_400))


@pytest.mark.parametrize("jump_s", [600, 36_000])
def test_decode_jump_of_time_stamps_costs_little(tmp_path, clips, reader, jump_s):
    """Still frames and silence fill a gap no further than the header's duration and a little more."""
    (tmp_path / "short.mkv").write_bytes(clips["mkv"])
    ffmpeg(
        "-i", tmp_path / "short.mkv", "-c", "copy",
        "-bsf:v", f"setts=ts=TS+gt(N\\,12)*{jump_s}/TB", "-bsf:a", f"setts=ts=TS+gt(N\\,20)*{jump_s}/TB",
        tmp_path / "jump.mkv",
    )  # fmt: skip
    jumped = {"mkv": (tmp_path / "jump.mkv").read_bytes()}
    path = write_claim(tmp_path / "a.mkv", jumped, DURATION_S)
    assert decode(path, reader) == pytest.approx(DURATION_S + 2, abs=0.5)


@contextmanager
def listening() -> Iterator[tuple[str, list[str]]]:
    """The address of a server on this machine, and what it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def handle(self) -> None:
            asked.append(str(self.client_address))

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


SCRIPTS = {
    "a playlist": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}\n#EXT-X-ENDLIST\n",
    "a master playlist": "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{url}\n",
    "a concat script": "ffconcat version 1.0\nfile '{url}'\n",
    "a dash manifest": (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>'
        '<Representation id="1"><BaseURL>{url}</BaseURL></Representation></AdaptationSet></Period></MPD>'
    ),
    "a session description": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 {url} 96\n",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_decode_script_that_names_others_asks_nobody(tmp_path, clips, reader, name):
    """Neither the probe nor, were it let in, the decoder opens what it names."""
    (tmp_path / "good.mp4").write_bytes(clips["mp4"])
    probe = reader.probe(tmp_path / "good.mp4")
    with listening() as (address, asked):
        for number, url in enumerate(
            (
                f"http://{address}/a.ts",
                f"tcp://{address}",
                "file:///etc/passwd",
                f"file://{tmp_path}/good.mp4",
            )
        ):
            path = tmp_path / f"{number}.mp4"
            path.write_text(SCRIPTS[name].format(url=url))
            with pytest.raises(Undecodable):
                reader.probe(path)
            with pytest.raises(Undecodable):
                decode(path, reader, probe)
    assert asked == []


def test_decode_symbolic_link_is_the_file_it_names(tmp_path, clips, reader):
    (tmp_path / "a.mp4").write_bytes(clips["mp4"])
    for name, target in (("good.mp4", "a.mp4"), ("text.mp4", "/etc/passwd"), ("loop.mp4", "loop.mp4")):
        (tmp_path / name).symlink_to(target)
    fates = [fate(tmp_path / f"{name}.mp4", reader) for name in ("good", "text", "loop")]
    assert fates == [WHOLE, "undecodable", "undecodable"]


def test_decode_child_that_crashes_costs_its_source(tmp_path, clips, reader):
    """A debugger's hand stands for the decoder's bug."""
    path = tmp_path / "a.mp4"
    path.write_bytes(clips["mp4"])
    with (
        pytest.raises(Undecodable, match="status -11"),
        reader.open(path, reader.probe(path), PLAN) as source,
    ):
        source.sound()
        os.kill(reader._child._process.pid, signal.SIGSEGV)
        source.pictures()
    assert fate(path, reader) == WHOLE


def test_decode_fifo_in_the_place_of_a_file_raises_media_timeout(tmp_path, clips):
    (tmp_path / "a.mp4").write_bytes(clips["mp4"])
    os.mkfifo(tmp_path / "fifo.mp4")
    with closing(MediaReader(ReadLimits(stall_s=0.5))) as reader:
        probe = reader.probe(tmp_path / "a.mp4")
        with pytest.raises(MediaTimeout):
            decode(tmp_path / "fifo.mp4", reader, probe)
