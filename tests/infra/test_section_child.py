"""Parts of the remuxing child by themselves; what it makes of files is tested in tests/crawl/test_section.py."""

import io
import math
import random

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawl.section import SectionLimits, cut
from infra.errors import MediaError
from infra.media import reader_child, remux
from infra.media.range_file import RangeFile, WholeNeeded
from infra.media.remux import in_order
from tests.media import make_clip

LIMITS = SectionLimits(timeout_s=60, stall_s=20)


class Server:
    """Bytes, and which of them were asked for."""

    def __init__(self, whole: bytes) -> None:
        self.whole = whole
        self.asked: list[tuple[int, int]] = []

    def read(self, first: int, last: int) -> tuple[bytes, int]:
        assert 0 <= first <= last
        self.asked.append((first, last))
        return self.whole[first : last + 1], len(self.whole)


def noise(num_bytes: int) -> bytes:
    return random.Random(num_bytes).randbytes(num_bytes)


LARGE = noise(5_000_001)


@given(
    num_bytes=st.sampled_from([0, 1, 65_535, 65_536, 262_144, 700_001, len(LARGE)]),
    steps=st.lists(st.tuples(st.integers(-2_000_000, 6_000_000), st.sampled_from([0, 1, 2])), max_size=20),
)
def test_range_file_reads_what_a_file_reads(num_bytes, steps):
    server = Server(LARGE[:num_bytes])
    ours, real = RangeFile(server.read), io.BytesIO(server.whole)
    for offset, whence in steps:
        target = max(0, offset + (0, real.tell(), num_bytes)[whence])
        assert ours.seek(offset, whence) == real.seek(target) == ours.tell()
        for _ in range(3):
            found = ours.read(32_768)
            assert found == real.read(len(found))
            assert bool(found) == (real.tell() < num_bytes or bool(found))
    places = [place for first, last in server.asked for place in range(first // 65_536, last // 65_536 + 1)]
    assert len(places) == len(set(places)), "no block is asked for twice"


def read_all(file: RangeFile) -> bytes:
    return b"".join(iter(lambda: file.read(32_768), b""))


@pytest.mark.parametrize(("num_bytes", "num_requests"), [(1, 1), (262_144, 1), (262_145, 2), (2_097_152, 2)])
def test_range_file_that_is_small_takes_two_requests(num_bytes, num_requests):
    server = Server(noise(num_bytes))
    assert read_all(RangeFile(server.read)) == server.whole
    assert len(server.asked) == num_requests


def test_range_file_read_in_a_row_takes_ever_larger_pieces():
    server = Server(LARGE)
    assert read_all(RangeFile(server.read)) == LARGE
    lengths = [-(-(last + 1 - first) // 65_536) for first, last in server.asked]
    assert lengths == [4, 8, 16, 16, 16, 16, 1]


def test_range_file_over_its_budget_needs_the_whole():
    file = RangeFile(Server(LARGE).read)
    file.budget_bytes = 1_000_000
    with pytest.raises(WholeNeeded):
        read_all(file)


def packet(pts: int) -> av.Packet:
    made = av.Packet(b"x")
    made.pts = pts
    return made


@given(st.lists(st.integers(0, 300), max_size=150), st.integers(0, 20))
def test_in_order_packets_near_their_place_keep_it(times, jitter):
    """Times of decoding rise, are not later than those of showing, and leave the packets where they are."""
    shown = [time + position * 8 % (jitter + 1) for position, time in enumerate(sorted(times))]
    packets = list(in_order([packet(pts) for pts in shown]))
    assert [made.pts for made in packets] == shown
    decoded = [made.dts for made in packets]
    assert decoded == sorted(decoded)
    assert all(dts <= pts for dts, pts in zip(decoded, shown, strict=True))


def test_preroll_is_that_of_the_reader():
    """Where the reader would enter a whole file is where a section begins."""
    assert (remux.PREROLL_S, remux.BLIND_PREROLL_S) == (
        reader_child._PREROLL_S,
        reader_child._BLIND_PREROLL_S,
    )


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_cut_broken_file_ends_in_an_outcome(tmp_path, suffix):
    """Bytes are turned over in twelve ways: a section, a wish for the whole or a class of error, never a crash."""
    good = make_clip(tmp_path / f"a.{suffix}", duration_s=2, video="testsrc2=size=96x64:rate=25").read_bytes()
    for seed in range(12):
        rng, bad = random.Random(seed), bytearray(good)
        num_bytes = len(bad) if seed % 2 else 3000  # Headers, or anything.
        for _ in range(20):
            bad[rng.randrange(num_bytes) if suffix != "mp4" or seed % 2 else -1 - rng.randrange(3000)] ^= (
                1 << rng.randrange(8)
            )
        server = Server(bytes(bad))
        try:
            outcome = cut([server.read], start_s=0.7, end_s=math.inf, out=tmp_path / "out", limits=LIMITS)
        except MediaError as err:
            outcome = err
        assert not (tmp_path / "out").exists(), outcome
