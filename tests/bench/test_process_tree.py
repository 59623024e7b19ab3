import subprocess
import sys

import pytest

from tests.bench.process_tree import SAMPLE_PAUSE_S, peak_memory, tree_cpu_s

_BLOCK_MIB = 64
_BLOCK = f"block = b'x' * {_BLOCK_MIB << 20}"
_WAIT = f"import time; time.sleep({20 * SAMPLE_PAUSE_S})"
# A process whose child has the block.
_CHILD = f"{_BLOCK}; {_WAIT}"
_PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {_CHILD!r}])"
_FORK = f"import os; {_BLOCK}; os.fork(); {_WAIT}"
# Two processes that map one file in memory and have written or read all of it.
_READ = (
    f"import mmap, sys; view = mmap.mmap(int(sys.argv[1]), {_BLOCK_MIB << 20}); sum(view[::4096]); {_WAIT}"
)
_SHARE = (
    "import os, subprocess, sys; fd = os.memfd_create('block');"
    f" os.write(fd, b'x' * {_BLOCK_MIB << 20});"
    f" subprocess.Popen([sys.executable, '-c', {_READ!r}, str(fd)], pass_fds=[fd]);"
    f" sys.argv = ['', fd]; {_READ}"
)
_BURN = "import time\nwhile time.process_time() < 0.3: pass"


def _peak(program: str):
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        return peak_memory(process)


def test_peak_memory_counts_the_memory_of_children():
    peak = _peak(_PARENT)
    assert peak.main_mib < _BLOCK_MIB < peak.tree_mib < 2 * _BLOCK_MIB


@pytest.mark.parametrize("program", [_FORK, _SHARE], ids=["fork", "memfd"])
def test_peak_memory_counts_what_processes_share_once(program):
    assert _BLOCK_MIB < _peak(program).tree_mib < 2 * _BLOCK_MIB


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
