import gzip
import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawl.items import SourceItem, UnexpandedSource, source_item
from crawl.rows import clock_s
from crawl.sources import expand
from crawl.youtube import Clip, youtube_item
from infra.errors import ConfigError

Span = tuple[str, float, float]


def _spans(spec: str, first_index: int = 0) -> list[Span]:
    found = list(expand(spec, first_index=first_index))
    assert all(isinstance(source, SourceItem) for source in found)
    watch = "https://www.youtube.com/watch?v="
    return [
        (item.url.removeprefix(watch), item.span_start_s, item.span_end_s)
        for item in found
        if isinstance(item, SourceItem)
    ]


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# ---- the published sets ----

VGGSOUND = '---g-f_I2yQ,1,"people marching, loud",test\n--0PQM4-hqg,30,waterfall burbling,train\n'
# The first lines of eval_segments.csv. Source: https://research.google.com/audioset/download.html.
AUDIOSET = """\
# Segments csv created Sun Mar  5 10:54:25 2017
# num_ytids=20371, num_segs=20371, num_unique_labels=527, num_positive_labels=51804
# YTID, start_seconds, end_seconds, positive_labels
--4gqARaEJE, 0.000, 10.000, "/m/068hy,/m/07q6cd_,/m/0bt9lr,/m/0jbk"
-0RWZT-miFs, 420.000, 430.000, "/m/03v3yw,/m/0k4j"
"""
# Source: microsoft/XPretrain, hd-vila-100m/README.md.
HDVILA: dict[str, object] = {
    "video_id": "QMi8x8o55Ns",
    "url": "https://www.youtube.com/watch?v=QMi8x8o55Ns",
    "clip": [
        {"clip_id": "QMi8x8o55Ns.1.mp4", "span": ["00:00:17.759", "00:00:23.279"]},
        {"clip_id": "QMi8x8o55Ns.16.mp4", "span": ["00:04:52.140", "01:05:03.350"]},
    ],
}


def test_expand_vggsound_clips_have_ten_seconds(tmp_path: Path) -> None:
    path = _write(tmp_path / "vggsound.csv", VGGSOUND)
    assert _spans(f"vggsound:{path}") == [("---g-f_I2yQ", 1.0, 11.0), ("--0PQM4-hqg", 30.0, 40.0)]


def test_expand_vggsound_has_the_ids_that_other_spellings_have(tmp_path: Path) -> None:
    # Golden, 2026-11-23: the id that tests/crawl/test_items.py has for this span of this video.
    path = _write(tmp_path / "vggsound.csv", "0B4dYTMsgHA,130,rain,test\n")
    (item,) = expand(f"vggsound:{path}")
    assert isinstance(item, SourceItem)
    assert (item.source_id, item.kind) == ("629f77d618632edc", "vggsound")


def test_expand_audioset_comments_and_blanks_are_no_rows(tmp_path: Path) -> None:
    path = _write(tmp_path / "eval_segments.csv", AUDIOSET)
    assert _spans(f"audioset:{path}") == [("--4gqARaEJE", 0.0, 10.0), ("-0RWZT-miFs", 420.0, 430.0)]


def test_expand_hdvila_each_span_is_an_item(tmp_path: Path) -> None:
    path = _write(tmp_path / "hdvila_part0.jsonl", json.dumps(HDVILA) + "\n\n")
    assert _spans(f"hdvila:{path}") == [("QMi8x8o55Ns", 17.759, 23.279), ("QMi8x8o55Ns", 292.14, 3903.35)]


def test_expand_panda70m_each_pair_of_times_is_an_item(tmp_path: Path) -> None:
    spans = "[['0:00:08.875', '0:00:15.349'], ['0:00:15.349', '0:01:02.000']]"
    captions = "['it\\'s a dog, \"old\"', 'rain']".replace('"', '""')
    row = f'QMi8x8o55Ns,https://www.youtube.com/watch?v=QMi8x8o55Ns,"{spans}","{captions}","[0.4, 0.5]"'
    path = _write(tmp_path / "p.csv", f"videoID,url,timestamp,caption,matching_score\n{row}\n")
    assert _spans(f"panda70m:{path}") == [("QMi8x8o55Ns", 8.875, 15.349), ("QMi8x8o55Ns", 15.349, 62.0)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "QMi8x8o55Ns,292.33,302.33\n"),
        ("a.csv", "videoID,start,end\nQMi8x8o55Ns,292.33,302.33\n"),
        ("a.tsv", "QMi8x8o55Ns\t292.33\t302.33\n"),
    ],
)
def test_expand_acav_with_and_without_a_line_of_names(name: str, text: str, tmp_path: Path) -> None:
    assert _spans(f"acav:{_write(tmp_path / name, text)}") == [("QMi8x8o55Ns", 292.33, 302.33)]


@pytest.mark.parametrize("folder", [".", "data/train"])
def test_expand_openvid_files_are_in_the_folder_video(folder: str, tmp_path: Path) -> None:
    (tmp_path / "video").mkdir()
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / "video" / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    text = "video,caption,seconds\ncelebv_a_0.mp4,one,4.1\n../secret.mp4,two,4.1\nlink.mp4,three,4.1\n"
    item, *refused = expand(f"openvid:{_write(tmp_path / folder / 'OpenVid-1M.csv', text)}")
    assert item == source_item((tmp_path / "video" / "celebv_a_0.mp4").as_uri(), kind="openvid")
    assert [(found.code, found.item.url) for found in refused if isinstance(found, UnexpandedSource)] == [
        ("blocked_by_policy", "../secret.mp4"),
        ("blocked_by_policy", "link.mp4"),
    ]


def test_expand_openvid_without_its_clips_raises_config_error(tmp_path: Path) -> None:
    path = _write(tmp_path / "OpenVid-1M.csv", "video\na.mp4\n")
    with pytest.raises(ConfigError, match="unpack the archives there"):
        expand(f"openvid:{path}")


@pytest.mark.parametrize(
    ("kind", "name", "text", "message"),
    [
        ("vggsound", "a.csv", VGGSOUND + "short,1,a,test\n", "11 letters.*'short'.*line 3"),
        ("vggsound", "a.csv", VGGSOUND + "---g-f_I2yQ,soon,a,test\n", "start_seconds.*'soon'.*line 3"),
        ("vggsound", "a.csv", VGGSOUND + "---g-f_I2yQ,-1,a,test\n", "0 <= start_s.*line 3"),
        ("vggsound", "a.csv", VGGSOUND + "---g-f_I2yQ\n", "at least 2 cells, got 1 .*line 3"),
        ("vggsound", "a.csv", VGGSOUND + '---g-f_I2yQ,1,"open,test\n', "must be CSV.*line 3"),
        ("vggsound", "a.csv", "\n\n", "at least one row"),
        ("vggsound", "a.jsonl", "{}\n", "a .csv or .tsv file"),
        ("audioset", "a.csv", AUDIOSET + "-0RWZT-miFs, 9, 9, a\n", "9.0 to 9.0.*line 6"),
        ("audioset", "a.csv", AUDIOSET + "-0RWZT-miFs, nan, 9, a\n", "nan to 9.0.*line 6"),
        ("audioset", "a.csv", "# only\n# comments\n", "at least one row"),
        ("hdvila", "a.jsonl", '{"video_id": "QMi8x8o55Ns", "clip": {}}\n', "clip must be a list.*line 1"),
        ("hdvila", "a.jsonl", '{"video_id": "QMi8x8o55Ns", "clip": [{}]}\n', "two times.*None.*line 1"),
        ("hdvila", "a.jsonl", '\n{"video_id": "QMi8x8o55Ns", "clip": []}\n{"clip": [', "JSON.*line 3"),
        ("hdvila", "a.jsonl", "[1]\n", "JSON object, got list in .*line 1"),
        ("hdvila", "a.jsonl", "[" * 100_000 + "\n", "JSON.*line 1"),
        ("panda70m", "a.csv", "videoID,timestamp\nQMi8x8o55Ns,__import__('os')\n", "pairs of times.*line 2"),
        (
            "panda70m",
            "a.csv",
            "videoID,timestamp\nQMi8x8o55Ns,\"['0:00:01', '0:00:02']\"\n",
            "two times.*line 2",
        ),
        ("panda70m", "a.csv", "videoID,timestamp\nQMi8x8o55Ns,\"[['1', '2']]\"\n", "two times.*line 2"),
        ("panda70m", "a.csv", "videoID,timestamp\nQMi8x8o55Ns,5\n", "must be a list, got 5.*line 2"),
        ("panda70m", "a.csv", "videoID,time\na,b\n", "one column timestamp, found videoID, time"),
        ("acav", "a.csv", "QMi8x8o55Ns,1,2\nvideoID,start,end\n", "start must be a number.*line 2"),
    ],
)
def test_expand_malformed_row_raises_config_error_with_its_line(
    kind: str, name: str, text: str, message: str, tmp_path: Path
) -> None:
    path = _write(tmp_path / name, text)
    with pytest.raises(ConfigError, match=message) as raised:
        expand(f"{kind}:{path}")
    assert str(raised.value).startswith(f"{kind}: ")
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@given(st.from_regex(r"[0-9A-Za-z_-]{11}", fullmatch=True), st.integers(0, 10**6), st.integers(1, 10**5))
def test_youtube_item_is_that_of_any_spelling(video_id: str, start_ms: int, length_ms: int) -> None:
    start_s, end_s = start_ms / 1000, (start_ms + length_ms) / 1000
    expected = source_item(
        f"https://youtu.be/{video_id}", kind="acav", span_start_s=start_s, span_end_s=end_s
    )
    assert youtube_item(Clip(video_id, start_s, end_s), kind="acav") == expected


@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_clock_s_is_the_nearest_float(hours: int, minutes: int, seconds: int, ms: int) -> None:
    total_ms = ((hours * 60 + minutes) * 60 + seconds) * 1000 + ms
    assert clock_s(f"{hours}:{minutes:02}:{seconds:02}.{ms:03}") == total_ms / 1000
    assert clock_s(f"{hours:02}:{minutes:02}:{seconds:02}") == total_ms // 1000


@pytest.mark.parametrize(
    "text", ["", "1:2:3", "00:60:00", "0:00:61.0", "-0:00:01", "0:00:01.", "1.5", "0:00:٣٣"]
)
def test_clock_s_anything_else_raises_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="H:MM:SS"):
        clock_s(text)


# ---- list: in its formats ----

ROWS: list[dict[str, str | float]] = [
    {"url": "http://h/a", "start_s": 1.0, "end_s": 2.5},
    {"url": "http://h/a"},
    {"url": "http://h/a", "start_s": 3.0},
]
ROW_SPANS = [("http://h/a", 1.0, 2.5), ("http://h/a", 0.0, math.inf), ("http://h/a", 3.0, math.inf)]


def _csv(delimiter: str) -> bytes:
    head = delimiter.join(("label", "url", "start_s", "end_s"))
    cells = [(row["url"], row.get("start_s", ""), row.get("end_s", "")) for row in ROWS]
    return "\n".join([head, *(delimiter.join(("x", *map(str, row))) for row in cells), ""]).encode()


def _jsonl() -> bytes:
    return "\n".join(json.dumps(row) for row in ROWS).encode()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("l.csv", _csv(",")),
        ("l.CSV", b"\xef\xbb\xbf" + _csv(",").replace(b"\n", b"\r\n\r\n")),
        ("l.csv.gz", gzip.compress(_csv(","))),
        ("l.tsv", _csv("\t")),
        ("l.tsv.gz", gzip.compress(_csv("\t"))),
        ("l.jsonl", _jsonl()),
        ("l.ndjson", _jsonl()),
        ("l.jsonl.gz", gzip.compress(_jsonl())),
    ],
)
def test_expand_list_formats_agree(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    assert _spans(f"list:{tmp_path / name}") == ROW_SPANS


def test_expand_list_text_may_be_gzipped(tmp_path: Path) -> None:
    (tmp_path / "l.txt.gz").write_bytes(gzip.compress(b"# videos\nhttp://h/a\n"))
    assert _spans(f"list:{tmp_path / 'l.txt.gz'}") == [("http://h/a", 0.0, math.inf)]


def test_expand_list_parquet_reads_only_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "l.parquet"
    columns = {"url": ["http://h/a"], "caption": ["x"], "licence": ["CC-BY-4.0"], "end_s": [2.5]}
    pq.write_table(pa.table(columns), path)
    assert _spans(f"list:{path}") == [("http://h/a", 0.0, 2.5)]


@pytest.mark.parametrize("column", ["URL", "link", "video_url", "address"])
def test_expand_list_names_of_columns_are_not_guessed(column: str, tmp_path: Path) -> None:
    path = _write(tmp_path / "l.csv", f"{column}\nhttp://h/a\n")
    with pytest.raises(ConfigError, match=f"must have one column url, found {column} in"):
        expand(f"list:{path}")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("l.csv", b"url,start_s\nhttp://h/a?x=1,2,3\n", "2 cells as the first line has, got 3 .*line 2"),
        ("l.csv", b"url,start_s\nhttp://h/a\n", "2 cells as the first line has, got 1 .*line 2"),
        ("l.csv.gz", b"url\nhttp://h/a\n", "readable file"),
        ("l.csv.gz", gzip.compress(_csv(","))[:-9], "readable file"),
        ("l.jsonl", b'{"url": 5}\n', "must have a url.*line 1"),
        ("l.jsonl", b'{"url": "http://h/a", "end_s": [1]}\n', "end_s must be a number.*line 1"),
        ("l.jsonl", b'{"url": "http://h/a", "start_s": true}\n', "start_s must be a number.*line 1"),
        ("l.jsonl", b"\xff\n", "UTF-8"),
        ("l.jsonl", b'{"url": "http://h/\\ud800"}\n', "url must be Unicode text, got .*ud800.*line 1"),
        ("l.jsonl", b'{"url": ' + b"9" * 5000 + b"}\n", "JSON.*line 1"),
        ("l.csv", b"url,url\nhttp://h/a,http://h/b\n", "one column url, found url, url"),
    ],
)
def test_expand_list_malformed_file_raises_config_error(
    name: str, data: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigError, match=message) as raised:
        expand(f"list:{tmp_path / name}")
    assert "\n" not in str(raised.value)


def test_expand_list_long_cells_are_read(tmp_path: Path) -> None:
    path = _write(tmp_path / "l.csv", f"url,caption\nhttp://h/a,{'x' * 1_000_000}\n")
    assert _spans(f"list:{path}") == [("http://h/a", 0.0, math.inf)]


def test_expand_first_index_passes_over_as_many_entries(tmp_path: Path) -> None:
    path = _write(tmp_path / "l.txt", "".join(f"http://h/{n}\n" for n in range(5)))
    assert [url for url, _, _ in _spans(f"list:{path}", first_index=3)] == ["http://h/3", "http://h/4"]
    assert _spans(f"list:{path}", first_index=9) == []


# ---- whatever a file holds, it is read or refused ----

PIECES = st.sampled_from(
    (
        b"url", b"videoID,timestamp", b'{"url": "', b'"}', b"http://h/", b"QMi8x8o55Ns", b",", b"\t", b'"', b"\n",
        b"\r", b"#", b"[['0:00:01', '0:00:02']]", b"\\ud800", b"\0", b"\xff", b"\xef\xbb\xbf", b"1", b"-", b"nan",
        b"1e999", b" ", b'{"video_id": "QMi8x8o55Ns", "clip": [', b'{"span": ["00:00:01", "00:00:02"]}', b"]}",
        b"PAR1", b"video",
    )
)  # fmt: skip


@given(
    spec=st.sampled_from(
        ["vggsound:a.csv", "audioset:a.csv", "hdvila:a.jsonl", "panda70m:a.csv", "acav:a.tsv"]
    )
    | st.sampled_from(["list:a.csv", "list:a.jsonl", "list:a.txt", "list:a.parquet", "list:a.csv.gz"]),
    data=st.lists(PIECES, max_size=12).map(b"".join),
)
def test_expand_any_bytes_are_items_or_a_config_error_of_one_line(
    spec: str, data: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    kind, _, name = spec.partition(":")
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    try:
        found = list(expand(f"{kind}:{path}"))
    except ConfigError as err:
        assert "\n" not in str(err)
    else:
        assert {source.kind if isinstance(source, SourceItem) else source.item.kind for source in found} == {
            kind
        }
