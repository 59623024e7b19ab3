"""Which fragments a span needs."""

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawl.fragments import cut_fragments, cut_playlist, needed

END = float("inf")
PLAYLIST = """#EXTM3U
#EXT-X-VERSION:3
#EXT-X-TARGETDURATION:4
#EXT-X-MEDIA-SEQUENCE:7
#EXT-X-MAP:URI="init.mp4"
#EXT-X-KEY:METHOD=AES-128,URI="k1"
#EXTINF:4.0,
a.ts
#EXTINF:4.0,
b.ts
#EXT-X-KEY:METHOD=AES-128,URI="k2"
#EXT-X-DISCONTINUITY
#EXTINF:2.5,
c.ts
#EXT-X-ENDLIST
"""


@pytest.mark.parametrize(
    ("span", "pieces", "covered"),
    [
        ((0.0, 1.0), [0], (0.0, 4.0)),
        ((4.0, 8.0), [1], (4.0, 8.0)),
        ((3.9, 4.1), [0, 1], (0.0, 8.0)),
        ((8.0, END), [2], (8.0, END)),
        ((0.0, END), [0, 1, 2], (0.0, END)),
        ((50.0, 60.0), [2], (8.0, END)),
    ],
)
def test_needed_are_the_pieces_that_overlap(
    span: tuple[float, float], pieces: list[int], covered: object
) -> None:
    chosen, reached = needed([4.0, 4.0, 2.5], span)
    assert (list(chosen), reached) == (pieces, covered)


@given(
    lengths_s=st.lists(st.floats(0.1, 20.0), min_size=1, max_size=30),
    start_s=st.floats(0.0, 300.0),
    length_s=st.floats(0.1, 100.0),
)
def test_needed_covers_what_there_is_of_the_span(
    lengths_s: list[float], start_s: float, length_s: float
) -> None:
    chosen, (from_s, to_s) = needed(lengths_s, (start_s, start_s + length_s))
    end_s = list(accumulate(lengths_s))[-1]
    assert from_s <= start_s and to_s >= min(start_s + length_s, end_s)
    assert len(chosen) >= 1 and chosen.stop <= len(lengths_s)


def test_cut_playlist_keeps_keys_numbers_and_whole_addresses() -> None:
    found = cut_playlist(PLAYLIST, (5.0, 9.0), base_url="https://h/v/list.m3u8?x=1")
    assert found is not None
    covered, text = found
    assert covered == (4.0, END)
    assert text.splitlines() == [
        "#EXTM3U",
        "#EXT-X-VERSION:3",
        "#EXT-X-TARGETDURATION:4",
        "#EXT-X-MEDIA-SEQUENCE:8",
        '#EXT-X-MAP:URI="init.mp4"',
        '#EXT-X-KEY:METHOD=AES-128,URI="k1"',
        "#EXTINF:4.0,",
        "https://h/v/b.ts",
        '#EXT-X-MAP:URI="init.mp4"',
        '#EXT-X-KEY:METHOD=AES-128,URI="k2"',
        "#EXT-X-DISCONTINUITY",
        "#EXTINF:2.5,",
        "https://h/v/c.ts",
        "#EXT-X-ENDLIST",
    ]


@pytest.mark.parametrize(
    "text",
    [
        PLAYLIST.replace("#EXT-X-ENDLIST\n", ""),
        PLAYLIST.replace("#EXTINF:2.5,", "#EXTINF:2.5,\n#EXT-X-BYTERANGE:75232@0"),
        "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nlow.m3u8\n",
        "#EXTM3U\n#EXT-X-ENDLIST\n",
        "",
    ],
    ids=["live", "byte ranges", "master", "empty", "nothing"],
)
def test_cut_playlist_that_does_not_say_where_things_are_is_left_whole(text: str) -> None:
    assert cut_playlist(text, (0.0, 1.0), base_url="https://h/") is None


def test_cut_fragments_of_picture_and_sound_begin_together_or_stay_whole() -> None:
    def stream(*lengths_s: float) -> dict:
        fragments: list[dict] = [{"url": "init"}]
        fragments += [{"url": str(number), "duration": length_s} for number, length_s in enumerate(lengths_s)]
        return {"protocol": "http_dash_segments", "fragments": fragments}

    def read(url: str) -> str:
        raise AssertionError("a DASH stream has no playlist to read")

    together = [stream(4.0, 4.0, 4.0), stream(2.0, 2.0, 2.0, 2.0, 4.0)]
    assert cut_fragments(together, (4.5, 5.0), read=read) == (4.0, 6.0)
    assert [[fragment["url"] for fragment in one["fragments"]] for one in together] == [
        ["init", "1"],
        ["init", "2"],
    ]
    apart = [stream(4.0, 4.0), stream(3.9, 3.9)]
    assert cut_fragments(apart, (4.5, 5.0), read=read) == (0.0, END)
    assert [len(one["fragments"]) for one in apart] == [3, 3]
