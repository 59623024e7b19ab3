import subprocess
import sys

from tests.bench.process_tree import SAMPLE_PAUSE_S, peak_memory, tree_cpu_s

# A process whose child holds 64 MiB for fifty samples.
_CHILD = f"import time; block = bytearray(b'x' * 2**26); time.sleep({50 * SAMPLE_PAUSE_S})"
_PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {_CHILD!r}])"
_BURN = "import time\nwhile time.process_time() < 0.3: pass"


def test_peak_memory_counts_the_memory_of_grandchildren():
    with subprocess.Popen([sys.executable, "-c", _PARENT]) as process:
        peak = peak_memory(process)
    assert peak.main_mib < 64 < peak.tree_mib < 256


def test_tree_cpu_s_counts_a_child_that_runs_and_one_that_has_ended():
    before_s = tree_cpu_s()
    subprocess.run([sys.executable, "-c", _BURN], check=True)
    ended_s = tree_cpu_s()
    burn_and_wait = f"{_BURN}\nprint(flush=True)\nimport sys; sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", burn_and_wait], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        running_s = tree_cpu_s()
    assert ended_s - before_s >= 0.3
    assert running_s - ended_s >= 0.28  # The clock of a running child ticks every 10 ms.


def test_peak_memory_counts_a_child_that_is_not_started_yet_once():
    # Between fork and exec a child has its parent's pages.
    fork = f"import os, time; block = bytearray(b'x' * 2**26); os.fork(); time.sleep({50 * SAMPLE_PAUSE_S})"
    with subprocess.Popen([sys.executable, "-c", fork]) as process:
        peak = peak_memory(process)
    assert 64 < peak.tree_mib == peak.main_mib
