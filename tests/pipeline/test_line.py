"""The command line for real: Ray, Prefect and ffmpeg in processes of their own, killed and started again."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.catalog import Catalog
from pipeline.dataset import PackOptions
from pipeline.lake import Lake
from tests.media import make_clip
from tests.pipeline.in_process import ingest_in_process, pack_in_process

pytestmark = pytest.mark.timeout(600)

AVGEN = [sys.executable, "-m", "pipeline.cli"]
SETTINGS = ("split.clip_s=4", "fetch.stall_timeout_s=300")
RUN_OPTIONS = ("--recipe", "demo", "--set", SETTINGS[0], "--set", SETTINGS[1], "--num-cpus", "2")


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """Twelve sources: eight good ones and four that end otherwise."""
    folder = tmp_path_factory.mktemp("line")
    for number in range(8):
        make_clip(folder / f"good{number}.mp4", duration_s=8, options=("-crf", str(18 + number)))
    make_clip(folder / "gray.mp4", duration_s=4, video="color=gray:size=640x480:rate=25")
    make_clip(folder / "mute.mp4", duration_s=4, audio="")
    make_clip(folder / "slow.mp4", duration_s=4, video="testsrc2=size=640x480:rate=15")
    (folder / "text.mp4").write_text("this is not a film\n" * 50)
    return folder


@pytest.fixture
def late_source(tmp_path) -> Iterator[tuple[str, threading.Event]]:
    """The address of a good source whose host does not answer before the event is set."""
    make_clip(tmp_path / "late" / "late.mp4", duration_s=8, options=("-crf", "30"))
    answers = threading.Event()

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if answers.wait(300):
                super().do_GET()

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Tests read results, not logs."""

    handler = functools.partial(Handler, directory=str(tmp_path / "late"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/late.mp4", answers
        answers.set()
        server.shutdown()


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


def kill_group_after_first_commit(spec: str, root: Path) -> list[tuple]:
    """Start a run and kill -9 its whole process group once some sources are in the lake; their clips."""
    process = subprocess.Popen(
        [*AVGEN, "run", "--source", spec, "--root", str(root), *RUN_OPTIONS],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while process.poll() is None and not any((root / "lake" / "clips").glob("*.parquet")):
            time.sleep(0.05)
        assert process.poll() is None, "the run ended before it could be killed"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    Lake(root).create()  # What the batch had promised; the next run does the same first.
    return rows(root, "clips", "source_id, run_id")


def test_run_killed_and_run_again_equals_an_uninterrupted_run(sources, late_source, tmp_path):
    """The uninterrupted one runs the same actors in this process: Ray and its order leave no trace, either."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    url, answers = late_source
    spec = f"list:{tmp_path / 'all.txt'}"
    lines = [url, *sorted(str(path) for path in sources.iterdir())]
    (tmp_path / "all.txt").write_text("\n".join(lines))
    committed = kill_group_after_first_commit(spec, killed)
    assert committed
    answers.set()
    done = avgen("run", "--source", spec, "--root", str(killed), "--json", *RUN_OPTIONS)
    assert done.returncode == 0, done.stderr
    stages = {stage["stage"]: stage for stage in json.loads(done.stdout)["stages"]}
    curate = [stages["curate"][name] for name in ("in", "kept", "rejected", "failed", "pending")]
    assert curate == [13, 9, 3, 1, 0]
    whole.mkdir()
    ingest_in_process(spec, whole, *SETTINGS)
    assert contents(killed) == contents(whole)
    assert set(committed) < set(rows(killed, "clips", "source_id, run_id")), (
        "what was committed is not done again"
    )


def test_pack_gives_the_same_bytes_in_parallel_and_in_process(sources, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    ingest_in_process(f"dir:{sources}", one, "split.clip_s=4")
    shutil.copytree(one, two)
    packed = avgen("pack", "d", "--root", str(one), "--samples-per-shard", "6", "--num-cpus", "2")
    assert packed.returncode == 0, packed.stderr
    assert len(rows(one, "shards", "shard")) == 3
    pack_in_process("d", two, PackOptions(samples_per_shard=6))
    in_parallel, in_process = (
        {path.name: path.read_bytes() for path in (root / "datasets/d/v1").iterdir() if path.is_file()}
        for root in (one, two)
    )
    assert {f"train-{number:06d}.tar" for number in range(3)} < in_parallel.keys()
    assert in_parallel == in_process


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "--source", "dir:/nosuch", "--root", "R"), "must name an existing folder"),
        (("run", "--source", "dir:.", "--root", "R", "--set", "filters.snrdb.min=1"), "did you mean snr_db"),
        (("run", "--source", "ftp://x/y", "--root", "R"), "must start with one of"),
        (("run", "--source", "dir:.", "--root", "/proc/nosuch"), "folder that can be written"),
        (("status", "--root", "ftp://host/x"), "must be a path, or s3://, gs:// or az://"),
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
