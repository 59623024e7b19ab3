import inspect
import os
import sys
from pathlib import Path

import pytest

from crawl.items import SourceItem, UnexpandedSource
from crawl.source_dir import MEDIA_SUFFIXES, expand_dir, expand_films, expand_games, is_media_name
from infra.errors import ConfigError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The walked folder; tests put what is outside beside it."""
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def _write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def _found(folder: Path, first_index: int = 0) -> list[tuple[str, str]]:
    """ "" or the code of the failure, and the path, of everything that the folder yields."""
    found = expand_dir(f"dir:{folder}", None, first_index)
    return [
        (source.code, source.item.url) if isinstance(source, UnexpandedSource) else ("", source.url)
        for source in found
    ]


def test_expand_dir_yields_media_files_sorted_by_name_within_each_folder(folder: Path) -> None:
    for name in (
        "b.mp4",
        "a/z.MKV",
        "a/-x 100% ü.webm",
        ".hidden.mp4",
        ".h/c.mp4",
        "notes.txt",
        "c.mp4.part",
    ):
        _write(folder / name)
    expected = [(folder / name).as_uri() for name in ("a/-x 100% ü.webm", "a/z.MKV", "b.mp4")]
    assert _found(folder) == [("", url) for url in expected]


@pytest.mark.parametrize(
    ("expand", "kind"), [(expand_dir, "dir"), (expand_films, "films"), (expand_games, "games")]
)
def test_expand_folder_items_are_of_the_kind(expand, kind: str, folder: Path) -> None:
    path = _write(folder / "a.mp4")
    (item,) = expand(f"{kind}:{folder}", None, 0)
    assert isinstance(item, SourceItem)
    assert (item.kind, item.url) == (kind, path.as_uri())


@pytest.mark.parametrize(("expand", "kind"), [(expand_films, "films"), (expand_games, "games")])
@pytest.mark.parametrize("name", ["", "none", "empty", "file"])
def test_expand_folder_wrong_usage_raises_config_error_of_one_line(
    expand, kind: str, name: str, folder: Path
) -> None:
    (folder / "empty").mkdir()
    _write(folder / "file")
    with pytest.raises(ConfigError, match=f"^{kind}: must ") as raised:
        expand(f"{kind}:{folder / name}", None, 0)
    assert "\n" not in str(raised.value)


def test_expand_dir_first_index_passes_over_what_was_yielded_before(folder: Path) -> None:
    for number in range(5):
        _write(folder / f"{number}.mp4")
    _write(folder.parent / "out.mp4")
    (folder / "1.5.mp4").symlink_to(folder.parent / "out.mp4")
    every = _found(folder)
    assert len(every) == 6
    for first_index in range(8):
        assert _found(folder, first_index) == every[first_index:]


def test_expand_dir_deeper_than_the_recursion_limit_is_walked(folder: Path) -> None:
    path = _write(folder.joinpath(*["d"] * 200, "a.mp4"))
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 100)
    try:
        assert _found(folder) == [("", path.as_uri())]
    finally:
        sys.setrecursionlimit(limit)


# ---- what cannot be read ----


def test_expand_dir_folder_that_vanishes_during_the_walk_is_a_record_and_the_walk_goes_on(
    folder: Path,
) -> None:
    for name in ("a/1.mp4", "b/2.mp4", "c/3.mp4"):
        _write(folder / name)
    found = expand_dir(f"dir:{folder}", None, 0)
    assert next(found).url.endswith("/a/1.mp4")
    (folder / "b" / "2.mp4").unlink()
    (folder / "b").rmdir()
    failure, item = found
    assert isinstance(failure, UnexpandedSource)
    assert (failure.code, failure.item.url) == ("gone", (folder / "b").as_uri())
    assert "No such file" in failure.message
    assert item.url.endswith("/c/3.mp4")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_expand_dir_folder_that_may_not_be_read_is_private(folder: Path) -> None:
    _write(folder / "a.mp4")
    (folder / "b").mkdir(mode=0)
    assert _found(folder) == [("", (folder / "a.mp4").as_uri()), ("private", (folder / "b").as_uri())]


# ---- symbolic links ----


def test_expand_dir_link_out_of_the_folder_is_blocked(folder: Path) -> None:
    _write(folder / "a.mp4")
    _write(folder.parent / "out" / "b.mp4")
    _write(folder.parent / "notes.txt")
    for name, target in (("f.mp4", "out/b.mp4"), ("d", "out"), ("notes.txt", "notes.txt"), ("up", ".")):
        (folder / name).symlink_to(folder.parent / target)
    blocked = [("blocked_by_policy", (folder / name).as_uri()) for name in ("d", "f.mp4", "up")]
    assert _found(folder) == [("", (folder / "a.mp4").as_uri()), *blocked]


def test_expand_dir_link_to_a_system_file_is_blocked_and_says_where_it_leads(folder: Path) -> None:
    (folder / "a.mp4").symlink_to("/etc/passwd")
    (failure,) = expand_dir(f"dir:{folder}", None, 0)
    assert isinstance(failure, UnexpandedSource)
    assert failure.code == "blocked_by_policy"
    assert "'/etc/passwd'" in failure.message


def test_expand_dir_link_to_a_file_of_the_folder_is_that_file(folder: Path) -> None:
    blob = _write(folder / ".annex" / "SHA256-0")
    (folder / "a.mp4").symlink_to(".annex/SHA256-0")
    video = _write(folder / "b.mp4")
    (folder / "c.mp4").symlink_to("b.mp4")
    assert _found(folder) == [("", blob.as_uri()), ("", video.as_uri()), ("", video.as_uri())]


def test_expand_dir_link_to_a_folder_that_is_walked_adds_nothing(folder: Path) -> None:
    video = _write(folder / "a" / "b.mp4")
    (folder / "latest").symlink_to("a")
    (folder / "a" / "round").symlink_to(folder)
    (folder / "a" / "self").symlink_to(".")
    assert _found(folder) == [("", video.as_uri())]


def test_expand_dir_link_to_a_hidden_folder_is_blocked(folder: Path) -> None:
    _write(folder / ".store" / "a.mp4")
    (folder / "shown").symlink_to(".store")
    assert _found(folder) == [("blocked_by_policy", (folder / "shown").as_uri())]


def test_expand_dir_links_that_lead_nowhere_are_gone(folder: Path) -> None:
    for name, target in (("a.mp4", "none"), ("b", "b"), ("c", "d"), ("d", "c")):
        (folder / name).symlink_to(target)
    assert _found(folder) == [("gone", (folder / name).as_uri()) for name in ("a.mp4", "b", "c", "d")]


def test_expand_dir_folder_that_is_itself_a_link_is_walked(folder: Path) -> None:
    video = _write(folder / "a.mp4")
    (folder.parent / "link").symlink_to("in")
    assert _found(folder.parent / "link") == [("", video.as_uri())]


# ---- names ----


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.mp4", True),
        ("a.b.WEBM", True),
        ("a", False),
        (".mp4", False),
        ("mp4", False),
        ("a.mp4.part", False),
    ],
)
def test_is_media_name_looks_at_the_suffix(name: str, expected: bool) -> None:
    assert is_media_name(name) is expected
    assert is_media_name(f"folder.mp4/{name}") is expected


def test_is_media_name_agrees_with_the_list() -> None:
    assert all(is_media_name(f"a{suffix}") for suffix in MEDIA_SUFFIXES)
