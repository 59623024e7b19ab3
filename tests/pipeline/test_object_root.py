"""A root in a bucket behind a real S3 server: the rows and samples of a folder, whatever the server does."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath

import pytest

import infra.root
from infra.errors import ConfigError, StorageUnavailable
from infra.object_store import StoreOptions, open_store
from infra.root import SCRATCH_VARIABLE, Root, open_root
from infra.store_lock import StoreLock, exclusive_store
from pipeline.catalog import Catalog
from pipeline.cli import exit_status
from pipeline.collect_garbage import plan_gc
from pipeline.dataset import PackOptions
from pipeline.dedup_run import plan_dedup, run_dedup
from pipeline.forget import forget, plan_forget
from pipeline.ingest import plan_only_missing
from pipeline.lake import Lake
from pipeline.repair_dataset import plan_repair, repair
from shards.read_state import ReadState
from shards.reader import ShardReader
from shards.schema import Sample
from tests.media import make_clip
from tests.pipeline import pack_process
from tests.pipeline.byte_search import contents
from tests.pipeline.in_process import ingest_in_process, pack_in_process, run_in_process
from tests.s3_server import S3Server, s3_server

QUICK = StoreOptions(
    request_timeout_s=30, max_retries=4, retry_timeout_s=60, first_backoff_s=0.001, max_backoff_s=0.002
)
REPOSITORY = Path(__file__).resolve().parents[2]
# The middle clip of a source is soft: only the looser bound admits it.
VIDEO = "testsrc2=size=640x480:rate=25,gblur=sigma=1:enable='between(t,3,6)'"
SETTINGS = ("split.clip_s=3",)
LOOSE = "filters.laplacian_variance.min=60"
OPTIONS = PackOptions(samples_per_shard=2)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[S3Server]:
    with s3_server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        patch.setenv(SCRATCH_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        patch.setattr(infra.root, "open_store", partial(open_store, options=QUICK))
        yield server


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("sources")
    make_clip(folder / "one.mp4", duration_s=9, video=VIDEO)
    make_clip(folder / "two.mp4", duration_s=3, video="testsrc2=size=854x480:rate=25")
    make_clip(folder / "mute.mp4", duration_s=2, audio="")
    (folder / "text.mp4").write_text("this is not a film\n" * 50)
    return f"dir:{folder}"


@pytest.fixture(scope="module")
def roots(server, sources, tmp_path_factory) -> tuple[Root, Root]:
    """The same line on a folder, and in a bucket whose server stumbles, after a run that could not commit."""
    folder, url = tmp_path_factory.mktemp("root"), server.url("bucket/some/prefix")
    for place in (str(folder), url):
        if place == url:
            server.fail("error", times=10**6, method="PUT", key="/lake/sources/")
            with pytest.raises(StorageUnavailable):
                ingest_in_process(sources, url, *SETTINGS)
            server.heal()
            stumble(server)
        ingest_in_process(sources, place, *SETTINGS)
        dedup_and_pack(place)
        run_in_process(plan_only_missing(place, None, [LOOSE]))
        dedup_and_pack(place)
    return open_root(str(folder), create=False), open_root(url, create=False)


def dedup_and_pack(place: str) -> None:
    request = plan_dedup(place, None, ())
    with exclusive_store(request.root.store) as lock:
        run_dedup(request, lock=lock)
    pack_in_process("d", place, OPTIONS)


def stumble(server: S3Server) -> None:
    server.fail("error", times=2, after=20)
    server.fail("slow_down", times=2, method="PUT", key="/staged/")
    server.fail("slow_down", times=2, method="PUT", key="/lake/")
    server.fail("lose_answer", times=1, method="PUT", key="/media/")
    server.fail("cut_answer", times=1, method="GET", key="/media/")
    server.fail("cut_answer", times=1, method="GET", key="/staged/")
    server.fail("cut_request", times=1, method="PUT", key="/datasets/")


def rows(root: Root, table: str, columns: str) -> list[tuple]:
    return Catalog(root).rows(f"select {columns} from {table} order by all")


def samples(root: Root, version: int) -> list[Sample]:
    reader = ShardReader(root.store.below("datasets/d"), version)
    return list(reader.stream(ReadState.start(seed=0)))


def dataset_files(root: Root, name: str = "d") -> dict[str, bytes]:
    """The shards and what names them; the manifest says at which version of the lake it was made."""
    store = root.store.below(f"datasets/{name}")
    keys = [file.key for file in store.files() if not file.key.endswith(("manifest.json", "README.md"))]
    return {key: store.read(key) for key in keys}


def test_the_line_gives_the_same_rows_and_samples_as_in_a_folder(roots):
    local, bucket = roots
    for table, left_out in {
        "sources": "run_id, added_at",
        "fetches": "run_id, fetched_at",
        "clips": "run_id",
        "embeddings": "run_id",
        "fingerprints": "run_id",
        "duplicates": "run_id, found_at",
        "failures": "run_id, failed_at",
        "samples": "",
    }.items():
        columns = f"* exclude ({left_out})" if left_out else "*"
        found = rows(bucket, table, columns)
        assert found
        assert found == rows(local, table, columns), table
    assert rows(bucket, "clips", "count(*), count(*) filter (kept)") == [(5, 4)]
    assert [file.key for file in bucket.store.files("media")] == [
        file.key for file in local.store.files("media")
    ]
    assert len(samples(bucket, 1)) < len(samples(bucket, 2))
    assert dataset_files(bucket) == dataset_files(local)


def test_nothing_stays_on_this_machine_but_copies_of_the_lake(roots):
    _, bucket = roots
    left = {path.relative_to(bucket.scratch).parts[0] for path in bucket.scratch.rglob("*") if path.is_file()}
    assert left == {"lake"}
    assert not (Path.cwd() / "s3:").exists()


def test_the_mirror_fetches_a_file_once_and_drops_what_is_long_gone(server, roots):
    _, bucket = roots
    catalog = Catalog(bucket)
    assert catalog.versions == Catalog(bucket).versions == Lake(bucket.store).versions()
    server.heal()
    Catalog(bucket)
    assert server.num_requests(method="GET", key=".parquet?") == server.num_requests(key="/c000.snappy") == 0
    mirror = bucket.scratch / "lake" / "sources"
    old, recent = mirror / "old.parquet", mirror / "recent.parquet"
    for path in (old, recent):
        path.write_bytes(b"")
    os.utime(old, (0, 0))
    for path in mirror.glob("*.snappy.parquet"):
        os.utime(path, (0, 0))
    assert Catalog(bucket).rows("select count(*) from sources") == [(4,)]
    assert (old.exists(), recent.exists()) == (False, True)
    assert catalog.rows("select count(*) from sources") == [(4,)]


def test_a_second_writer_is_refused_and_the_message_says_who_writes(roots, sources):
    _, bucket = roots
    with (
        exclusive_store(bucket.store),
        pytest.raises(
            ConfigError, match=rf"process {os.getpid()} on .* is writing to s3://bucket/some/prefix"
        ),
    ):
        ingest_in_process(sources, bucket.url, *SETTINGS)


def test_a_writer_that_lost_its_lock_commits_nothing(roots):
    _, bucket = roots
    before = Catalog(bucket).versions
    with exclusive_store(bucket.store, lease_s=0.2) as lock:
        lake = Lake(bucket.store, lock=lock)
        bucket.store.write(".lock", b"another's")
        wait_until(lambda: is_lost(lock))
        with pytest.raises(StorageUnavailable, match="lock of a root"):
            lake.commit({"hosts": [{"host": "h"}]}, run_id="r", batch_index=0)
    bucket.store.delete([".lock"])
    assert Catalog(bucket).versions == before


def is_lost(lock: StoreLock) -> bool:
    try:
        lock.check()
    except StorageUnavailable:
        return True
    return False


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


@pytest.mark.slow
def test_a_pack_that_is_killed_is_gone_on_with(server, roots):
    """The killed process holds the root for as long as its lease; here its lock is taken away instead."""
    local, bucket = roots
    server.heal()
    server.fail("hang", method="PUT", key="manifest.json", times=10**6)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.pipeline.pack_process", bucket.url, "killed"],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
    )
    wait_until(lambda: server.num_requests(method="PUT", key="manifest.json") > 0)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    server.heal()
    with pytest.raises(ConfigError, match="only one run may write"):
        pack_in_process("killed", bucket.url, pack_process.OPTIONS)
    bucket.store.delete([".lock"])
    for root in roots:
        pack_in_process("killed", root.url, pack_process.OPTIONS)
    assert dataset_files(bucket, "killed") == dataset_files(local, "killed")


# ---- the command line ----


def avgen(capsys, *arguments: str) -> tuple[int, str, str]:
    status = exit_status(arguments)
    return status, *capsys.readouterr()


def test_commands_that_read_say_the_same_of_a_bucket_as_of_a_folder(roots, capsys):
    local, bucket = (root.url for root in roots)
    for words in (
        ["status", "--json", "--root"],
        ["what-if", "--json", "--set", "filters.snr_db.min=15", "--root"],
        ["sql", "select clip_id, kept from clips order by 1", "--format", "csv", "--root"],
        ["pack", "d", "--dry-run", "--json", "--root"],
        ["verify", "d@1", "--root"],
    ):
        status, out, _ = avgen(capsys, *words, bucket)
        assert (status, out) == avgen(capsys, *words, local)[:2]
        assert out


def test_verify_names_what_is_wrong_in_a_bucket(roots, capsys):
    _, bucket = roots
    store = bucket.store.below("datasets/d")
    (shard,) = [file.key for file in store.files("v1") if file.key.endswith(".tar")]
    whole = store.read(shard)
    store.write(shard, whole[:-1])
    status, out, _ = avgen(capsys, "verify", "d@1", "--root", bucket.url)
    store.write(shard, whole)
    assert status == 1
    assert PurePosixPath(shard).name in out


@pytest.mark.parametrize(
    ("url", "fault", "found"),
    [
        ("s3://nowhere/data", None, "NoSuchBucket"),
        ("s3://bucket/some/prefix", "denied", "403"),
        ("s3://bucket/empty", None, "run `avgen run` first"),
        ("ftp://bucket/data", None, "ftp"),
    ],
)
def test_a_root_that_cannot_be_had_is_one_line(server, roots, capsys, url, fault, found):
    if fault:
        server.fail(fault, times=10**6)
    status, out, err = avgen(capsys, "status", "--root", url)
    server.heal()
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert found in err


def test_no_credentials_are_one_line(roots, capsys, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    # What the library asks then; nobody listens there.
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")
    status, out, err = avgen(capsys, "status", "--root", "s3://bucket/some/prefix")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "credentials" in err


def test_training_on_a_bucket_is_refused_with_what_to_do(roots, capsys):
    status, _, err = avgen(capsys, "train", "--dataset", "d", "--root", "s3://bucket/some/prefix")
    assert (status, err.count("\n")) == (2, 1)
    assert "copy datasets/NAME" in err


# ---- what changes the datasets; last, for it leaves other rows behind ----


@pytest.mark.slow
def test_repair_and_forget_work_in_a_bucket_and_leave_no_copy_behind(roots):
    _, bucket = roots
    store = bucket.store.below("datasets/d")
    (shard,) = [file.key for file in store.files("v1") if file.key.endswith(".tar")]
    whole = store.read(shard)
    store.write(shard, whole[:-1])
    assert repair(plan_repair("d@1", bucket.url)).shards == (PurePosixPath(shard).name,)
    assert store.read(shard) == whole
    ((gone, clip_id),) = rows(bucket, "clips", "min(source_id), min(clip_id)")
    assert clip_id.startswith(gone)
    assert clip_id.encode() in whole
    forget(plan_forget(bucket.url, source_ids=[gone]))
    held = {file.key: contents(bucket.store.read(file.key)) for file in bucket.store.files()}
    assert [key for key, parts in held.items() if any(clip_id.encode() in part for part in parts)] == []
    assert [path for path in bucket.scratch.rglob("*") if path.is_file()] == []
    assert rows(bucket, "clips", "count(*)") == [
        (rows(roots[0], "clips", f"count(*) filter (source_id != '{gone}')")[0])
    ]
    assert plan_gc(bucket.url).orphans == ()
