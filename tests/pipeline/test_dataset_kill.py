"""A pack is killed with -9 at random moments; the same command again ends as if nothing had happened."""

import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.catalog import Catalog
from pipeline.dataset import DatasetSummary
from tests.pipeline.in_process import pack_in_process
from tests.pipeline.pack_process import OPTIONS
from tests.pipeline.staged_lake import stage_sources

REPOSITORY = Path(__file__).resolve().parents[2]
NUM_SOURCES, NUM_LATER = 8, 4

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def grown(tmp_path_factory) -> Path:
    """A root with a first version and clips for a second one."""
    root = tmp_path_factory.mktemp("kill") / "root"
    root.mkdir()
    stage_sources(root, range(NUM_SOURCES), run_id="one")
    pack_in_process("d", root, OPTIONS)
    stage_sources(root, range(NUM_SOURCES, NUM_SOURCES + NUM_LATER), run_id="two")
    return root


@pytest.fixture(scope="module")
def whole(grown, tmp_path_factory) -> tuple[Path, float]:
    """The same root after a pack that nobody disturbed, and how long a process of its own took for it."""
    root = Path(shutil.copytree(grown, tmp_path_factory.mktemp("whole") / "root"))
    begin_s = time.monotonic()
    killed_after(root, None)
    return root, time.monotonic() - begin_s


def killed_after(root: Path, delay_s: float | None) -> None:
    """Start a pack and kill it that long after its first word; or let it end."""
    command = [sys.executable, "-m", "tests.pipeline.pack_process", str(root)]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        if delay_s is not None:
            time.sleep(delay_s)
            process.kill()
    assert delay_s is not None or process.returncode == 0


def files(root: Path) -> dict[str, bytes]:
    folder = root / "datasets"
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def lake_rows(root: Path) -> list[list[tuple]]:
    catalog = Catalog(root)
    return [
        catalog.rows("select * exclude (run_id, packed_at) from datasets order by all"),
        catalog.rows("select * exclude (uri) from shards order by all"),
        catalog.rows("from samples order by all"),
    ]


def check_kills(grown: Path, whole: Path, folder: Path, delays_s: list[float]) -> DatasetSummary:
    root = Path(shutil.copytree(grown, folder / "root"))
    for delay_s in delays_s:
        killed_after(root, delay_s)
    summary = pack_in_process("d", root, OPTIONS)
    assert files(root) == files(whole)
    assert lake_rows(root) == lake_rows(whole)
    return summary


def test_pack_killed_three_times_equals_one_that_was_not(grown, whole, tmp_path):
    root, duration_s = whole
    delays_s = [duration_s * random.uniform(0.1, 0.9) for _ in range(3)]
    assert check_kills(grown, root, tmp_path, delays_s).version == 2


@pytest.mark.slow
@pytest.mark.parametrize("number", range(20))
def test_pack_killed_at_a_random_moment_equals_one_that_was_not(grown, whole, tmp_path, number):
    root, duration_s = whole
    delay_s = duration_s * (number + random.random()) / 20
    assert check_kills(grown, root, tmp_path, [delay_s]).version == 2
