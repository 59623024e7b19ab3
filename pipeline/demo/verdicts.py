"""What must become of every source of the demo's site, and how a run differs from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from infra.errors import Gone, Private, Undecodable
from pipeline.demo.clips import (
    BAD_CLIPS,
    BUNNY_FILE,
    GOOD_CLIPS,
    HLS_FOLDER,
    HLS_PLAYLIST,
    TEXT_FILE,
    TRUNCATED_FILE,
)
from pipeline.demo.site import (
    FEED_FILES,
    FEED_PATH,
    GONE_PATH,
    MIRROR_FILES,
    PAIR_FILES,
    PAIR_PATH,
    PRIVATE_PATH,
    WATCH_FILES,
    watch_path,
)

Outcome = Literal["kept", "rejected", "failed"]

BUNNY_BREAKS: frozenset[str] = frozenset()
"""Every reason for which the recipe's standards reject the real clip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedVerdict:
    """The known answer for one source item."""

    path: str
    """Path of the item's URL; host and port differ from run to run."""
    outcome: Outcome
    reasons: frozenset[str] = frozenset()
    """Of a rejection: filter names, or `no_audio`."""
    codes: frozenset[str] = frozenset()
    """Of a failure: the error codes that are right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundVerdict:
    """What a run made of one source item, or of one clip of it."""

    url: str
    outcome: Outcome
    reasons: frozenset[str] = frozenset()
    code: str = ""
    """Empty unless it failed."""


def demo_sources(base_url: str) -> tuple[str, ...]:
    """What `avgen demo` gives to `--source`: a feed, pages, a playlist and direct addresses."""
    return tuple(base_url + path for path in _source_paths())


def expected_verdicts() -> tuple[ExpectedVerdict, ...]:
    """One answer for each item that the sources expand to."""
    breaks_by_file = {clip.file_name: clip.breaks for clip in (*GOOD_CLIPS, *BAD_CLIPS)}
    breaks_by_file[BUNNY_FILE] = BUNNY_BREAKS
    media = [_expected(f"/feed/{name}", breaks_by_file[name]) for name in FEED_FILES]
    media += [_expected(watch_path(name), breaks_by_file[name]) for name in WATCH_FILES]
    media += [_expected(f"/pair/{name}", breaks_by_file[name]) for name in PAIR_FILES]
    media += [_expected(f"/{HLS_FOLDER}/{HLS_PLAYLIST}", frozenset())]
    media += [_expected(f"/mirror/{name}", breaks_by_file[name]) for name in MIRROR_FILES]
    media += [_expected(f"/media/{name}", breaks_by_file[name]) for name in _direct_bad_files()]
    return (*media, *(_failed(path, code) for path, code in _FAILURE_CODES.items()))


def check_verdicts(found: Sequence[FoundVerdict]) -> tuple[str, ...]:
    """One line for each disagreement with the known answers; none when all is right.

    A source may be found several times, once a clip; every time must agree.
    """
    expected_by_path = {expected.path: expected for expected in expected_verdicts()}
    found_by_path: dict[str, list[FoundVerdict]] = {}
    for verdict in found:
        found_by_path.setdefault(urlsplit(verdict.url).path, []).append(verdict)
    lines = [
        f"{path}: must be {_said(expected.outcome, expected.reasons, expected.codes)}, is missing"
        for path, expected in expected_by_path.items()
        if path not in found_by_path
    ]
    for path, verdicts in found_by_path.items():
        lines += dict.fromkeys(
            line for verdict in verdicts for line in _disagreement(path, verdict, expected_by_path)
        )
    return tuple(lines)


# The file without an index and the text are found out when they are opened, not when they are fetched.
_FAILURE_CODES: dict[str, str] = {
    GONE_PATH: Gone.code,
    PRIVATE_PATH: Private.code,
    f"/media/{TRUNCATED_FILE}": Undecodable.code,
    f"/media/{TEXT_FILE}": Undecodable.code,
}


def _source_paths() -> tuple[str, ...]:
    return (
        FEED_PATH,
        *(watch_path(name) for name in WATCH_FILES),
        PAIR_PATH,
        f"/{HLS_FOLDER}/{HLS_PLAYLIST}",
        *(f"/mirror/{name}" for name in MIRROR_FILES),
        *(f"/media/{name}" for name in _direct_bad_files()),
        *_FAILURE_CODES,
    )


def _direct_bad_files() -> tuple[str, ...]:
    return tuple(clip.file_name for clip in BAD_CLIPS if clip.file_name not in WATCH_FILES)


def _expected(path: str, breaks: frozenset[str]) -> ExpectedVerdict:
    return ExpectedVerdict(path=path, outcome="rejected" if breaks else "kept", reasons=breaks)


def _failed(path: str, code: str) -> ExpectedVerdict:
    return ExpectedVerdict(path=path, outcome="failed", codes=frozenset({code}))


def _disagreement(
    path: str, found: FoundVerdict, expected_by_path: Mapping[str, ExpectedVerdict]
) -> list[str]:
    said = _said(found.outcome, found.reasons, frozenset({found.code} - {""}))
    if path not in expected_by_path:
        return [f"{path}: must not be there, is {said}"]
    expected = expected_by_path[path]
    right_code = found.code in expected.codes if expected.outcome == "failed" else found.code == ""
    if (found.outcome, found.reasons) == (expected.outcome, expected.reasons) and right_code:
        return []
    return [f"{path}: must be {_said(expected.outcome, expected.reasons, expected.codes)}, is {said}"]


def _said(outcome: Outcome, reasons: frozenset[str], codes: frozenset[str]) -> str:
    details = ", ".join(sorted(reasons | codes))
    return f"{outcome} ({details})" if details else outcome
