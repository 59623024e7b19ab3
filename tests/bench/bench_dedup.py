"""How finding near-duplicates grows: 10 thousand, 100 thousand, a million clips; 1% new ones against a million.

Clips are rows of random picture codes. Copies of some are planted: most of their moments with some bits changed, a
quarter of them mirrored. Some clips share a logo, and some a picture that is nearly the same in all of them, which
crowd a few buckets. Each case runs in a process of its own, whose peak memory is taken. The last cases are `avgen
dedup` on a lake with such codes, and on the same lake again.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from dedup.bands import Sieve, as_words
from dedup.matching import CodeSets, candidate_pairs, likeness
from dedup.pdq import MIRROR_MASK
from dedup.picture import PARTS, picture_bands
from infra.units import BYTES_PER_MIB
from tests.bench.report import Figure, Report, say

_MOMENTS = 8  # Measured on the corpus: some eight in ten seconds.
_COPY_RATIO, _KEPT_RATIO, _FLIPPED_BITS, _MIRROR_RATIO = 0.05, 0.7, 24, 0.25
_LOGO_RATIO, _NUM_LOGOS, _DULL_RATIO, _DULL_BITS = 0.02, 3, 0.005, 6
_MAX_DISTANCE, MIN_SIMILARITY = 48, 0.3
_NEW_RATIO = 0.01
_SEED = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """Codes of clips, and which of them are copies."""

    sets: CodeSets
    copies_P2: NDArray[np.int64]
    """Original, copy; those that share enough moments."""


def planted_clips(num_clips: int) -> Planted:
    """Random clips; the copies are the last ones."""
    generator = np.random.default_rng(_SEED)
    codes = generator.integers(0, 256, (num_clips, _MOMENTS, len(PARTS), 32), np.uint8)
    num_copies = round(num_clips * _COPY_RATIO)
    copies = np.arange(num_clips - num_copies, num_clips)
    originals = generator.permutation(num_clips - num_copies)[:num_copies]
    copied = _flipped(codes[originals], _FLIPPED_BITS, generator)
    copied[generator.random(num_copies) < _MIRROR_RATIO] ^= MIRROR_MASK
    is_kept = generator.random((num_copies, _MOMENTS)) < _KEPT_RATIO
    codes[copies] = np.where(is_kept[:, :, None, None], copied, codes[copies])
    logos = generator.integers(0, 256, (_NUM_LOGOS, len(PARTS), 32), np.uint8)
    with_logo = generator.random(num_clips) < _LOGO_RATIO
    codes[with_logo, 0] = logos[generator.integers(0, _NUM_LOGOS, int(with_logo.sum()))]
    is_dull = generator.random(num_clips) < _DULL_RATIO
    codes[is_dull, 1] = _flipped(np.repeat(logos[:1] ^ 0x55, is_dull.sum(), axis=0), _DULL_BITS, generator)
    words = as_words(codes.reshape(-1, 32)).reshape(-1, len(PARTS), 4)
    sets = CodeSets(codes_MSW=words, num_C=np.full(num_clips, _MOMENTS))
    # A copy that keeps less than the rule asks for is no duplicate.
    is_copy = is_kept.mean(axis=1) >= MIN_SIMILARITY
    return Planted(sets=sets, copies_P2=np.stack([originals, copies], axis=1)[is_copy])


def _flipped(codes: NDArray[np.uint8], num_bits: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    """Codes with about so many bits changed, anew in each."""
    flips = np.zeros(codes.shape, np.uint8)
    for _ in range(num_bits):
        byte = generator.integers(0, 32, (*codes.shape[:-1], 1))
        bit = np.uint8(1) << generator.integers(0, 8, byte.shape, np.uint8)
        np.put_along_axis(flips, byte, np.take_along_axis(flips, byte, axis=-1) | bit, axis=-1)
    return codes ^ flips


def search(planted: Planted, num_new: int) -> dict[str, float]:
    """Figures of comparing the last clips with all."""
    sets, bands = planted.sets, picture_bands(max_distance=_MAX_DISTANCE)
    num_clips = len(sets.num_C)
    is_new_C = np.arange(num_clips) >= num_clips - num_new
    baseline_mib = peak_mib()
    started_s, started_cpu_s = time.perf_counter(), time.process_time()
    wanted = sets
    if num_new < num_clips:
        is_new_M = np.repeat(is_new_C, sets.num_C)
        sieve = Sieve(sets.codes_MSW[is_new_M].reshape(-1, 4), bands)
        passes_MS = sieve.passes(sets.codes_MSW.reshape(-1, 4)).reshape(-1, len(PARTS))
        wanted = sets.only(passes_MS.any(axis=1))
    pairs_P2, work = candidate_pairs(wanted, is_new_C, bands)
    like = likeness(sets, pairs_P2, bands)
    found_P2 = pairs_P2[like.similarity_P >= MIN_SIMILARITY]
    wall_s, cpu_s = time.perf_counter() - started_s, time.process_time() - started_cpu_s
    copies_P2 = planted.copies_P2[is_new_C[planted.copies_P2].any(axis=1)]
    found, copies = ({tuple(pair) for pair in pairs.tolist()} for pairs in (found_P2, copies_P2))
    return {
        "cpu_s": cpu_s,
        "wall_s": wall_s,
        "peak_mib": peak_mib(),
        "peak_above_codes_mib": peak_mib() - baseline_mib,
        "found_ratio": len(found & copies) / len(copies),
        "true_ratio": len(found & copies) / max(1, len(found)),
        "compared_per_code": work.num_compared / work.num_codes,
        "left_out_pairs": work.num_left_out,
    }


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / BYTES_PER_MIB


def _in_process(module: str, *arguments: object) -> dict[str, float]:
    command = [sys.executable, "-m", f"tests.bench.{module}", *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout or "{}")


_UNITS = {
    "cpu_s": "s",
    "wall_s": "s",
    "peak_mib": "MiB",
    "peak_above_codes_mib": "MiB",
    "found_ratio": "ratio",
    "true_ratio": "ratio",
    "compared_per_code": "pairs",
    "left_out_pairs": "pairs",
}
_GROWTH_BAR = 1.5
"""How much more time a clip may take in a larger lot: sorting, and steps."""
_BARS = {"found_ratio": 0.99, "true_ratio": 0.99}


def _measured_codes(report: Report, sizes: list[int]) -> dict[str, float]:
    """CPU seconds of each case with codes in memory."""
    times = {}
    for num_clips, num_new in [*((size, size) for size in sizes), (sizes[-1], round(sizes[-1] * _NEW_RATIO))]:
        case = f"{num_clips} clips, {num_new} new"
        say(case)
        times[case] = _add(report, case, _in_process("bench_dedup", "--case", num_clips, num_new))
    return times


def _measured_lakes(report: Report, sizes: list[int]) -> list[float]:
    """CPU seconds of the first search in each lake."""
    times = []
    for num_clips in sizes:
        with TemporaryDirectory() as folder:
            say(f"lake of {num_clips} clips")
            _in_process("planted_lake", folder, num_clips)
            times.append(_add(report, f"lake of {num_clips} clips", _in_process("planted_lake", folder)))
            _add(report, f"lake of {num_clips} clips, again", _in_process("planted_lake", folder))
    return times


def _add(report: Report, case: str, figures: dict[str, float]) -> float:
    for metric, value in figures.items():
        report.add(
            Figure(case=case, metric=metric, unit=_UNITS[metric], values=(value,), bar=_BARS.get(metric),
                   more_is_better=True)
        )  # fmt: skip
    return figures["cpu_s"]


def _add_ratios(report: Report, what: str, sizes: list[int], times_s: list[float]) -> None:
    for place in range(1, len(sizes)):
        case = f"{sizes[place]} against {sizes[place - 1]} {what}"
        ratio = times_s[place] / times_s[place - 1]
        bar = _GROWTH_BAR * sizes[place] / sizes[place - 1]
        report.add(Figure(case=case, metric="cpu_ratio", unit="ratio", values=(ratio,), bar=bar))


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--case", type=int, nargs=2, help="clips in all, new clips: one case, in this process"
    )
    parser.add_argument("--most", type=int, default=1_000_000, help="clips of the largest case")
    options = parser.parse_args()
    if options.case:
        num_clips, num_new = options.case
        print(json.dumps(search(planted_clips(num_clips), num_new)))
    else:
        measure(options.most)


def measure(most: int) -> None:
    """All cases of at most so many clips, into a report."""
    settings = {"moments": _MOMENTS, "copy_ratio": _COPY_RATIO, "flipped_bits": _FLIPPED_BITS}
    report = Report("dedup", settings=settings, num_warm_ups=0, ceiling="none: the growth is the figure")
    sizes = [size for size in (10_000, 100_000, 1_000_000) if size <= most]
    times_s = _measured_codes(report, sizes)
    lake_sizes = [size for size in (30_000, 100_000, 300_000) if size <= most]
    lake_times_s = _measured_lakes(report, lake_sizes)
    _add_ratios(report, "clips", sizes, list(times_s.values()))
    _add_ratios(report, "clips of a lake", lake_sizes, lake_times_s)
    report.save()


if __name__ == "__main__":
    main()
