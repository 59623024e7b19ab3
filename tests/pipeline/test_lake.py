"""The lake's promise: a batch over several tables is there once or not at all, whenever the writer dies."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, Transaction

from infra.errors import ConfigError, StorageUnavailable
from infra.object_store import ObjectStore, StoreOptions, open_store
from infra.store import LocalStore, Store
from pipeline.lake import Lake, _pack, lake_files, live_tables
from pipeline.lake_tables import table_schemas
from tests.s3_server import S3Server, s3_server

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OPTIONS = StoreOptions(
    request_timeout_s=30, max_retries=2, retry_timeout_s=60, first_backoff_s=0.001, max_backoff_s=0.002
)


def failure(number: int) -> dict:
    return {"subject_id": f"s{number}", "recipe_id": "r", "stage": "fetch", "code": "gone", "failed_at": NOW}


def source(number: int) -> dict:
    return {"source_id": f"s{number}", "url": f"https://x/{number}", "kind": "web", "added_at": NOW}


def batch(number: int) -> dict[str, list[dict]]:
    return {"sources": [source(number)], "failures": [failure(number)]}


def tables(number: int) -> dict[str, pa.Table]:
    return {
        name: pa.Table.from_pylist(rows, schema=table_schemas()[name]) for name, rows in batch(number).items()
    }


def column(root: Path | Store, table: str, name: str) -> list:
    """Values of a column, sorted, as anyone reads them who knows the live files."""
    store = LocalStore(root) if isinstance(root, Path) else root
    found: list = []
    for file in lake_files(root)[table][1]:
        with store.local_copy(file.removeprefix(f"{store.url}/")) as path:
            found += pq.read_table(path).column(name).to_pylist()
    return sorted(found)


def ids(root: Path | Store) -> tuple[list[str], list[str]]:
    return column(root, "sources", "source_id"), column(root, "failures", "subject_id")


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server, pytest.MonkeyPatch.context() as environment:
        for name, value in server.environment.items():
            environment.setenv(name, value)
        yield server


@pytest.fixture
def bucket(server, monkeypatch) -> Iterator[ObjectStore]:
    few = {name: table_schemas()[name] for name in ("sources", "failures", "clips")}
    monkeypatch.setattr("pipeline.lake.table_schemas", lambda: few)  # Every table costs requests.
    store = open_store(server.url(f"lakes/{uuid4().hex}"), OPTIONS)
    assert isinstance(store, ObjectStore)
    yield store
    server.heal()


@pytest.fixture(params=["folder", "bucket"])
def root(request, tmp_path) -> Store:
    return LocalStore(tmp_path) if request.param == "folder" else request.getfixturevalue("bucket")


def test_create_makes_every_table_and_is_idempotent(tmp_path):
    for _ in range(2):
        Lake(tmp_path).create()
    assert {name: table.schema for name, table in live_tables(tmp_path).items()} == table_schemas()
    assert set(Lake(tmp_path).versions().values()) == {0}


def test_commit_appends_to_every_table_and_clears_the_journal(root):
    lake = Lake(root)
    lake.create()
    for number in range(3):
        lake.commit(batch(number), run_id="run", batch_index=number)
    assert ids(root) == (["s0", "s1", "s2"], ["s0", "s1", "s2"])
    assert list(root.files("lake/_journal")) == []
    versions = lake.versions()
    assert (versions["sources"], versions["failures"], versions["clips"]) == (3, 3, 0)
    assert all(file.startswith(f"{root.url}/lake/sources/") for file in lake_files(root)["sources"][1])


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
    LocalStore(tmp_path).write("lake/_journal/run-00000007.zip", _pack(tables(0)))
    for name in ("failures", "sources")[:num_tables_done]:
        lake._append(name, tables(0)[name], Transaction("run", 7))
    Lake(tmp_path).create()
    assert ids(tmp_path) == (["s0"], ["s0"])
    assert list((tmp_path / "lake" / "_journal").iterdir()) == []


def test_a_batch_in_a_bucket_is_replayed(server, bucket):
    """The store fails between the two tables; whoever comes next finishes what was promised."""
    lake = Lake(bucket)
    lake.create()
    server.fail("error", times=10**6, method="PUT", key="/sources/")
    with pytest.raises(StorageUnavailable, match="500 Internal Server Error") as caught:
        lake.commit(batch(0), run_id="run", batch_index=0)
    assert "\n" not in str(caught.value)
    server.heal()
    assert ids(bucket) == ([], ["s0"])
    Lake(bucket).create()
    assert ids(bucket) == (["s0"], ["s0"])


def test_throttling_is_survived_and_a_closed_door_is_for_the_operator(server, bucket):
    lake = Lake(bucket)
    lake.create()
    server.fail("slow_down", times=2, method="PUT", key="_delta_log")
    lake.commit(batch(0), run_id="run", batch_index=0)
    assert ids(bucket) == (["s0"], ["s0"])
    server.fail("denied", times=10**6)
    with pytest.raises(ConfigError, match="let us in"):
        lake.versions()


def test_create_drops_a_draft_that_was_never_committed(tmp_path):
    lake = Lake(tmp_path)
    lake.create()
    draft = LocalStore(tmp_path / "lake").create("_journal/run-00000000.zip")
    draft.write(b"half a fi")
    lake.create()
    assert ids(tmp_path) == ([], [])
    assert list((tmp_path / "lake" / "_journal").iterdir()) == []


def test_a_lake_without_a_table_says_what_to_do(tmp_path):
    Lake(tmp_path).create()
    shutil.rmtree(tmp_path / "lake" / "clips")
    with pytest.raises(ConfigError, match="clips is missing"):
        lake_files(tmp_path)


_WRITER = """
import sys
from pathlib import Path
from pipeline import lake_upkeep
from pipeline.lake import Lake
lake_upkeep._PERIOD_VERSIONS = 3
root, run_id = Path(sys.argv[1]), sys.argv[2]
lake = Lake(root)
lake.create()
print("ready", flush=True)
for number in range(10_000):
    name = f"s{int(run_id) * 10_000 + number}"
    rows = {"sources": [{"source_id": name}], "failures": [{"subject_id": name}]}
    lake.commit(rows, run_id=run_id, batch_index=number)
    print(number, flush=True)
"""


def test_writer_killed_at_any_moment_leaves_whole_batches(tmp_path):
    """kill -9 while commits and upkeep run, five times over one lake: tables agree, what was reported is there."""
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
    assert column(tmp_path, "clips", "snr_db") == [12.0]
