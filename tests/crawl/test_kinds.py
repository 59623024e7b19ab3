import re
from functools import partial
from itertools import chain
from pathlib import Path

import pytest

from crawl.items import SourceItem
from crawl.kinds import KINDS, Kind, check_kinds, format_policy, kind_of, licence_of
from crawl.policy import FetchConfig, FormatChange, FormatPolicy
from crawl.source_web import has_suffix, is_plain_media
from crawl.sources import expand, seed_item
from infra.errors import ConfigError

CRAWL = Path(__file__).resolve().parents[2] / "crawl"
EVERY_KIND = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
ON_THE_WEB = {"web", "feed", "search", "hashtag", "s3", "gs", "az"}

# What the files of the examples hold, each with one item.
FILES = {
    "dir": ("videos/a.mp4", "x"),
    "films": ("a.mp4", "x"),
    "games": ("a.mp4", "x"),
    "list": ("videos.csv", "url\nhttps://example.org/a.mp4\n"),
    "vggsound": ("vggsound.csv", "0B4dYTMsgHA,130,rain,test\n"),
    "audioset": ("eval_segments.csv", '0B4dYTMsgHA, 130.000, 140.000, "/m/06mb1"\n'),
    "hdvila": (
        "hdvila_part0.jsonl",
        '{"video_id": "0B4dYTMsgHA", "clip": [{"span": ["00:02:10.000", "00:02:20.000"]}]}\n',
    ),
    "panda70m": (
        "panda70m_training_2m.csv",
        "videoID,timestamp\n0B4dYTMsgHA,\"[['0:02:10.000', '0:02:20.000']]\"\n",
    ),
    "acav": ("acav100m.csv", "0B4dYTMsgHA,130,140\n"),
    "openvid": ("OpenVid-1M.csv", "video\na.mp4\n"),
}


def test_kinds_names_are_unique_and_need_no_quoting() -> None:
    names = [kind.name for kind in KINDS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch("[a-z][a-z0-9]*", name) for name in names)


@EVERY_KIND
def test_kinds_example_is_of_its_kind(kind: Kind) -> None:
    assert kind_of(kind.example) is kind
    assert kind_of(kind.prefix.upper() + kind.example.removeprefix(kind.prefix)) is kind


@EVERY_KIND
def test_kinds_say_what_they_are(kind: Kind) -> None:
    assert kind.summary and "\n" not in kind.summary
    assert kind.licence


@EVERY_KIND
def test_kinds_example_expands_to_items_of_its_kind(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind.name in ON_THE_WEB:
        seed = seed_item(kind.example)
        assert seed is not None
        assert seed.kind == kind.name
        return
    monkeypatch.chdir(tmp_path)
    example = kind.example.replace("/media/", "")
    if kind.name in FILES:
        name, text = FILES[kind.name]
        path = tmp_path / (f"{kind.name}/{name}" if kind.name in ("films", "games") else name)
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        (tmp_path / "video").mkdir()
    (item,) = expand(example)
    assert isinstance(item, SourceItem)
    assert item.kind == kind.name
    assert seed_item(example) is None


@EVERY_KIND
def test_kinds_example_that_is_not_there_is_refused_when_it_is_expanded(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind.name not in FILES:
        return
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"^{kind.prefix} must name an existing") as raised:
        expand(kind.example.replace("/media/", ""))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.prefix == "https://"], ids=lambda k: k.name)
def test_kinds_http_is_of_the_kind_of_https(kind: Kind) -> None:
    assert kind_of(kind.example.replace("https", "http", 1)) is kind


@pytest.mark.parametrize("spec", ["", "dir", "/videos", "gopher://h/a", "files:a", " dir:a", "httpx://h/a"])
def test_kind_of_anything_else_raises_config_error(spec: str) -> None:
    with pytest.raises(ConfigError, match="must start with one of dir:, films:"):
        kind_of(spec)


def test_every_source_module_belongs_to_a_kind() -> None:
    functions = chain.from_iterable(_functions(kind) for kind in KINDS)
    used = {function.__module__.removeprefix("crawl.") for function in functions}
    assert {path.stem for path in CRAWL.glob("source_*.py")} <= used


def _functions(kind: Kind) -> list:
    if isinstance(kind.expand, partial):
        return [kind.expand.func, *filter(callable, kind.expand.keywords.values())]
    return [kind.expand]


def test_readme_table_matches_kinds() -> None:
    lines = (CRAWL / "README.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    rows = [row for row in rows if len(row) == 4 and row[0].strip("`") in {kind.name for kind in KINDS}]
    assert rows == [
        [f"`{kind.name}`", f"`{kind.example}`", kind.licence, _changes(kind.formats)] for kind in KINDS
    ]


def _changes(formats: FormatChange) -> str:
    changes = formats.model_dump(exclude_none=True)
    return ", ".join(f"`{name} = {value:g}`" for name, value in changes.items()) or "-"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://h/a.mp4", True),
        ("https://h/a/b.WebM?token=1.html#t=3", True),
        ("http://h/a.mp4/", False),
        ("https://h/watch?v=a.mp4", False),
        ("https://h/#a.mp4", False),
        ("https://example.mov", False),
        ("https://example.mov?a.mp4", False),
        ("https://h/index.m3u8", False),
        ("https://h/a.mp3", False),
    ],
)
def test_is_plain_media_looks_at_the_end_of_the_path(url: str, expected: bool) -> None:
    assert is_plain_media(url) is expected


def test_has_suffix_manifests() -> None:
    assert kind_of("https://h/a.M3U8?x=1").name == "hls"
    assert kind_of("https://h/a.mpd").name == "dash"
    assert not has_suffix("https://h/am3u8", (".m3u8",))


# ---- defaults ----


def test_licence_of_unknown_kind_is_unknown() -> None:
    assert licence_of("vggsound") == "Standard YouTube License"
    assert licence_of("dir") == licence_of("of an older version") == "unknown"


def test_format_policy_kind_then_all_kinds_then_this_kind() -> None:
    assert format_policy("dir", FetchConfig()) == FormatPolicy()
    assert format_policy("search", FetchConfig()).max_duration_s == 3600.0
    config = FetchConfig(
        formats=FormatChange(max_duration_s=100.0, min_short_side_px=240),
        kinds={"search": FormatChange(max_duration_s=50.0)},
    )
    found = format_policy("search", config)
    assert (found.max_duration_s, found.min_short_side_px) == (50.0, 240)
    assert format_policy("hashtag", config).max_duration_s == 100.0


def test_check_kinds_other_kinds_may_contradict_the_settings() -> None:
    check_kinds(FetchConfig(formats=FormatChange(min_duration_s=7200.0)), ["list:videos.csv"])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            FetchConfig(kinds={"youtube": FormatChange()}),
            "fetch.kinds must name kinds of sources .*'youtube'",
        ),
        (FetchConfig(kinds={"list": FormatChange(min_short_side_px=2000)}), "kind list .*2000 > 1080"),
        (FetchConfig(formats=FormatChange(min_duration_s=7200.0)), "kind search .*7200.0 > 3600.0"),
    ],
)
def test_check_kinds_contradiction_raises_config_error(config: FetchConfig, message: str) -> None:
    specs = ["list:videos.csv", "search:rain"]
    check_kinds(FetchConfig(), specs)
    with pytest.raises(ConfigError, match=message) as raised:
        check_kinds(config, specs)
    assert "\n" not in str(raised.value)
