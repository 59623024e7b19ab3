"""How finding near-duplicates grows: 10 thousand, 100 thousand, a million clips; 1% new ones against a million.

Clips are rows of random picture codes. Copies of some are planted: most of their moments with some bits changed, a
quarter of them mirrored. Some clips share a logo, and some a picture that is nearly the same in all of them, which
crowd a few buckets. Each case runs in a process of its own, whose peak memory is taken.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass

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
_MAX_DISTANCE, _MIN_SIMILARITY = 48, 0.3
_NEW_RATIO = 0.01
_SEED = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """Codes of clips, and which of them are copies."""

    sets: CodeSets
    copies_P2: NDArray[np.int64]
    """Original, copy."""


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
    return Planted(sets=sets, copies_P2=np.stack([originals, copies], axis=1))


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
    baseline_mib = _peak_mib()
    started_s, started_cpu_s = time.perf_counter(), time.process_time()
    wanted = sets
    if num_new < num_clips:
        is_new_M = np.repeat(is_new_C, sets.num_C)
        sieve = Sieve(sets.codes_MSW[is_new_M].reshape(-1, 4), bands)
        passes_MS = sieve.passes(sets.codes_MSW.reshape(-1, 4)).reshape(-1, len(PARTS))
        wanted = sets.only(passes_MS.any(axis=1))
    pairs_P2, work = candidate_pairs(wanted, is_new_C, bands)
    like = likeness(sets, pairs_P2, bands)
    found_P2 = pairs_P2[like.similarity_P >= _MIN_SIMILARITY]
    wall_s, cpu_s = time.perf_counter() - started_s, time.process_time() - started_cpu_s
    copies_P2 = planted.copies_P2[is_new_C[planted.copies_P2].any(axis=1)]
    found, copies = ({tuple(pair) for pair in pairs.tolist()} for pairs in (found_P2, copies_P2))
    return {
        "cpu_s": cpu_s,
        "wall_s": wall_s,
        "peak_mib": _peak_mib(),
        "peak_above_codes_mib": _peak_mib() - baseline_mib,
        "found_ratio": len(found & copies) / len(copies),
        "true_ratio": len(found & copies) / max(1, len(found)),
        "compared_per_code": work.num_compared / work.num_codes,
        "left_out_pairs": work.num_left_out,
    }


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / BYTES_PER_MIB


def _in_process(num_clips: int, num_new: int) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.bench.bench_dedup", "--case", str(num_clips), str(num_new)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


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
_BARS = {"found_ratio": 0.99, "true_ratio": 0.99}


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
        return
    settings = {"moments": _MOMENTS, "copy_ratio": _COPY_RATIO, "flipped_bits": _FLIPPED_BITS}
    report = Report("dedup", settings=settings, num_warm_ups=0, ceiling="none: the growth is the figure")
    sizes = [size for size in (10_000, 100_000, 1_000_000) if size <= options.most]
    times = {}
    for num_clips, num_new in [*((size, size) for size in sizes), (sizes[-1], round(sizes[-1] * _NEW_RATIO))]:
        case = f"{num_clips} clips, {num_new} new"
        say(case)
        figures = _in_process(num_clips, num_new)
        times[case] = figures["cpu_s"]
        for metric, unit in _UNITS.items():
            report.add(
                Figure(case=case, metric=metric, unit=unit, values=(figures[metric],), bar=_BARS.get(metric),
                       more_is_better=True)
            )  # fmt: skip
    taken = list(times.values())
    for smaller, larger, before_s, after_s in zip(sizes, sizes[1:], taken, taken[1:], strict=False):
        case = f"{larger} against {smaller} clips"
        report.add(
            Figure(case=case, metric="cpu_ratio", unit="ratio", values=(after_s / before_s,), bar=15.0)
        )
    report.save()


if __name__ == "__main__":
    main()
