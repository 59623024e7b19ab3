"""Commands that are killed at random moments until they were killed often enough."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

_REPOSITORY = Path(__file__).resolve().parents[2]


def run_killed(make: Callable[[int], list[str]], *, num_kills: int, longest_s: float) -> int:
    """Start `make(number of kills so far)` and kill it, so often; how many ended before they were killed."""
    rng, num_done = random.Random(0), 0
    for number in range(num_kills):
        process = _start(make(number))
        try:
            process.wait(rng.uniform(0.5, longest_s))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        num_done += process.wait() == 0
        process.communicate()
    return num_done


def run_whole(arguments: list[str]) -> float:
    """Let it end; the seconds that it took."""
    begin_s = time.monotonic()
    process = _start(arguments)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said.decode()
    return time.monotonic() - begin_s


def _start(arguments: list[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.pipeline.lifecycle_process", *arguments]
    return subprocess.Popen(command, cwd=_REPOSITORY, start_new_session=True, stderr=subprocess.PIPE)
