import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawl.fragments import cut_dash, cut_of, cut_playlist, require_finished
from infra.errors import NotMedia, TooShort

_INF = math.inf


def _playlist(
    *segments: str, head: str = "#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:6", end: bool = True
) -> str:
    return "\n".join(["#EXTM3U", head, *segments, *(["#EXT-X-ENDLIST"] if end else []), ""])


_FOUR = [f"#EXTINF:2.5,\n{name}.ts" for name in "abcd"]


def _addresses(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("#")]


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        ((0.0, _INF), None),
        ((0.0, 10.0), None),
        ((1.0, 9.0), None),
        ((0.0, 2.5), (0, 0, 0.0, 2.5)),
        ((2.5, 5.0), (1, 1, 2.5, 5.0)),
        ((2.4, 5.1), (0, 2, 0.0, 7.5)),
        ((3.0, 3.1), (1, 1, 2.5, 5.0)),
        ((5.0, _INF), (2, 3, 5.0, _INF)),
        ((7.5, 99.0), (3, 3, 7.5, _INF)),
    ],
)
def test_cut_of_takes_what_overlaps(
    span: tuple[float, float], expected: tuple[int, int, float, float] | None
) -> None:
    cut = cut_of([2.5] * 4, span)
    found = cut and (cut.first_index, cut.last_index, cut.start_s, cut.end_s)
    assert found == expected


@pytest.mark.parametrize("durations_s", [[], [2.0, None], [0.0, 2.0]])
def test_cut_of_unknown_duration_takes_all(durations_s: list[float | None]) -> None:
    assert cut_of(durations_s, (1.0, 1.5)) is None


def test_cut_of_span_after_the_end_is_too_short() -> None:
    with pytest.raises(TooShort, match="from 10 s, it lasts 10 s"):
        cut_of([2.5] * 4, (10.0, 12.0))


@given(st.lists(st.floats(0.1, 20), min_size=1, max_size=50), st.floats(0, 0.999), st.floats(0.01, 100))
def test_cut_of_covers_the_span_and_no_fragment_more(
    durations_s: list[float], at: float, length_s: float
) -> None:
    start_s = sum(durations_s) * at
    end_s = start_s + length_s
    cut = cut_of(durations_s, (start_s, end_s))
    if cut is None:
        return
    assert cut.start_s <= start_s and cut.end_s >= end_s
    assert cut.start_s == pytest.approx(sum(durations_s[: cut.first_index]))
    assert start_s < cut.start_s + durations_s[cut.first_index] + 1e-9
    assert sum(durations_s[: cut.last_index]) < end_s + 1e-9


def test_cut_dash_keeps_the_initialisation() -> None:
    fragments = [{"url": "init"}, *({"url": name, "duration": 2.0} for name in "abc")]
    kept, cut = cut_dash(fragments, (2.5, 3.5))
    assert [part["url"] for part in kept] == ["init", "b"]
    assert cut and (cut.start_s, cut.end_s) == (2.0, 4.0)


@pytest.mark.parametrize(
    "fragments",
    [
        [{"url": "a"}, {"url": "b"}],
        [{"url": "i"}, {"url": "a", "duration": 2.0}, {"url": "j"}, {"url": "b", "duration": 2.0}],
    ],
)
def test_cut_dash_unknown_durations_and_later_periods_keep_all(fragments: list[dict[str, object]]) -> None:
    assert cut_dash(fragments, (1.0, 1.5)) == (fragments, None)


def test_cut_playlist_is_the_same_playlist_with_fewer_segments() -> None:
    text, cut = cut_playlist(_playlist(*_FOUR, head="#EXT-X-VERSION:3\n#EXT-X-MEDIA-SEQUENCE:7"), (3.0, 6.0))
    assert text == (
        "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-MEDIA-SEQUENCE:8\n#EXTINF:2.5,\nb.ts\n#EXTINF:2.5,\nc.ts\n#EXT-X-ENDLIST\n"
    )
    assert cut and (cut.start_s, cut.end_s) == (2.5, 7.5)


def test_cut_playlist_keeps_key_map_and_discontinuity_that_hold() -> None:
    segments = [
        '#EXT-X-KEY:METHOD=AES-128,URI="k1"',
        '#EXT-X-MAP:URI="init.mp4"',
        _FOUR[0],
        _FOUR[1],
        "#EXT-X-DISCONTINUITY",
        '#EXT-X-KEY:METHOD=AES-128,URI="k2"',
        _FOUR[2],
        _FOUR[3],
    ]
    text, _ = cut_playlist(_playlist(*segments), (3.0, 6.0))
    tags = [line for line in text.splitlines() if re.match(r"#EXT-X-(KEY|MAP|DISC)|\w", line)]
    assert tags == [
        '#EXT-X-KEY:METHOD=AES-128,URI="k1"',
        '#EXT-X-MAP:URI="init.mp4"',
        "b.ts",
        '#EXT-X-KEY:METHOD=AES-128,URI="k2"',
        "#EXT-X-DISCONTINUITY",
        "c.ts",
    ]


def test_cut_playlist_byte_ranges_get_the_offset_that_they_had() -> None:
    ranges = [
        "#EXTINF:2.5,\n#EXT-X-BYTERANGE:100@50\nv.ts",
        *["#EXTINF:2.5,\n#EXT-X-BYTERANGE:100\nv.ts"] * 3,
    ]
    text, _ = cut_playlist(_playlist(*ranges), (5.0, 6.0))
    assert "#EXT-X-BYTERANGE:100@250" in text
    assert text.count("BYTERANGE") == 1


@pytest.mark.parametrize(
    "text",
    [
        _playlist(*_FOUR, head="#EXT-X-VERSION:2"),
        _playlist(*_FOUR, head="#EXT-X-TARGETDURATION:6"),
        _playlist(*_FOUR, "#ANVATO-SEGMENT-INFO: type=ad", "#EXTINF:2.5,\nad.ts"),
        _playlist("a.ts", "b.ts"),
    ],
)
def test_cut_playlist_durations_that_say_nothing_keep_all(text: str) -> None:
    assert cut_playlist(text, (3.0, 4.0)) == (text, None)


@given(st.lists(st.integers(1, 9000), min_size=1, max_size=40), st.data())
def test_cut_playlist_cut_again_is_the_same_piece(lengths_ms: list[int], data: st.DataObject) -> None:
    text = _playlist(*(f"#EXTINF:{ms / 1000},\n{index}.ts" for index, ms in enumerate(lengths_ms)))
    total_s = sum(lengths_ms) / 1000
    start_s = data.draw(st.floats(0, total_s * 0.99))
    end_s = start_s + data.draw(st.floats(0.001, total_s))
    cut_text, cut = cut_playlist(text, (start_s, end_s))
    addresses = _addresses(cut_text)
    if cut is None:
        assert cut_text == text
        return
    assert addresses == [f"{index}.ts" for index in range(cut.first_index, cut.last_index + 1)]
    assert cut.start_s <= start_s


def test_require_finished_live_playlist_is_not_media() -> None:
    require_finished(_playlist(*_FOUR), "u")
    require_finished(_playlist(*_FOUR, head="#EXT-X-PLAYLIST-TYPE:VOD", end=False), "u")
    with pytest.raises(NotMedia, match="live stream"):
        require_finished(_playlist(*_FOUR, end=False), "u")
