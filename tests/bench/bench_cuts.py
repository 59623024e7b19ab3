"""Precision and recall of `cut_frames` on files that are spliced from the corpus, and its CPU time.

Each file holds shots of other sources joined by hard cuts at 25 frames a second, so cuts fall anywhere between the
8 frames a second that are looked at. A cut is found when a found one lies within one of those frames.

Beside it PySceneDetect, which sees every frame of a file and is counted by the same rule. It has its default
settings; `at any length` is without the default of at least 15 frames a scene, more than some shots have. What is
no cut is made of grey frames, 8 a second, and PySceneDetect sees a file of them: 15 frames are nearly all of it,
and two thirds of its score are colour, which is nowhere, so `of luma` is its score of luma alone.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import scenedetect
from numpy.typing import NDArray
from scenedetect import AdaptiveDetector, ContentDetector
from scenedetect.detector import SceneDetector

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
_DEFAULT: dict[str, Callable[..., SceneDetector]] = {
    "PySceneDetect ContentDetector": ContentDetector,
    "PySceneDetect AdaptiveDetector": AdaptiveDetector,
}
_ANY_LENGTH = {f"{name} at any length": partial(new, min_scene_len=0) for name, new in _DEFAULT.items()}
_ANY_LENGTH_OF_LUMA = {f"{name} of luma": partial(new, luma_only=True) for name, new in _ANY_LENGTH.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Joined:
    """A file of shots with hard cuts between them."""

    path: Path
    shot_frames: NDArray[np.int64]

    def true_cuts(self) -> NDArray[np.intp]:
        """The frames, of 8 a second, that begin a shot."""
        cut_times_s = [Fraction(int(end), _RATE_FPS) for end in np.cumsum(self.shot_frames)[:-1]]
        return np.array([round(8 * cut_time_s) for cut_time_s in cut_times_s])


def main() -> None:
    """Measure and report."""
    cv2.setNumThreads(1)
    report = Report(
        "cuts",
        settings={
            "num_files": _NUM_FILES,
            "num_shots": _NUM_SHOTS,
            "frames": [_LEAST_FRAMES, _MOST_FRAMES],
            "pyscenedetect": scenedetect.__version__,
        },
        inputs=corpus_files("*.m??"),
        num_warm_ups=1,
        ceiling="cuts at known frames; PySceneDetect",
    )
    with tempfile.TemporaryDirectory(prefix="avgen-bench-") as folder:
        _report_hard_cuts(report, Path(folder))
        _report_other_changes(report, Path(folder))
    for case, values in _cpu_s().items():
        report.add(Figure(case=case, metric="cpu_s", unit="s", values=values))
    report.save()


def _report_hard_cuts(report: Report, folder: Path) -> None:
    say("joining files ...")
    files = [_join(folder / f"{seed}.mp4", seed) for seed in range(_NUM_FILES)]
    _report_hits(report, "hard cuts", files, _ours, bar=_BAR)
    for name, new in {**_DEFAULT, **_ANY_LENGTH}.items():
        _report_hits(report, f"hard cuts, {name}", files, lambda file, new=new: _theirs(file.path, new()))


def _report_hits(
    report: Report,
    case: str,
    files: list[_Joined],
    find: Callable[[_Joined], NDArray[np.intp]],
    bar: float | None = None,
) -> None:
    """Precision and recall over all cuts of the files."""
    matched = found = true = 0
    for file in files:
        found_cuts, true_cuts = find(file), file.true_cuts()
        matched += num_matched(found_cuts, true_cuts)
        found, true = found + len(found_cuts), true + len(true_cuts)
    for metric, value in (("precision_ratio", matched / found), ("recall_ratio", matched / true)):
        report.add(
            Figure(case=case, metric=metric, unit="ratio", values=(value,), bar=bar, more_is_better=True)
        )


def _report_other_changes(report: Report, folder: Path) -> None:
    """Cuts that are found where there is none, or another kind."""
    for case, num_events, clips in _other_changes():
        num_cuts = {case: sum(len(cut_frames(clip)) for clip in clips)}
        paths = [_as_file(folder / f"{index}.mkv", clip) for index, clip in enumerate(clips)]
        for name, new in {**_ANY_LENGTH, **_ANY_LENGTH_OF_LUMA}.items():
            num_cuts[f"{case}, {name}"] = sum(len(_theirs(path, new())) for path in paths)
        for named_case, num in num_cuts.items():
            values = (num / num_events,)
            report.add(Figure(case=named_case, metric="cuts_per_event", unit="ratio", values=values))


def _ours(file: _Joined) -> NDArray[np.intp]:
    return cut_frames(decode_luma(file.path, num_frames=int(file.shot_frames.sum()) * 8 // _RATE_FPS))


def _theirs(path: Path, detector: SceneDetector) -> NDArray[np.intp]:
    """Cuts that PySceneDetect finds, as frames of 8 a second."""
    scenes = scenedetect.detect(path, detector, start_in_scene=True)
    return np.array([round(8 * start.seconds) for start, _ in scenes[1:]], np.intp)


def _join(path: Path, seed: int) -> _Joined:
    """A file joined at random."""
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
    return _Joined(path=path, shot_frames=lengths)


def _as_file(path: Path, luma_NHW: Luma) -> Path:
    """A lossless file of the frames, 8 a second."""
    raw = path.with_suffix(".gray")
    raw.write_bytes(np.ascontiguousarray(luma_NHW).tobytes())
    _, height, width = luma_NHW.shape
    ffmpeg(
        "-f", "rawvideo", "-pix_fmt", "gray", "-s", f"{width}x{height}", "-r", "8", "-i", raw,
        "-vf", "scale=in_range=tv:out_range=tv,format=yuv420p", "-c:v", "ffv1", path,
    )  # fmt: skip
    return path


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


def _cpu_s() -> dict[str, tuple[float, ...]]:
    """CPU time over one clip by case, the cases by turns."""
    path = CORPUS / "vggsound_0B4dYTMsgHA_000130.mp4"
    luma_NHW = decode_luma(path, num_frames=_CLIP_FRAMES)
    calls: dict[str, Callable[[], object]] = {"10 s of 910 x 512": lambda: cut_frames(luma_NHW)}
    full = "10 s of 1280 x 720 at 30 a second"
    calls[f"{full}, decoding by PySceneDetect"] = lambda: _read_all(path)
    for name, new in _DEFAULT.items():
        calls[f"{full}, decoding and {name}"] = lambda new=new: _theirs(path, new())
    values: dict[str, list[float]] = {case: [] for case in calls}
    for _ in range(NUM_ROUNDS + 1):
        for case, call in calls.items():
            started_s = time.process_time()
            call()
            values[case].append(time.process_time() - started_s)
    return {case: tuple(found[1:]) for case, found in values.items()}


def _read_all(path: Path) -> None:
    video = scenedetect.open_video(path)
    while video.read() is not False:
        pass


if __name__ == "__main__":
    main()
