"""CPU time of curating a source against that of the bare ffmpeg transcode of the same file.

Curating probes, screens, decodes, measures, encodes what is kept, and writes the bundle. One process serves all
files after a warm-up on each, so starting Python is not in it; ffmpeg children and the probe child are. Files are
named on the command line, or are all of the corpus.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import cv2

from crawl.fetch import FetchedMedia, fetch
from crawl.items import SourceItem, file_url, source_item
from infra.errors import MediaError
from infra.media.child import find_ffmpeg
from infra.media.probe import Prober
from pipeline.curate_source import Workplace, curate_source
from pipeline.recipe import Recipe, load_recipe
from pipeline.records import Curated
from tests.bench.corpus import corpus_files
from tests.bench.process_tree import tree_cpu_s
from tests.bench.report import NUM_ROUNDS, Figure, Report, say

_MAX_RATIO_ACCEPTED = 1.10
_MAX_RATIO_HEADER = 0.02
_MAX_RATIO_CORPUS = 0.50
_NUM_HEADER_REPEATS = 20  # Of what takes milliseconds, where the clock of a running child ticks every 10.
_BARE_OPTIONS = (
    "-vf", "fps=8,scale=512:512:force_original_aspect_ratio=increase,crop=512:512",
    "-c:v", "libx264", "-preset", "veryfast", "-crf", "23", "-ac", "1", "-ar", "16000", "-c:a", "flac",
    "-threads", "1",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """A file and the two ways to work it off."""

    path: Path
    fate: str
    """`accepted`: a clip is kept; `header`: rejected before it is decoded; `other`: rejected later, or failed."""
    curate: Callable[[], object]
    transcode: Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Costs:
    """CPU seconds, one of each a round."""

    curated_s: tuple[float, ...]
    bare_s: tuple[float, ...]


def main() -> None:
    """Measure and report."""
    recipe = load_recipe("default", [])
    cv2.setNumThreads(1)
    paths = [Path(name).resolve() for name in sys.argv[1:]] or corpus_files("*.m??")
    with tempfile.TemporaryDirectory(prefix="avgen-bench-") as folder, closing(Prober()) as probe:
        place = Workplace(root=Path(folder), work_dir=Path(folder), ffmpeg=find_ffmpeg(), probe=probe)
        cases = [_case(path, recipe, place) for path in paths]
        report = Report(
            "media",
            settings={"recipe_id": recipe.recipe_id, "bare_options": _BARE_OPTIONS},
            inputs=paths,
            num_warm_ups=1,
            ceiling="ffmpeg alone: one decode thread, one encode thread, the options in settings",
        )
        costs = _measure(cases)
    by_fate = {
        fate: [cost for case, cost in zip(cases, costs, strict=True) if case.fate == fate]
        for fate in ("accepted", "header")
    }
    _add(report, "all accepted files", by_fate["accepted"], bar=_MAX_RATIO_ACCEPTED)
    _add(report, "all files rejected on the header", by_fate["header"], bar=_MAX_RATIO_HEADER)
    _add(report, "all files", costs, bar=_MAX_RATIO_CORPUS)
    for case, cost in zip(cases, costs, strict=True):
        if case.fate == "accepted":
            _add(report, case.path.name, [cost], bar=_MAX_RATIO_ACCEPTED)
    report.save()


def _add(report: Report, case: str, costs: Sequence[_Costs], *, bar: float) -> None:
    """What working off some files cost, together; nothing when there are none."""
    if not costs:
        return
    curated_s = _sums(cost.curated_s for cost in costs)
    bare_s = _sums(cost.bare_s for cost in costs)
    ratios = tuple(ours / bare for ours, bare in zip(curated_s, bare_s, strict=True))
    report.add(Figure(case=case, metric="cpu_ratio", unit="ratio", values=ratios, bar=bar))
    report.add(Figure(case=case, metric="curate_cpu_s", unit="s", values=curated_s))
    report.add(Figure(case=case, metric="bare_transcode_cpu_s", unit="s", values=bare_s))


def _sums(rows: Iterable[tuple[float, ...]]) -> tuple[float, ...]:
    return tuple(map(sum, zip(*rows, strict=True)))


def _case(path: Path, recipe: Recipe, place: Workplace) -> _Case:
    """The file is worked off once, both ways, to warm up and to see what becomes of it."""
    item = source_item(file_url(path), kind="dir")
    fetched = fetch(
        item,
        media_dir=place.root / "media",
        work_dir=place.work_dir,
        ffmpeg=place.ffmpeg,
        config=recipe.fetch,
        now=lambda: datetime.now(UTC),
    )
    fate = _fate(_curate(item, fetched, recipe, place))
    say(f"{path.name}: {fate}")
    case = _Case(
        path=path,
        fate=fate,
        curate=partial(_curate, item, fetched, recipe, place),
        transcode=partial(_transcode, path, place),
    )
    case.transcode()
    return case


def _fate(curated: Curated | None) -> str:
    if curated is None:
        return "other"
    if any(verdict.kept for verdict in curated.verdicts):
        return "accepted"
    return "header" if curated.verdicts[0].stage == "screen" else "other"


def _measure(cases: Sequence[_Case]) -> list[_Costs]:
    """What each case costs in every round."""
    rounds = []
    for round_index in range(NUM_ROUNDS):
        say(f"round {round_index + 1} of {NUM_ROUNDS}")
        rounds.append([(_curate_cpu_s(case), _cpu_s(case.transcode)) for case in cases])
    by_case = [zip(*pairs, strict=True) for pairs in zip(*rounds, strict=True)]
    return [_Costs(curated_s=curated_s, bare_s=bare_s) for curated_s, bare_s in by_case]


def _curate_cpu_s(case: _Case) -> float:
    num_repeats = _NUM_HEADER_REPEATS if case.fate == "header" else 1
    return _cpu_s(lambda: [case.curate() for _ in range(num_repeats)]) / num_repeats


def _cpu_s(work: Callable[[], object]) -> float:
    before_s = tree_cpu_s()
    work()
    return tree_cpu_s() - before_s


def _curate(item: SourceItem, fetched: FetchedMedia, recipe: Recipe, place: Workplace) -> Curated | None:
    """Curate the whole source: what became of it; none when it cannot be decoded."""
    with suppress(MediaError):
        *_, last = curate_source(item, fetched, recipe=recipe, workplace=place)
        assert last.outcome is not None
        return last.outcome.curated
    return None


def _transcode(path: Path, place: Workplace) -> None:
    """Failing is a way to be done: some files of the corpus are broken."""
    command = [str(place.ffmpeg), "-nostdin", "-loglevel", "fatal", "-y", "-threads", "1", "-i", str(path)]
    subprocess.run([*command, *_BARE_OPTIONS, str(place.work_dir / "bare.mkv")], check=False)


if __name__ == "__main__":
    main()
