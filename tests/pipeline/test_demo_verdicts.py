"""The known answers cover the site, and every kind of disagreement is told."""

from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pipeline.demo.clips import BAD_CLIPS, BUNNY_FILE, GOOD_CLIPS, HLS_FOLDER, HLS_PLAYLIST
from pipeline.demo.site import serve_site, site_files
from pipeline.demo.verdicts import (
    ExpectedVerdict,
    FoundVerdict,
    check_verdicts,
    demo_sources,
    expected_verdicts,
)


def _as_expected(expected: ExpectedVerdict) -> FoundVerdict:
    return FoundVerdict(
        url=f"http://127.0.0.1:4711{expected.path}",
        outcome=expected.outcome,
        reasons=expected.reasons,
        code=next(iter(expected.codes), ""),
    )


@pytest.fixture
def right() -> list[FoundVerdict]:
    return [_as_expected(expected) for expected in expected_verdicts()]


def _index(found: list[FoundVerdict], outcome: str) -> int:
    return next(index for index, verdict in enumerate(found) if verdict.outcome == outcome)


def test_check_verdicts_all_right_says_nothing(right: list[FoundVerdict]) -> None:
    assert check_verdicts(right) == ()


def test_check_verdicts_two_clips_of_a_source_both_right_says_nothing(right: list[FoundVerdict]) -> None:
    assert check_verdicts([*right, right[0]]) == ()


def test_check_verdicts_nothing_found_names_every_source() -> None:
    lines = check_verdicts([])
    assert len(lines) == len(expected_verdicts())
    assert "/feed/testcard.mp4: must be kept, is missing" in lines
    assert "/media/noisy.mp4: must be rejected (snr_db), is missing" in lines
    assert "/media/gone.mp4: must be failed (gone), is missing" in lines


def test_check_verdicts_unknown_source_is_told(right: list[FoundVerdict]) -> None:
    stray = FoundVerdict(url="http://127.0.0.1:4711/stray.mp4", outcome="kept")
    assert check_verdicts([*right, stray]) == ("/stray.mp4: must not be there, is kept",)


@pytest.mark.parametrize(
    ("outcome", "changes", "said"),
    [
        ("kept", {"outcome": "rejected", "reasons": frozenset({"snr_db"})}, "kept, is rejected (snr_db)"),
        ("kept", {"outcome": "failed", "code": "timeout"}, "kept, is failed (timeout)"),
        ("failed", {"code": "timeout"}, "is failed (timeout)"),
        ("failed", {"outcome": "kept", "code": ""}, "is kept"),
        ("rejected", {"reasons": frozenset({"frame_rate_fps"})}, "is rejected (frame_rate_fps)"),
        ("rejected", {"reasons": frozenset()}, "is rejected"),
        ("rejected", {"outcome": "kept", "reasons": frozenset()}, "is kept"),
    ],
)
def test_check_verdicts_one_wrong_gives_one_line(
    right: list[FoundVerdict], outcome: str, changes: dict[str, object], said: str
) -> None:
    index = _index(right, outcome)
    right[index] = replace(right[index], **changes)  # type: ignore[arg-type]
    (line,) = check_verdicts(right)
    assert line.startswith(urlsplit(right[index].url).path)
    assert line.endswith(said)


def test_check_verdicts_one_reason_too_many_is_told(right: list[FoundVerdict]) -> None:
    index = next(i for i, verdict in enumerate(right) if verdict.url.endswith("/noisy.mp4"))
    right[index] = replace(right[index], reasons=frozenset({"snr_db", "silence_ratio"}))
    assert check_verdicts(right) == (
        "/media/noisy.mp4: must be rejected (snr_db), is rejected (silence_ratio, snr_db)",
    )


def test_check_verdicts_one_clip_of_a_source_wrong_is_told_once(right: list[FoundVerdict]) -> None:
    wrong = replace(right[0], outcome="rejected", reasons=frozenset({"cuts_per_s"}))
    assert len(check_verdicts([*right, wrong, wrong])) == 1


def test_expected_verdicts_are_many_distinct_and_of_every_kind() -> None:
    expected = expected_verdicts()
    assert len(expected) >= 24
    assert len({verdict.path for verdict in expected}) == len(expected)
    assert {verdict.outcome for verdict in expected} == {"kept", "rejected", "failed"}
    assert all(bool(verdict.reasons) == (verdict.outcome == "rejected") for verdict in expected)
    assert all(bool(verdict.codes) == (verdict.outcome == "failed") for verdict in expected)


def test_expected_verdicts_every_clip_is_reached() -> None:
    stems = {verdict.path.rpartition("/")[2].partition(".")[0] for verdict in expected_verdicts()}
    assert {clip.name for clip in (*GOOD_CLIPS, *BAD_CLIPS)} <= stems
    assert BUNNY_FILE.partition(".")[0] in stems


def test_demo_sources_expand_to_the_expected_items(tmp_path: Path) -> None:
    """yt-dlp itself opens every page, feed and playlist; the films' content does not matter to it."""
    from crawl.sources import SourceItem, expand
    from crawl.web import Web
    from pipeline.recipe import load_recipe

    (tmp_path / HLS_FOLDER).mkdir()
    (tmp_path / HLS_FOLDER / HLS_PLAYLIST).write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nautomaton0.ts\n#EXT-X-ENDLIST\n"
    )
    for path in {*site_files(tmp_path).values()}:
        if path.suffix == ".mp4":
            path.write_bytes(b"\0\0\0\x20ftypisom" + bytes(500))
    with serve_site(tmp_path) as base_url:
        web = Web.opened(load_recipe("demo", []).fetch)
        found = [source for spec in demo_sources(base_url) for source in expand(spec, web)]
        web.close()
    assert all(isinstance(source, SourceItem) for source in found)
    paths = {urlsplit(item.url).path for item in found}
    assert paths == {verdict.path for verdict in expected_verdicts()}
