"""The command line for real: Ray, Prefect and ffmpeg in processes of their own, killed and started again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.catalog import Catalog
from shards.writer import write_manifest
from tests.media import make_clip
from tests.pipeline.in_process import ingest_in_process, pack_in_process

pytestmark = pytest.mark.timeout(600)

AVGEN = [sys.executable, "-m", "pipeline.cli"]
RUN_OPTIONS = ("--recipe", "demo", "--set", "split.clip_s=4", "--num-cpus", "2")


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """Twelve sources: eight good ones, and one of each other ending several times."""
    folder = tmp_path_factory.mktemp("line")
    for number in range(8):
        make_clip(folder / f"good{number}.mp4", duration_s=8, options=("-crf", str(18 + number)))
    make_clip(folder / "gray.mp4", duration_s=4, video="color=gray:size=640x480:rate=25")
    make_clip(folder / "mute.mp4", duration_s=4, audio="")
    make_clip(folder / "slow.mp4", duration_s=4, video="testsrc2=size=640x480:rate=15")
    (folder / "text.mp4").write_text("this is not a film\n" * 50)
    return folder


def avgen(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*AVGEN, *arguments], capture_output=True, text=True, check=False)


def rows(root: Path, table: str, columns: str) -> list[tuple]:
    found = Catalog(root).query(f"select {columns} from {table} order by all")
    return [tuple(row.values()) for row in found.to_pylist()]


def contents(root: Path) -> dict[str, object]:
    """Everything in the lake and on disk but times, run ids and the order of rows."""
    clips = "* exclude (run_id)"
    return {
        "sources": rows(root, "sources", "source_id, url, kind, span_start_s, span_end_s"),
        "fetches": rows(root, "fetches", "* exclude (run_id, fetched_at)"),
        "clips": rows(root, "clips", clips),
        "embeddings": rows(root, "embeddings", clips),
        "failures": rows(root, "failures", "* exclude (run_id, failed_at)"),
        "bundles": {
            path.relative_to(root): path.read_bytes() for path in sorted((root / "staged").glob("*/*"))
        },
        "media": sorted(path.relative_to(root) for path in (root / "media").glob("*/*")),
    }


def kill_group_after_first_commit(sources: Path, root: Path) -> None:
    """Start a run and kill -9 its whole process group once some sources are in the lake."""
    process = subprocess.Popen(
        [*AVGEN, "run", "--source", f"dir:{sources}", "--root", str(root), *RUN_OPTIONS],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while process.poll() is None and not any((root / "staged").glob("*/*.tar")):
            time.sleep(0.05)
        assert process.poll() is None, "the run ended before it could be killed"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_run_killed_and_run_again_equals_an_uninterrupted_run(sources, tmp_path):
    """The uninterrupted one runs the same actors in this process: Ray and its order leave no trace, either."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    ingest_in_process(f"dir:{sources}", whole, "split.clip_s=4")
    kill_group_after_first_commit(sources, killed)
    done = avgen("run", "--source", f"dir:{sources}", "--root", str(killed), "--json", *RUN_OPTIONS)
    assert done.returncode == 0, done.stderr
    stages = {stage["stage"]: stage for stage in json.loads(done.stdout)["stages"]}
    curate = [stages["curate"][name] for name in ("in", "kept", "rejected", "failed", "pending")]
    assert curate == [12, 8, 3, 1, 0]
    assert contents(killed) == contents(whole)


def test_pack_gives_the_same_bytes_in_parallel_and_in_process(sources, tmp_path):
    ingest_in_process(f"dir:{sources}", tmp_path, "split.clip_s=4")
    packed = avgen("pack", "d", "--root", str(tmp_path), "--samples-per-shard", "2", "--num-cpus", "2")
    assert packed.returncode == 0, packed.stderr
    dataset_dir, other_dir = tmp_path / "datasets" / "d" / "v1", tmp_path / "other"
    other_dir.mkdir()
    catalog = Catalog(tmp_path)
    manifest = pack_in_process(catalog, tmp_path, other_dir, recipe_id=catalog.latest_recipe_id())
    write_manifest(other_dir, manifest)
    names = sorted(path.name for path in dataset_dir.iterdir())
    assert len(names) == 8 + 2
    assert {name: (dataset_dir / name).read_bytes() for name in names} == {
        path.name: path.read_bytes() for path in other_dir.iterdir()
    }
    assert len(rows(tmp_path, "shards", "shard")) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "--source", "dir:/nosuch", "--root", "R"), "must name an existing folder"),
        (("run", "--source", "dir:.", "--root", "R", "--set", "filters.snrdb.min=1"), "did you mean snr_db"),
        (("run", "--source", "ftp://x/y", "--root", "R"), "must start with one of"),
        (("run", "--source", "dir:.", "--root", "/proc/nosuch"), "folder that can be written"),
        (("run", "--source", "dir:.", "--root", "s3://bucket/x"), "local folder in this version"),
        (("status", "--root", "nosuch"), "run `avgen run` first"),
        (("pack", "a/b", "--root", "R"), "dataset name"),
        (("train", "--dataset", "d", "--root", "nosuch"), "run `avgen run` first"),
    ],
)
def test_wrong_usage_is_one_clear_line_and_status_2(arguments, message, tmp_path):
    make_clip(tmp_path / "a.mp4", duration_s=1)
    done = subprocess.run([*AVGEN, *arguments], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
