"""CPU time and memory of a process with all its descendants."""

import resource
import subprocess
import time
from dataclasses import dataclass

import psutil

from infra.units import BYTES_PER_MIB

SAMPLE_PAUSE_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class PeakMemory:
    """Highest sampled resident memory. Pages that processes share count once for each of them."""

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
    tree_bytes = main_bytes = 0
    main = psutil.Process(process.pid)
    while process.poll() is None:
        own_bytes = _rss_bytes(main)
        main_bytes = max(main_bytes, own_bytes)
        tree_bytes = max(tree_bytes, own_bytes + sum(map(_started_rss_bytes, _descendants(main))))
        time.sleep(sample_pause_s)
    return PeakMemory(tree_mib=tree_bytes / BYTES_PER_MIB, main_mib=main_bytes / BYTES_PER_MIB)


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _started_rss_bytes(process: psutil.Process) -> int:
    """Resident bytes of a child; 0 until it is a program of its own: before, it is its parent's twin."""
    try:
        parent = process.parent()
        # In this order: what has a command line of its own has memory of its own, too.
        is_twin = parent is None or process.cmdline() == parent.cmdline()
    except psutil.NoSuchProcess:
        return 0
    return 0 if is_twin else _rss_bytes(process)


def _rss_bytes(process: psutil.Process) -> int:
    """Resident bytes; 0 when the process has just ended."""
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0
