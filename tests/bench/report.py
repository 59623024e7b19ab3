"""What a benchmark says: a JSON line a figure on stdout, and the whole result in a file under `results/`."""

import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import file_digest, sha256
from pathlib import Path

import numpy as np

from infra.config import canonical_json
from infra.storage import write_atomic

RESULTS_DIR = Path(__file__).parent / "results"
NUM_ROUNDS = 5
"""Repetitions of what is compared; the compared things take turns within a round."""
_REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured quantity, with every repetition."""

    case: str
    metric: str
    """Name with its unit, such as `wall_s`."""
    unit: str
    values: tuple[float, ...]
    bar: float | None = None
    """The figure asked for; none when nobody asked for one."""
    more_is_better: bool = False

    @property
    def value(self) -> float:
        """Median of the repetitions."""
        return statistics.median(self.values)

    @property
    def passes(self) -> bool | None:
        """Whether the value meets the bar; none when there is no bar."""
        if self.bar is None:
            return None
        return self.value >= self.bar if self.more_is_better else self.value <= self.bar

    def line(self, bench: str) -> str:
        """The figure as the JSON line that scripts read."""
        return json.dumps(
            {
                "bench": bench,
                "case": self.case,
                "metric": self.metric,
                "unit": self.unit,
                "value": float(f"{self.value:.5g}"),
                "bar": self.bar,
                "passes": self.passes,
            },
            allow_nan=False,
        )

    def record(self) -> dict[str, object]:
        """The figure as the result file holds it. p95 interpolates linearly."""
        p95 = float(np.percentile(self.values, 95))
        return {
            **asdict(self),
            "n": len(self.values),
            "median": self.value,
            "p95": p95,
            "passes": self.passes,
        }


class Report:
    """Collects the figures of one benchmark. The first one that is added is its headline."""

    def __init__(
        self,
        bench: str,
        *,
        settings: Mapping[str, object],
        inputs: Iterable[Path] = (),
        num_warm_ups: int,
        ceiling: str,
    ) -> None:
        """Arguments: what was measured with, the files it read, and what the figures are compared with."""
        self._bench = bench
        self._facts = {
            "bench": bench,
            "command": shlex.join(["python", *sys.orig_argv[1:]]),
            "settings": dict(settings),
            "config_hash": sha256(canonical_json(settings)).hexdigest()[:12],
            "input_hash": files_hash(inputs),
            "num_warm_ups": num_warm_ups,
            "ceiling": ceiling,
        }
        self._figures: list[Figure] = []

    def add(self, figure: Figure) -> None:
        """Print the figure and keep it."""
        self._figures.append(figure)
        print(figure.line(self._bench), flush=True)

    def save(self, folder: Path = RESULTS_DIR) -> Path:
        """Write the result file; its name says what, where and when."""
        now = datetime.now(UTC)
        commit = _git("rev-parse", "HEAD")
        cores = f"{os.cpu_count()}vcpu"
        name = "__".join([self._bench, self._figures[0].metric, cores, f"{now:%Y%m%d}", commit[:7]])
        facts = {
            **self._facts,
            "measured_at": now.isoformat(timespec="seconds"),
            "git_commit": commit,
            "git_clean": not _git("status", "--porcelain"),
            "hardware": {"cores": cores, "cpu": _cpu_name(), "python": platform.python_version()},
            "figures": [figure.record() for figure in self._figures],
        }
        path = folder / f"{name}.json"
        write_atomic(path, json.dumps(facts, indent=1, allow_nan=False).encode() + b"\n")
        print(f"kept in {path}", file=sys.stderr)
        return path


def files_hash(paths: Iterable[Path]) -> str:
    """First 12 hex digits of a hash over the files' contents, whatever their names and order."""
    digests = []
    for path in paths:
        with path.open("rb") as file:
            digests.append(file_digest(file, "sha256").hexdigest())
    return sha256(" ".join(sorted(digests)).encode()).hexdigest()[:12]


def say(text: str) -> None:
    """A line for people, on stderr."""
    print(text, file=sys.stderr, flush=True)


def _git(*arguments: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(_REPOSITORY), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
