"""Precision and recall of `cut_frames` on files that are spliced from the corpus, and its CPU time.

Each file holds shots of other sources joined by hard cuts at 25 frames a second, so cuts fall anywhere between the
8 frames a second that are looked at. A cut is found when a found one lies within one of those frames.
"""

import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from filters.cuts_per_s import cut_frames
from tests.bench.corpus import corpus_files
from tests.bench.report import NUM_ROUNDS, Figure, Report, say
from tests.filters.pictures import (
    Luma,
    decode_luma,
    faded,
    flashed,
    num_matched,
    panned,
    pieces,
    real_shots,
    relit,
)
from tests.media import CORPUS, ffmpeg

_RATE_FPS = 25
_NUM_FILES, _NUM_SHOTS = 8, 12
_LEAST_FRAMES, _MOST_FRAMES = 8, 75  # Of the file: shots of 0.3 to 3 s.
_BAR = 0.95
_PIECE_FRAMES = 16
_CLIP_FRAMES = 80


def main() -> None:
    """Measure and report."""
    cv2.setNumThreads(1)
    report = Report(
        "cuts",
        settings={"num_files": _NUM_FILES, "num_shots": _NUM_SHOTS, "frames": [_LEAST_FRAMES, _MOST_FRAMES]},
        inputs=corpus_files("*.m??"),
        num_warm_ups=1,
        ceiling="cuts at known frames",
    )
    say("joining files ...")
    with tempfile.TemporaryDirectory(prefix="avgen-bench-") as folder:
        counts = np.array([_counts(Path(folder) / f"{seed}.mp4", seed) for seed in range(_NUM_FILES)])
    matched, found, true = counts.sum(axis=0).tolist()
    for metric, value in (("precision_ratio", matched / found), ("recall_ratio", matched / true)):
        report.add(
            Figure(
                case="hard cuts", metric=metric, unit="ratio", values=(value,), bar=_BAR, more_is_better=True
            )
        )
    for case, num_events, clips in _other_changes():
        num_cuts = sum(len(cut_frames(clip)) for clip in clips)
        report.add(Figure(case=case, metric="cuts_per_event", unit="ratio", values=(num_cuts / num_events,)))
    report.add(Figure(case="10 s of 910 x 512", metric="cpu_s", unit="s", values=_cpu_s()))
    report.save()


def _counts(path: Path, seed: int) -> tuple[int, int, int]:
    """Cuts that match, that are found and that there are, in a file joined at random."""
    rng = np.random.default_rng(seed)
    names = rng.permutation(list(real_shots()))
    order = [names[index % len(names)] for index in range(_NUM_SHOTS)]
    lengths = rng.integers(_LEAST_FRAMES, _MOST_FRAMES + 1, _NUM_SHOTS)
    inputs, chains = [], []
    for index, (name, num_frames) in enumerate(zip(order, lengths, strict=True)):
        spare_s = len(real_shots()[name]) / 8 - num_frames / _RATE_FPS
        inputs += ["-ss", f"{rng.uniform(0, spare_s - 0.25):.3f}", "-i", CORPUS / name]
        chains.append(
            f"[{index}:v:0]fps={_RATE_FPS},trim=end_frame={num_frames},setpts=PTS-STARTPTS,"
            f"scale=640:360:force_original_aspect_ratio=increase,crop=640:360,setsar=1,format=yuv420p[v{index}]"
        )
    joined = "".join(f"[v{index}]" for index in range(_NUM_SHOTS))
    graph = ";".join([*chains, f"{joined}concat=n={_NUM_SHOTS}:v=1[v]", "sine=sample_rate=16000[a]"])
    ffmpeg(
        *inputs, "-filter_complex", graph, "-map", "[v]", "-map", "[a]", "-shortest",
        "-c:v", "libx264", "-preset", "veryfast", "-c:a", "aac", path,
    )  # fmt: skip
    cut_times = [Fraction(int(end), _RATE_FPS) for end in np.cumsum(lengths)[:-1]]
    true = np.array([round(8 * cut_time) for cut_time in cut_times])
    found = cut_frames(decode_luma(path, num_frames=int(lengths.sum()) * 8 // _RATE_FPS))
    return num_matched(found, true), len(found), len(true)


def _other_changes() -> Iterator[tuple[str, int, list[Luma]]]:
    """What is no cut, or a class of its own: its name, how often it happens, the clips."""
    clips = pieces(_PIECE_FRAMES)
    steps = _PIECE_FRAMES - 1
    lit = np.arange(_PIECE_FRAMES) % 2 == 1
    yield "shot as it is, a step", steps * len(clips), clips
    yield "flash", len(clips), [flashed(clip, at=7, gain=1, offset=120) for clip in clips]
    for to_luma in (16, 235):
        yield f"fade of 0.75 s to {to_luma}", len(clips), [faded(clip, to_luma=to_luma) for clip in clips]
    for px_per_frame in (40, 68, 100):
        case = f"pan by {px_per_frame / 455:.2f} widths a frame, a step"
        yield case, steps * len(clips), [panned(clip, px_per_frame=px_per_frame) for clip in clips]
    for case, other in (("flicker", lambda clip: relit(clip, offset=60)), ("strobe to black", np.zeros_like)):
        lit_clips = [np.where(lit[:, None, None], other(clip), clip) for clip in clips]
        yield f"{case}, a change", steps * len(clips), lit_clips


def _cpu_s() -> tuple[float, ...]:
    """CPU time of one clip, repeated."""
    luma_NHW = decode_luma(CORPUS / "vggsound_0B4dYTMsgHA_000130.mp4", num_frames=_CLIP_FRAMES)
    values = []
    for _ in range(NUM_ROUNDS + 1):
        started_s = time.process_time()
        cut_frames(luma_NHW)
        values.append(time.process_time() - started_s)
    return tuple(values[1:])


if __name__ == "__main__":
    main()
