"""Precision and recall of finding copies: clips of the corpus, changed in 22 ways, against each other and all
others.

Each clip is coded again with one change (`tests/dedup_copies.py`), at 360 lines at most. Every pair of clips
is compared; a pair is wrong when its clips show nothing in common. Copies of the clips of a file with the
same change are one source, as when the file is put up again. A clip without sound or detail counts as one
that was not found.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import av

from pipeline.dedup_config import DedupConfig
from pipeline.fingerprint_clip import Fingerprint, fingerprint_clip
from tests.bench.corpus import corpus_files
from tests.bench.report import Figure, Report, say
from tests.dedup_copies import CHANGES, RATE_FPS, Change, Original, decoded, make_copy
from tests.dedup_quality import WAYS, Known, Quality, quality
from tests.media import CORPUS

_CLIP_S, _MIN_CLIP_S, _MAX_CLIPS, _DUB_STEP = 10.0, 3.0, 6, 5
# Broken, shorter than a clip, or turned by its header, which `decoded` does not read.
_LEFT_OUT = ("corrupted.mp4", "hevc_10bit_200p.mp4", "rotated_90.mov")
_BAR_RECALL, _BAR_PRECISION = 0.9, 0.99


def originals(pattern: str) -> list[Original]:
    """Clips of ten seconds, beside each other, of the corpus."""
    found = []
    for path in corpus_files(pattern):
        with av.open(str(path)) as file:
            duration_s = (file.duration or 0) / av.time_base
        starts_s = [_CLIP_S * index for index in range(_MAX_CLIPS)]
        found += [
            Original(file=path.name, start_s=start_s, end_s=min(start_s + _CLIP_S, duration_s))
            for start_s in starts_s
            if start_s + _MIN_CLIP_S <= duration_s and path.name not in _LEFT_OUT
        ]
    return found


def known_clips(clips: list[Original], cpu_s: list[float]) -> Iterator[Known]:
    """The clips and their copies with their fingerprints."""
    for index, clip in enumerate(clips):
        say(clip.name)
        length_s = clip.end_s - clip.start_s
        prints = _fingerprints(CORPUS / clip.file, cpu_s, start_s=clip.start_s, length_s=length_s)
        yield Known(original=clip, change="", fingerprints=prints)
        for change in CHANGES:
            if not _leaves_a_clip(clip, change):
                continue
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "copy.mp4"
                make_copy(path, clip, change, dub=clips[(index + _DUB_STEP) % len(clips)])
                yield Known(original=clip, change=change.name, fingerprints=_fingerprints(path, cpu_s))


def _leaves_a_clip(clip: Original, change: Change) -> bool:
    """Whether a shifted copy of the last clip of a file is one: it ends with the file."""
    return clip.end_s - clip.start_s - change.shift_s >= _MIN_CLIP_S


def _fingerprints(path: Path, cpu_s: list[float], **span: float) -> tuple[Fingerprint, ...]:
    luma_NHW, mono_T = decoded(path, **span)
    started_s = time.process_time()
    prints = fingerprint_clip(luma_NHW, mono_T, rate_fps=RATE_FPS)
    cpu_s.append(time.process_time() - started_s)
    return prints


def add_figures(report: Report, found: Quality) -> None:
    """Recall of every change and way, and over all, and the precision."""
    for way in WAYS:
        is_answer = way == "group"
        recall_bar, precision_bar = (_BAR_RECALL, _BAR_PRECISION) if is_answer else (None, None)
        report.add(_ratio(f"{way}, all", "recall_ratio", found.total(way), recall_bar))
        report.add(_ratio(f"{way}, all", "precision_ratio", found.precision(way), precision_bar))
        for change, (num_found, num_there) in found.recall[way].items():
            report.add(_ratio(f"{way}, {change}", "recall_ratio", num_found / num_there, None))
        for one, other in found.false_pairs[way] if is_answer else ():
            say(f"not copies of each other: {one} and {other}")


def _ratio(case: str, metric: str, value: float, bar: float | None) -> Figure:
    return Figure(case=case, metric=metric, unit="ratio", values=(value,), bar=bar, more_is_better=True)


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", default="*.m*", help="pattern of the corpus files to use")
    options = parser.parse_args()
    clips, cpu_s = originals(options.files), []
    config = DedupConfig()
    report = Report(
        "dedup_quality",
        settings=config.model_dump(mode="json"),
        inputs=[CORPUS / file for file in sorted({clip.file for clip in clips})],
        num_warm_ups=0,
        ceiling="1: every copy found, and nothing else",
    )
    found = quality(list(known_clips(clips, cpu_s)), config)
    add_figures(report, found)
    cpu_ms = tuple(1e3 * taken_s for taken_s in cpu_s)
    report.add(Figure(case="fingerprints of a clip", metric="cpu_ms", unit="ms", values=cpu_ms, bar=15))
    num_copies = len(cpu_s) - len(clips)
    say(f"{len(clips)} clips, {num_copies} copies, {found.num_negatives} pairs with nothing in common")
    report.save()


if __name__ == "__main__":
    main()
