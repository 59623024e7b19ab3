"""CPU time of curating a source against that of the bare ffmpeg transcode of the same file.

Curating probes, screens, decodes, measures, encodes what is kept, and writes the bundle. One process serves all
files after a warm-up on each, so starting Python is not in it; ffmpeg children and the probe child are.
"""

import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import cv2

from crawl.fetch import FetchedMedia, fetch
from crawl.items import SourceItem, file_url, source_item
from infra.media.child import find_ffmpeg
from infra.media.probe import Prober
from pipeline.curate_source import Workplace, curate_source
from pipeline.recipe import Recipe, load_recipe
from pipeline.records import CuratePart
from tests.bench.corpus import corpus_files
from tests.bench.process_tree import tree_cpu_s
from tests.bench.report import NUM_ROUNDS, Figure, Report, say

_MAX_CPU_RATIO = 1.10
_BARE_OPTIONS = (
    "-vf", "fps=8,scale=512:512:force_original_aspect_ratio=increase,crop=512:512",
    "-c:v", "libx264", "-preset", "veryfast", "-crf", "23", "-ac", "1", "-ar", "16000", "-c:a", "flac",
    "-threads", "1",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """A file of the corpus and the two ways to work it off."""

    path: Path
    curate: Callable[[], object]
    transcode: Callable[[], None]


def main() -> None:
    """Measure and report."""
    recipe = load_recipe("default", [])
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory(prefix="avgen-bench-") as folder, closing(Prober()) as probe:
        place = Workplace(root=Path(folder), work_dir=Path(folder), ffmpeg=find_ffmpeg(), probe=probe)
        cases = list(_accepted(recipe, place))
        report = Report(
            "media",
            settings={"recipe_id": recipe.recipe_id, "bare_options": _BARE_OPTIONS},
            inputs=[case.path for case in cases],
            num_warm_ups=1,
            ceiling="ffmpeg alone: one decode thread, one encode thread, the options in settings",
        )
        curated_s, bare_s = _measure(cases)
    total = "all accepted files"
    curated_s[total] = [sum(values) for values in zip(*curated_s.values(), strict=True)]
    bare_s[total] = [sum(values) for values in zip(*bare_s.values(), strict=True)]
    for case, values in curated_s.items():
        ratios = tuple(ours / bare for ours, bare in zip(values, bare_s[case], strict=True))
        report.add(Figure(case=case, metric="cpu_ratio", unit="ratio", values=ratios, bar=_MAX_CPU_RATIO))
        report.add(Figure(case=case, metric="curate_cpu_s", unit="s", values=tuple(values)))
        report.add(Figure(case=case, metric="bare_transcode_cpu_s", unit="s", values=tuple(bare_s[case])))
    report.save()


def _accepted(recipe: Recipe, place: Workplace) -> Iterator[_Case]:
    """The files of which the recipe keeps a clip. Each is worked off once, both ways, to warm up."""
    for path in corpus_files("*.m??"):
        item = source_item(file_url(path), kind="dir")
        fetched = fetch(
            item,
            media_dir=place.root / "media",
            work_dir=place.work_dir,
            ffmpeg=place.ffmpeg,
            config=recipe.fetch,
            now=lambda: datetime.now(UTC),
        )
        outcome = _curate(item, fetched, recipe, place).outcome
        assert outcome is not None and outcome.curated is not None
        verdicts = outcome.curated.verdicts
        num_kept = sum(verdict.kept for verdict in verdicts)
        if not num_kept:
            continue
        say(f"{path.name}: {num_kept} of {len(verdicts)} clips are kept")
        case = _Case(
            path=path,
            curate=partial(_curate, item, fetched, recipe, place),
            transcode=partial(_transcode, path, place),
        )
        case.transcode()
        yield case


def _measure(cases: list[_Case]) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """CPU seconds of every round by file name: curated, and transcoded by ffmpeg alone."""
    curated_s: dict[str, list[float]] = defaultdict(list)
    bare_s: dict[str, list[float]] = defaultdict(list)
    for round_index in range(NUM_ROUNDS):
        say(f"round {round_index + 1} of {NUM_ROUNDS}")
        for case in cases:
            curated_s[case.path.name].append(_cpu_s(case.curate))
            bare_s[case.path.name].append(_cpu_s(case.transcode))
    return curated_s, bare_s


def _cpu_s(work: Callable[[], object]) -> float:
    before_s = tree_cpu_s()
    work()
    return tree_cpu_s() - before_s


def _curate(item: SourceItem, fetched: FetchedMedia, recipe: Recipe, place: Workplace) -> CuratePart:
    """Curate the whole source; the last part, which says what became of it."""
    *_, last = curate_source(item, fetched, recipe=recipe, workplace=place)
    return last


def _transcode(path: Path, place: Workplace) -> None:
    command = [str(place.ffmpeg), "-nostdin", "-loglevel", "error", "-y", "-threads", "1", "-i", str(path)]
    subprocess.run([*command, *_BARE_OPTIONS, str(place.work_dir / "bare.mkv")], check=True)


if __name__ == "__main__":
    main()
