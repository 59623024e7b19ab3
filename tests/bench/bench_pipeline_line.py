"""Wall time of `avgen demo` in a fresh folder: the whole line, from crawl to a trained checkpoint.

One run, because it takes minutes; the bar leaves room for that.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.report import Figure, Report, say

_MAX_WALL_S = 240.0
_REMOTE_SERVICES = ("PREFECT_API_URL", "RAY_ADDRESS")


def main() -> None:
    """Measure and report."""
    report = Report(
        "pipeline_line", settings={"command": "avgen demo"}, num_warm_ups=0, ceiling="none; a bar for people"
    )
    # Ray puts sockets below its folder, and the path of a socket has room for 107 bytes.
    ray_folder = Path(f"/tmp/avb-{os.getpid()}")
    ray_folder.mkdir()
    try:
        with tempfile.TemporaryDirectory(prefix="avgen-bench-") as folder:
            wall_s = _demo_wall_s(Path(folder), ray_folder)
    finally:
        shutil.rmtree(ray_folder, ignore_errors=True)
    report.add(
        Figure(case="demo in a fresh folder", metric="wall_s", unit="s", values=(wall_s,), bar=_MAX_WALL_S)
    )
    report.save()


def _demo_wall_s(folder: Path, ray_folder: Path) -> float:
    """Seconds from start to end of the command. Raises `SystemExit` unless it did what it should."""
    environment = {name: value for name, value in os.environ.items() if name not in _REMOTE_SERVICES}
    environment |= {"PREFECT_HOME": str(folder / "prefect"), "RAY_TMPDIR": str(ray_folder)}
    command = [str(Path(sys.executable).with_name("avgen")), "demo", "--root", str(folder / "demo")]
    say("running avgen demo")
    start_s = time.perf_counter()
    done = subprocess.run(command, env=environment, stdout=sys.stderr, check=False)
    wall_s = time.perf_counter() - start_s
    if done.returncode != 0:
        raise SystemExit(f"avgen demo must end with status 0, got {done.returncode}; see above")
    return wall_s


if __name__ == "__main__":
    main()
