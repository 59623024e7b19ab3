"""A search for duplicates is killed with -9 at random moments; run again it ends as if nothing had happened."""

import multiprocessing
import random
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from dedup.picture import PARTS
from pipeline.catalog import Catalog
from pipeline.fingerprint_clip import PICTURE_KIND, PICTURE_VERSION, SOUND_KIND, SOUND_VERSION
from pipeline.lake import Lake
from pipeline.lake_rows import Row
from tests.pipeline.dedup_process import CLIPS_PER_STEP, dedup_in_process
from tests.pipeline.staged_lake import CLIPS_PER_SOURCE, source_id_of, stage_sources

NUM_SOURCES, NUM_WORKS, MOMENTS = 70, 40, 6
NUM_CLIPS = NUM_SOURCES * CLIPS_PER_SOURCE

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def staged(tmp_path_factory) -> Path:
    """A root with clips that nobody compared: some sources show what others show, some are the same file."""
    root = tmp_path_factory.mktemp("kill") / "root"
    root.mkdir()
    recipe = stage_sources(root, range(NUM_SOURCES), run_id="one")
    origin = {"recipe_id": recipe.recipe_id, "run_id": "two"}
    clips = Catalog(root).rows("select clip_id, source_id, start_s from clips where kept order by clip_id")
    prints = [row | origin for clip in clips for row in fingerprints(*clip)]
    files = [
        {"source_id": source_id_of(number), "sha256": f"{number // 2:064x}", "media_start_s": 0.0} | origin
        for number in range(0, NUM_SOURCES, 5)
        for number in (number, number + 1)
    ]
    Lake(root).commit({"fingerprints": prints, "fetches": files}, run_id="two", batch_index=0)
    return root


def fingerprints(clip_id: str, source_id: str, start_s: float) -> list[Row]:
    """Codes of a clip: fewer works than sources, some bits changed; every seventh work is a still talk."""
    work = int(np.random.default_rng([0, int(source_id, 16)]).integers(NUM_WORKS))
    scene = 0 if work % 7 == 0 else int(start_s)
    noise = np.random.default_rng([1, int(source_id, 16), int(start_s)])
    picture = np.random.default_rng([2, work, scene]).integers(0, 256, (MOMENTS, len(PARTS), 32), np.uint8)
    picture[:, :, :4] ^= noise.integers(0, 16, (MOMENTS, len(PARTS), 4), np.uint8)
    picture[: noise.integers(MOMENTS)] = noise.integers(0, 256, (len(PARTS), 32), np.uint8)
    sound = np.random.default_rng([3, work, int(start_s)]).integers(0, 256, (MOMENTS, 1, 32), np.uint8)
    kinds = ((PICTURE_KIND, PICTURE_VERSION, picture), (SOUND_KIND, SOUND_VERSION, sound))
    return [
        {
            "clip_id": clip_id,
            "source_id": source_id,
            "kind": kind,
            "version": version,
            "num_codes": codes.size // 32,
            "codes": codes.tobytes(),
        }
        for kind, version, codes in kinds
    ]


@pytest.fixture(scope="module")
def whole(staged, tmp_path_factory) -> tuple[Path, float]:
    """The same root after a search that nobody disturbed, and how long a process of its own took for it."""
    root = Path(shutil.copytree(staged, tmp_path_factory.mktemp("whole") / "root"))
    duration_s = killed_after(root, None)
    assert num_compared(root) == NUM_CLIPS
    methods = Catalog(root).rows("select distinct unnest(methods) from duplicates order by 1")
    assert methods == [("audio",), ("exact",), ("glimpse",), ("picture",)]
    return root, duration_s


def killed_after(root: Path, delay_s: float | None) -> float:
    """Start a search and kill it that long after it begins, or let it end; the seconds since it began."""
    processes = multiprocessing.get_context("forkserver")  # Its server imports once, and starts no threads.
    processes.set_forkserver_preload([dedup_in_process.__module__])
    told, tell = processes.Pipe(duplex=False)
    process = processes.Process(target=dedup_in_process, args=(str(root), tell))
    process.start()
    tell.close()
    assert told.recv() == "begun"
    begin_s = time.monotonic()
    if delay_s is not None:
        time.sleep(delay_s)
        process.kill()
    process.join()
    assert delay_s is not None or process.exitcode == 0
    return time.monotonic() - begin_s


def num_compared(root: Path) -> int:
    """Clips whose comparison is committed, with what the killed writer had promised: the next one writes that."""
    Lake(root).create()
    ((num_clips,),) = Catalog(root).rows("select count(*) from duplicates")
    return num_clips


def lake_rows(root: Path) -> list[list[tuple]]:
    """What was found. A pair that was found twice would be there twice."""
    catalog = Catalog(root)
    return [
        catalog.rows("select * exclude (run_id, found_at) from duplicates order by all"),
        catalog.rows("select * exclude (run_id, found_at) from duplicate_pairs order by all"),
    ]


def check_kills(staged: Path, whole: Path, folder: Path, delays_s: list[float]) -> None:
    """Kill one search after another on one root, and let the last one end."""
    root = Path(shutil.copytree(staged, folder / "root"))
    nums_compared = [0]
    for delay_s in delays_s:
        killed_after(root, delay_s)
        nums_compared.append(num_compared(root))
    assert nums_compared == sorted(nums_compared)
    assert all(num_clips % CLIPS_PER_STEP == 0 for num_clips in nums_compared)
    summary = dedup_in_process(str(root))
    assert (summary.num_clips, summary.num_new_clips) == (NUM_CLIPS, NUM_CLIPS - nums_compared[-1])
    assert lake_rows(root) == lake_rows(whole)
    again = dedup_in_process(str(root))
    assert (
        again.num_new_clips
        == sum(method.num_new_pairs + method.num_compared for method in again.methods)
        == 0
    )
    assert lake_rows(root) == lake_rows(whole)


def test_dedup_killed_three_times_equals_one_that_was_not(staged, whole, tmp_path):
    root, duration_s = whole
    delays_s = [duration_s * random.uniform(0.1, 0.3) for _ in range(3)]
    check_kills(staged, root, tmp_path, delays_s)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(20))
def test_dedup_killed_at_a_random_moment_equals_one_that_was_not(staged, whole, tmp_path, number):
    root, duration_s = whole
    check_kills(staged, root, tmp_path, [duration_s * (number + random.random()) / 20])
