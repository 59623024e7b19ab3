"""CPU time and memory of a process with all its descendants.

Memory is the proportional set size: a page that n processes map counts 1/n for each of them, so what a worker and
its child share counts once in their sum. Of what processes outside the tree map, too, only a part counts.
"""

import resource
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

SAMPLE_PAUSE_S = 0.05  # Adding up a worker's pages takes 2 to 5 ms.
_KIB_PER_MIB = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class PeakMemory:
    """Highest sampled proportional set size."""

    tree_mib: float
    """Of the process and its descendants together."""
    main_mib: float
    """Of the process alone, at its own peak."""


def tree_cpu_s() -> float:
    """User and system time up to now of this process and its descendants, running and reaped.

    The clock of those that still run ticks every 10 ms.
    """
    reaped_s = sum(
        usage.ru_utime + usage.ru_stime
        for usage in (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )
    return reaped_s + sum(sum(child.cpu_times()[:4]) for child in psutil.Process().children(recursive=True))


def peak_memory(process: subprocess.Popen[bytes], *, sample_pause_s: float = SAMPLE_PAUSE_S) -> PeakMemory:
    """Sample the process and its descendants until it ends; what lasts shorter than the pause may be missed."""
    tree_kib = main_kib = 0
    main = psutil.Process(process.pid)
    while process.poll() is None:
        own = _memory_text(process.pid)
        # A child between vfork and exec is in its parent's very memory: the same text counts once.
        texts = {own, *map(_memory_text, _descendant_pids(main))}
        main_kib = max(main_kib, _pss_kib(own))
        tree_kib = max(tree_kib, sum(map(_pss_kib, texts)))
        time.sleep(sample_pause_s)
    return PeakMemory(tree_mib=tree_kib / _KIB_PER_MIB, main_mib=main_kib / _KIB_PER_MIB)


def _descendant_pids(process: psutil.Process) -> list[int]:
    with suppress(psutil.NoSuchProcess):
        return [child.pid for child in process.children(recursive=True)]
    return []


def _memory_text(pid: int) -> str:
    """What the kernel says of a process's memory in sum; empty when the process has just ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/smaps_rollup").read_text()
    return ""


def _pss_kib(memory_text: str) -> int:
    sizes = (line.split()[1] for line in memory_text.splitlines() if line.startswith("Pss:"))
    return int(next(sizes, "0"))
