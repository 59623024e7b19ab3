"""The lake's promise: a batch over several tables is there once or not at all, whenever the writer dies."""

import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from pipeline.catalog import Catalog
from pipeline.lake import Lake
from pipeline.lake_tables import table_schemas

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def failure(number: int) -> dict:
    return {"subject_id": f"s{number}", "recipe_id": "r", "stage": "fetch", "code": "gone", "failed_at": NOW}


def source(number: int) -> dict:
    return {"source_id": f"s{number}", "url": f"https://x/{number}", "kind": "web", "added_at": NOW}


def batch(number: int) -> dict[str, list[dict]]:
    return {"sources": [source(number)], "failures": [failure(number)]}


def ids(root: Path) -> tuple[list[str], list[str]]:
    catalog = Catalog(root)
    sources = catalog.query("select source_id from sources order by 1").column(0).to_pylist()
    failures = catalog.query("select subject_id from failures order by 1").column(0).to_pylist()
    return sources, failures


def test_create_makes_every_table_and_is_idempotent(tmp_path):
    for _ in range(2):
        Lake(tmp_path).create()
    catalog = Catalog(tmp_path)
    assert set(table_schemas()) < set(catalog.tables())
    for name, schema in table_schemas().items():
        assert catalog.query(f"select * from {name}").column_names == schema.names


def test_commit_appends_to_every_table_and_clears_the_journal(tmp_path):
    lake = Lake(tmp_path)
    lake.create()
    for number in range(3):
        lake.commit(batch(number), run_id="run", batch_index=number)
    assert ids(tmp_path) == (["s0", "s1", "s2"], ["s0", "s1", "s2"])
    assert list((tmp_path / "lake" / "_journal").iterdir()) == []


def test_commit_same_batch_again_changes_nothing(tmp_path):
    lake = Lake(tmp_path)
    lake.create()
    for _ in range(2):
        lake.commit(batch(0), run_id="run", batch_index=0)
    assert ids(tmp_path) == (["s0"], ["s0"])


@pytest.mark.parametrize("num_tables_done", [0, 1, 2])
def test_create_finishes_a_batch_that_was_journalled(tmp_path, num_tables_done):
    """The state after a kill between two tables: the entry is whole, some tables have it."""
    lake = Lake(tmp_path)
    lake.create()
    entry = tmp_path / "lake" / "_journal" / "run-00000000"
    entry.mkdir(parents=True)
    for name, rows in batch(0).items():
        schema = table_schemas()[name]
        import pyarrow as pa

        pq.write_table(pa.Table.from_pylist(rows, schema=schema), entry / f"{name}.parquet")
    whole = tmp_path / "whole"
    shutil.copytree(entry, whole)
    if num_tables_done:
        for name in ("sources", "failures")[num_tables_done:]:
            (entry / f"{name}.parquet").unlink()
        lake._apply(entry)
        shutil.copytree(whole, entry)
    Lake(tmp_path).create()
    assert ids(tmp_path) == (["s0"], ["s0"])
    assert not entry.exists()


def test_create_drops_a_draft_that_was_never_committed(tmp_path):
    lake = Lake(tmp_path)
    lake.create()
    draft = tmp_path / "lake" / "_journal" / ".run-00000000.tmp"
    draft.mkdir(parents=True)
    (draft / "sources.parquet").write_bytes(b"half a fi")
    lake.create()
    assert ids(tmp_path) == ([], [])
    assert not draft.exists()


_WRITER = """
import sys
from pathlib import Path
from pipeline.lake import Lake
from tests.pipeline.test_lake import batch
root, run_id = Path(sys.argv[1]), sys.argv[2]
lake = Lake(root)
lake.create()
print("ready", flush=True)
for number in range(10_000):
    lake.commit(batch(int(run_id) * 10_000 + number), run_id=run_id, batch_index=number)
    print(number, flush=True)
"""


def test_writer_killed_at_any_moment_leaves_whole_batches(tmp_path):
    """kill -9 while commits run, five times over one lake: tables agree, and what was reported is there."""
    reported = 0
    for run_number in range(1, 6):
        command = [sys.executable, "-c", _WRITER, str(tmp_path), str(run_number)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            time.sleep(0.2 + 0.07 * run_number)
            os.kill(writer.pid, signal.SIGKILL)
            reported += len(writer.stdout.read().split())
    Lake(tmp_path).create()
    sources, failures = ids(tmp_path)
    assert sources == failures
    assert len(set(sources)) == len(sources)
    assert reported <= len(sources) <= reported + 5


def test_new_filter_column_appears_in_an_old_table(tmp_path):
    """A lake made before a filter existed gains its column with the first rows that have it."""
    lake = Lake(tmp_path)
    lake.create()
    shutil.rmtree(tmp_path / "lake" / "clips")
    old = table_schemas()["clips"]
    old = old.remove(old.get_field_index("snr_db"))
    DeltaTable.create(str(tmp_path / "lake" / "clips"), schema=old)
    lake.commit({"clips": [{"clip_id": "c", "snr_db": 12.0}]}, run_id="run", batch_index=0)
    assert Catalog(tmp_path).query("select clip_id, snr_db from clips").to_pylist() == [
        {"clip_id": "c", "snr_db": 12.0}
    ]
