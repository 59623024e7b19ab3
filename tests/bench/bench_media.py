"""CPU time of curating a source against that of the bare ffmpeg transcode of the same file.

Curating probes, screens, decodes, measures, encodes what is kept, and writes the bundle. One process and its
reading child serve all files after a warm-up on each, so starting Python is not in it. The files are the corpus
and sources made from it that are kept, or rejected for their sound or their key frames; those that the command
line names are measured instead.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import av
import numpy as np
from numpy.typing import NDArray

from infra.media.child import find_ffmpeg
from pipeline.curate_source import Workplace
from pipeline.ray_adapter import open_workplace
from pipeline.recipe import Recipe, load_recipe
from tests.bench.corpus import corpus_files
from tests.bench.media_sources import make_badly_heard, make_blurred, make_kept, spread_s
from tests.bench.media_work import Fate, curate, fate, require_fate
from tests.bench.process_tree import tree_cpu_s
from tests.bench.report import NUM_ROUNDS, Figure, Report, say
from tests.stored import store

_MAX_RATIO_KEPT = 1.10
_MAX_RATIO_FAST = 0.85
_MAX_RATIO_HEADER = 0.02
_MAX_RATIO_AUDIO = 0.10
_MAX_RATIO_SHARPNESS = 0.15
_MAX_RATIO_CORPUS = 0.50
_MAX_RATIO_MIXED = 0.80
_FULL_SIZES_PX = (720, 1080)  # Of the shorter side.
_MADE_REJECTED_S = 20
_MIXED_KEPT = (14, 10, 60)
# Two each for their sound, their sharpness and their header: with 14 kept ones, 30 % by number and by length.
_MIXED_REJECTED = (
    "heard_screen_1080p_2min.mp4",
    "heard_vggsound_0B4dYTMsgHA_000130.mp4",
    "blurred_screen_1080p_2min.mp4",
    "blurred_vggsound_0B4dYTMsgHA_000130.mp4",
    "lecture_360p.mp4",
    "world_270p.mp4",
)
# What takes milliseconds is repeated: the clock of a running child ticks every 10.
_NUM_REPEATS: dict[Fate, int] = {"probe": 20, "audio": 3, "keyframes": 3}
_ROWS_PER_S = 8
_BARE_OPTIONS = (
    "-vf", "fps=8,scale=512:512:force_original_aspect_ratio=increase,crop=512:512",
    "-c:v", "libx264", "-preset", "veryfast", "-crf", "23", "-ac", "1", "-ar", "16000", "-c:a", "flac",
    "-threads", "1",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """A file, what becomes of it, and the two ways to work it off."""

    path: Path
    fate: Fate
    short_side_px: int
    """0 when it cannot be decoded."""
    curate: Callable[[], object]
    transcode: Callable[[], None]


_CostsOf: TypeAlias = dict[Path, tuple[tuple[float, ...], tuple[float, ...]]]
"""CPU seconds of curating a file, and of the bare transcode, one of each a round."""


def main() -> None:
    """Measure and report."""
    recipe = load_recipe("default", [])
    named = [Path(name).resolve() for name in sys.argv[1:]]
    paths = named or corpus_files("*.m??")
    with tempfile.TemporaryDirectory(prefix="avgen-bench-") as folder:
        place = open_workplace(recipe, root=Path(folder), work_dir=Path(folder))
        made = [] if named else _make_sources(Path(folder))
        cases = [_case(path, recipe, place) for path in paths]
        cases += [_case(path, recipe, place, wanted=wanted) for wanted, path in made]
        report = Report(
            "media",
            settings={
                "recipe_id": recipe.recipe_id,
                "bare_options": _BARE_OPTIONS,
                "made_rejected_s": _MADE_REJECTED_S,
                "mixed_kept_num_low_s_high_s": _MIXED_KEPT,
                "mixed_rejected": _MIXED_REJECTED,
            },
            inputs=paths,
            num_warm_ups=1,
            ceiling="ffmpeg alone: one decode thread, one encode thread, the options in settings",
        )
        costs = _measure(cases)
        place.reader.close()
    _report_files(report, cases[: len(paths)], costs)
    if made:
        _report_made(report, cases, len(paths), costs)
    report.save()


def _make_sources(folder: Path) -> list[tuple[Fate, Path]]:
    """Sources made from the corpus, and how far each must come."""
    say("making sources")
    made: dict[Fate, list[Path]] = {
        "kept": make_kept(folder, spread_s(*_MIXED_KEPT)),
        "audio": make_badly_heard(folder, _MADE_REJECTED_S),
        "keyframes": make_blurred(folder, _MADE_REJECTED_S),
    }
    return [(wanted, path) for wanted, paths in made.items() for path in paths]


def _report_files(report: Report, cases: Sequence[_Case], costs: _CostsOf) -> None:
    add = partial(_add, report, costs)
    kept = [case for case in cases if case.fate == "kept"]
    full_size = [case for case in kept if case.short_side_px in _FULL_SIZES_PX]
    add("accepted 720p and 1080p", full_size, bar=_MAX_RATIO_KEPT)
    add("accepted 720p and 1080p, against the bar of a fast mode", full_size, bar=_MAX_RATIO_FAST)
    for case in kept:
        add(case.path.name, [case], bar=_MAX_RATIO_KEPT)
        ratios = (_left_out_ratio(case.path),)
        report.add(Figure(case=case.path.name, metric="frames_left_out_ratio", unit="ratio", values=ratios))
    add("rejected on the header", [case for case in cases if case.fate == "probe"], bar=_MAX_RATIO_HEADER)
    add("whole corpus", cases, bar=_MAX_RATIO_CORPUS)


def _report_made(report: Report, cases: Sequence[_Case], num_files: int, costs: _CostsOf) -> None:
    add = partial(_add, report, costs)
    by_fate: dict[Fate, list[_Case]] = {"kept": [], "audio": [], "keyframes": []}
    for case in cases[num_files:]:
        by_fate[case.fate].append(case)
    add("rejected on audio", by_fate["audio"], bar=_MAX_RATIO_AUDIO)
    add("rejected on sharpness by key frames", by_fate["keyframes"], bar=_MAX_RATIO_SHARPNESS)
    rejected = [case for case in cases if case.path.name in _MIXED_REJECTED]
    assert len(rejected) == len(_MIXED_REJECTED), (
        "the mix takes its rejected sources from those that are measured"
    )
    add("mixed corpus, 30% rejected", by_fate["kept"] + rejected, bar=_MAX_RATIO_MIXED)


def _add(report: Report, costs: _CostsOf, case: str, members: Sequence[_Case], *, bar: float) -> None:
    """What working off some files cost, together; nothing when there are none."""
    if not members:
        return
    curated_s, bare_s = (
        _sums(rows) for rows in zip(*(costs[member.path] for member in members), strict=True)
    )
    ratios = tuple(ours / bare for ours, bare in zip(curated_s, bare_s, strict=True))
    report.add(Figure(case=case, metric="cpu_ratio", unit="ratio", values=ratios, bar=bar))
    report.add(Figure(case=case, metric="curate_cpu_s", unit="s", values=curated_s))
    report.add(Figure(case=case, metric="bare_transcode_cpu_s", unit="s", values=bare_s))


def _sums(rows: Iterable[tuple[float, ...]]) -> tuple[float, ...]:
    return tuple(map(sum, zip(*rows, strict=True)))


def _case(path: Path, recipe: Recipe, place: Workplace, *, wanted: Fate | None = None) -> _Case:
    """The file is worked off once, both ways, to warm up and to see what becomes of it."""
    source = store(path, recipe=recipe, root=place.root)
    curated = curate(source, recipe=recipe, place=place)
    if wanted:
        require_fate(path, wanted, curated)
    case = _Case(
        path=path,
        fate=fate(curated),
        short_side_px=min(curated.probe.width_px, curated.probe.height_px) if curated else 0,
        curate=partial(curate, source, recipe=recipe, place=place),
        transcode=partial(_transcode, path, place),
    )
    say(f"{path.name}: {case.fate}")
    case.transcode()
    return case


def _measure(cases: Sequence[_Case]) -> _CostsOf:
    """What each case costs in every round."""
    rounds = []
    for round_index in range(NUM_ROUNDS):
        say(f"round {round_index + 1} of {NUM_ROUNDS}")
        rounds.append([(_curate_cpu_s(case), _cpu_s(case.transcode)) for case in cases])
    by_case = zip(*rounds, strict=True)
    return {case.path: tuple(zip(*pairs, strict=True)) for case, pairs in zip(cases, by_case, strict=True)}


def _curate_cpu_s(case: _Case) -> float:
    num_repeats = _NUM_REPEATS.get(case.fate, 1)
    return _cpu_s(lambda: [case.curate() for _ in range(num_repeats)]) / num_repeats


def _cpu_s(work: Callable[[], object]) -> float:
    before_s = tree_cpu_s()
    work()
    return tree_cpu_s() - before_s


def _transcode(path: Path, place: Workplace) -> None:
    """Failing is a way to be done: some files of the corpus are broken."""
    command = [str(find_ffmpeg()), "-nostdin", "-loglevel", "fatal", "-y", "-threads", "1", "-i", str(path)]
    subprocess.run([*command, *_BARE_OPTIONS, str(place.work_dir / "bare.mkv")], check=False)


def _left_out_ratio(path: Path) -> float:
    """Share of the frames that no other frame refers to and that none of the rows shows: they need no decoding."""
    shown_s, referred_to_s = (_frame_times_s(path, skip_frame) for skip_frame in ("DEFAULT", "NONREF"))
    lead_s = float(np.median(np.diff(shown_s))) / 2  # A row shows the frame nearest to its instant.
    instants_s = np.arange(shown_s[0], shown_s[-1], 1 / _ROWS_PER_S) + lead_s
    rows_s = shown_s[np.searchsorted(shown_s, instants_s, side="right") - 1]
    needed_s = np.union1d(rows_s, referred_to_s)
    return 1 - len(needed_s) / len(shown_s)


def _frame_times_s(path: Path, skip_frame: str) -> NDArray[np.float64]:
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.skip_frame = skip_frame
        return np.array([frame.time for frame in container.decode(video=0)])


if __name__ == "__main__":
    main()
