"""A lake stays small while it grows, and what is purged is gone from every byte."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from random import Random

import pyarrow.parquet as pq
import pytest

from infra.store import LocalStore, Store
from pipeline import lake_upkeep
from pipeline.lake import Lake, lake_files
from tests.pipeline.test_lake import bucket, column, ids, server, source  # noqa: F401 - fixtures

SECRET = "verysecretname"


@pytest.fixture
def short_periods(monkeypatch):
    monkeypatch.setattr(lake_upkeep, "_PERIOD_VERSIONS", 8)
    monkeypatch.setattr(lake_upkeep, "_PERIODS_PER_LARGE_MERGE", 3)


def files_of(root: Path) -> tuple[int, int]:
    """How many live files and how many files of the log `sources` has."""
    num_live = len(lake_files(root)["sources"][1])
    return num_live, len(list((root / "lake" / "sources" / "_delta_log").iterdir()))


def test_many_small_commits_leave_few_files_and_every_row(tmp_path, short_periods):
    lake = Lake(tmp_path)
    lake.create()
    counts = []
    for number in range(60):
        lake.commit({"sources": [source(number)]}, run_id="run", batch_index=number)
        counts.append(files_of(tmp_path))
    assert max(num_live for num_live, _ in counts) <= 8
    # Two periods with what upkeep adds to each, and a checkpoint for both.
    assert max(num_log for _, num_log in counts) <= 2 * (8 + 3) + 3
    assert column(tmp_path, "sources", "source_id") == sorted(f"s{number}" for number in range(60))
    # Transaction ids outlive the log that they were written to.
    for number in (0, 31, 59):
        lake.commit({"sources": [source(number)]}, run_id="run", batch_index=number)
    assert len(column(tmp_path, "sources", "source_id")) == 60


def test_a_reader_keeps_its_files_while_others_are_merged(tmp_path, short_periods):
    lake = Lake(tmp_path)
    lake.create()
    for number in range(20):
        lake.commit({"sources": [source(number)]}, run_id="run", batch_index=number)
        if number == 5:
            files = lake_files(tmp_path)["sources"][1]
    assert len(files) == 6
    found = [pq.read_table(file)["source_id"].to_pylist() for file in files]
    assert sorted(found) == [[f"s{number}"] for number in range(6)]


def test_upkeep_goes_on_in_a_bucket(bucket, monkeypatch):  # noqa: F811
    monkeypatch.setattr(lake_upkeep, "_PERIOD_VERSIONS", 4)
    lake = Lake(bucket)
    lake.create()
    for number in range(10):
        lake.commit({"sources": [source(number)]}, run_id="run", batch_index=number)
        assert len(lake_files(bucket)["sources"][1]) <= 4
    assert len(list(bucket.files("lake/sources/_delta_log"))) <= 2 * (4 + 3) + 3
    assert column(bucket, "sources", "source_id") == [f"s{number}" for number in range(10)]


def test_files_that_no_reader_needs_any_more_are_removed(tmp_path, short_periods, monkeypatch):
    monkeypatch.setattr(lake_upkeep, "READER_HOURS", 0)
    lake = Lake(tmp_path)
    lake.create()
    for number in range(40):
        lake.commit({"sources": [source(number)]}, run_id="run", batch_index=number)
    assert len(list((tmp_path / "lake" / "sources").glob("*.parquet"))) <= 8
    assert len(column(tmp_path, "sources", "source_id")) == 40


def test_merging_happens_at_the_period_and_only_then(tmp_path, short_periods):
    lake = Lake(tmp_path)
    lake.create()
    counts = []
    for number in range(8):
        lake.commit({"sources": [source(number)]}, run_id="run", batch_index=number)
        counts.append(files_of(tmp_path)[0])
    assert counts == [1, 2, 3, 4, 5, 6, 7, 1]


def filled(root: Path | Store, num_batches: int = 20) -> Lake:
    """A lake where every other row has the secret, also as the least and the greatest value of its column."""
    lake = Lake(root)
    lake.create()
    for number in range(num_batches):
        rows = [source(number), {**source(number), "source_id": f"f{number}", "url": f"{SECRET}{number}"}]
        lake.commit({"sources": rows}, run_id="run", batch_index=number)
    return lake


CONDITIONS = {"sources": f"url like '{SECRET}%'"}
KEPT = sorted(f"s{number}" for number in range(20))


def traces(store: Store) -> list[str]:
    """Files below a root that hold the secret, in their bytes or behind the compression of Parquet."""
    found = []
    for file in store.files():
        with store.local_copy(file.key) as path:
            content = path.read_bytes()
            if content[:4] == b"PAR1":
                content += str(pq.read_table(path).to_pylist()).encode()
            if SECRET.encode() in content:
                found.append(file.key)
    return found


def test_purge_leaves_no_byte_of_deleted_rows(tmp_path, short_periods):
    lake = filled(tmp_path)
    draft = LocalStore(tmp_path / "lake").create("_journal/run-00000099.zip")
    draft.write(SECRET.encode())
    (tmp_path / "lake" / "sources" / "_delta_log" / "_commit_1.json.tmp").write_text(SECRET)
    assert len(traces(LocalStore(tmp_path))) > 10
    lake.delete(CONDITIONS)
    assert column(tmp_path, "sources", "source_id") == KEPT
    assert traces(LocalStore(tmp_path)) != []  # Deleting alone does not do it.
    lake.purge()
    assert traces(LocalStore(tmp_path)) == []
    assert list((tmp_path / "lake" / "_journal").iterdir()) == []
    assert column(tmp_path, "sources", "source_id") == KEPT
    assert files_of(tmp_path)[1] == 3
    # The lake goes on, and knows what it has seen.
    for number in range(18, 30):
        lake.commit({"sources": [source(number)]}, run_id="run", batch_index=number)
    assert len(column(tmp_path, "sources", "source_id")) == 30


def test_purge_in_a_bucket_leaves_no_byte(bucket):  # noqa: F811
    lake = filled(bucket, 3)
    lake.delete(CONDITIONS)
    lake.purge()
    assert traces(bucket) == []
    assert ids(bucket) == (["s0", "s1", "s2"], [])


def test_purge_of_every_row_and_of_none(tmp_path):
    lake = filled(tmp_path, 2)
    lake.delete({"sources": "url = 'nobody'"})
    lake.purge()
    assert len(column(tmp_path, "sources", "source_id")) == 4
    lake.delete({"sources": "true"})
    lake.purge()
    assert column(tmp_path, "sources", "source_id") == []
    assert traces(LocalStore(tmp_path)) == []


# Ends itself, as kill -9 does, at the n-th file that is removed, or n ms after it has begun.
_PURGER = """
import os, signal, sys, threading
from pathlib import Path
from pipeline.lake import Lake
root, kind, number, conditions = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), {sys.argv[4]: sys.argv[5]}
lake = Lake(root)
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
removed = 0
def look(event, _):
    global removed
    if event == "os.remove":
        removed += 1
        if removed == number:
            die()
if kind == "removed":
    sys.addaudithook(look)
else:
    threading.Timer(number / 1000, die).start()
lake.delete(conditions)
lake.purge()
"""
MOMENTS = [("removed", 1), ("removed", 30), ("ms", 40), ("ms", 150)]
MANY_MOMENTS = [("ms", ms) for ms in Random(0).sample(range(500), 10)] + [
    ("removed", 3 * n) for n in range(1, 11)
]


@pytest.mark.parametrize("moments", [MOMENTS, pytest.param(MANY_MOMENTS, marks=pytest.mark.slow)])
def test_a_purge_that_is_killed_is_finished_by_the_next(tmp_path, moments):
    """kill -9 at moments of a deletion and purge: the rest is always readable, and running again ends it."""
    filled(tmp_path / "whole")
    for kind, number in moments:
        root = tmp_path / f"{kind}{number}"
        shutil.copytree(tmp_path / "whole", root)
        command = [
            sys.executable,
            "-c",
            _PURGER,
            str(root),
            kind,
            str(number),
            "sources",
            CONDITIONS["sources"],
        ]
        status = subprocess.run(command, check=False).returncode
        assert status == -signal.SIGKILL or (kind, status) == ("ms", 0)
        seen = column(root, "sources", "source_id")
        assert [source_id for source_id in seen if source_id.startswith("s")] == KEPT
        lake = Lake(root)
        lake.delete(CONDITIONS)
        lake.purge()
        assert traces(LocalStore(root)) == []
        assert column(root, "sources", "source_id") == KEPT
        lake.commit({"sources": [source(0)]}, run_id="run", batch_index=19)
        assert column(root, "sources", "source_id") == KEPT
