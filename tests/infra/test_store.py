"""The laws of stores, on a folder and in a bucket behind a real S3 server; then a server that fails."""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.errors import AvgenError, ConfigError, StorageUnavailable
from infra.object_store import ObjectStore, StoreOptions, open_store
from infra.store import KeptFile, LocalStore, Store
from infra.store_lock import exclusive_store
from tests.s3_server import ACCESS_KEY_ID, SECRET, S3Server, s3_server

# Source: Amazon S3 API reference: no part but the last is smaller.
PART_BYTES = 5 * 1024**2
# Waits for a busy machine; tests of a server that does not answer have a time of their own.
QUICK = StoreOptions(
    request_timeout_s=30,
    max_retries=3,
    retry_timeout_s=60,
    first_backoff_s=0.001,
    max_backoff_s=0.002,
    part_bytes=PART_BYTES,
)


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server, pytest.MonkeyPatch.context() as environment:
        for name, value in server.environment.items():
            environment.setenv(name, value)
        yield server


@pytest.fixture
def bucket(server) -> Iterator[ObjectStore]:
    server.heal()
    store = open_store(server.url(f"bucket/{uuid4().hex}/a b"), QUICK)
    assert isinstance(store, ObjectStore)
    yield store
    server.heal()


@pytest.fixture(params=["folder", "bucket"])
def store(request, tmp_path) -> Store:
    return open_store(str(tmp_path)) if request.param == "folder" else request.getfixturevalue("bucket")


def keys(store: Store, prefix: str = "") -> list[str]:
    return [file.key for file in store.files(prefix)]


def put(store: Store, key: str, content: bytes, *, block_bytes: int = 1024**2) -> None:
    file = store.create(key)
    try:
        for start in range(0, len(content), block_bytes):
            file.write(content[start : start + block_bytes])
        file.commit()
    finally:
        file.discard_unless_committed()


# The laws.


def test_what_is_written_is_read(store):
    store.write("a/b", b"one")
    store.write("a/b", b"two")
    assert (store.read("a/b"), store.size_bytes("a/b")) == (b"two", 3)
    assert list(store.files()) == [KeptFile(key="a/b", num_bytes=3)]


def test_an_empty_file_is_a_file(store):
    store.write("empty", b"")
    assert (store.read("empty"), store.size_bytes("empty"), keys(store)) == (b"", 0, ["empty"])
    with store.open("empty") as stream:
        assert stream.read() == b""


def test_what_is_missing_is_told(store):
    assert store.size_bytes("no") is None
    for ask in (store.read, store.open, lambda key: store.local_copy(key).__enter__()):
        with pytest.raises(FileNotFoundError):
            ask("no")
    with pytest.raises(FileNotFoundError):
        store.read_range("no", offset_bytes=0, num_bytes=1)
    assert (keys(store), keys(store, "no"), store.sweep("no")) == ([], [], [])


def test_a_new_file_is_not_there_before_its_commit(store):
    file = store.create("new")
    file.write(b"x")
    assert (store.size_bytes("new"), keys(store)) == (None, [])
    file.commit()
    file.discard_unless_committed()
    assert store.read("new") == b"x"


def test_a_discarded_file_leaves_the_one_before(store):
    store.write("k", b"before")
    with pytest.raises(ZeroDivisionError):
        file = store.create("k")
        try:
            file.write(bytes(PART_BYTES + 1))
            file.write(b"%d" % (1 // 0))
        finally:
            file.discard_unless_committed()
    assert (store.read("k"), keys(store)) == (b"before", ["k"])


@pytest.mark.parametrize("num_bytes", [0, 1, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES + 7])
def test_a_new_file_of_any_length_is_read_in_every_way(store, num_bytes):
    content = os.urandom(num_bytes)
    put(store, "deep/down/file.tar", content)
    assert store.read("deep/down/file.tar") == content
    with store.local_copy("deep/down/file.tar") as path:
        assert (path.suffix, path.read_bytes()) == (".tar", content)
    with store.open("deep/down/file.tar") as stream:
        assert b"".join(iter(lambda: stream.read(700_000), b"")) == content


def test_deleted_files_are_gone_and_missing_ones_are_passed_over(store):
    for key in ("a", "b", "c/d"):
        store.write(key, b"")
    store.delete(iter(["a", "c/d", "never"]))
    assert keys(store) == ["b"]


NAMES = st.text("ab-.0 =é%", min_size=1, max_size=3).filter(lambda name: name not in (".", ".."))


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.sets(st.lists(NAMES, min_size=1, max_size=3).map("/".join), max_size=6))
def test_files_are_all_keys_below_in_order(store, wanted):
    # A folder cannot be a file, too.
    wanted = {key for key in wanted if not any(other.startswith(f"{key}/") for other in wanted)}
    store = store.below(uuid4().hex)
    for key in wanted:
        store.write(key, key.encode())
    assert list(store.files()) == [KeptFile(key=key, num_bytes=len(key.encode())) for key in sorted(wanted)]
    for folder in {key.rpartition("/")[0] for key in wanted} - {""}:
        below = sorted(key for key in wanted if key.startswith(f"{folder}/"))
        assert keys(store, folder) == below
        assert keys(store.below(folder)) == [key.removeprefix(f"{folder}/") for key in below]


CONTENT = bytes(range(256)) * 1200


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(CONTENT) + 9), st.integers(0, len(CONTENT))), max_size=4))
def test_ranges_and_seeks_read_what_a_slice_would(store, spans):
    if store.size_bytes("k") is None:
        store.write("k", CONTENT)
    with store.open("k") as stream:
        for offset, num_bytes in spans:
            expected = CONTENT[offset : offset + num_bytes]
            assert stream.seek(offset) == offset
            assert stream.read(num_bytes) == expected
            assert stream.tell() == offset + len(expected)
            if num_bytes:
                assert store.read_range("k", offset_bytes=offset, num_bytes=num_bytes) == expected
        assert stream.seek(-3, os.SEEK_END) == len(CONTENT) - 3
        assert stream.read() == CONTENT[-3:]


def test_a_store_travels_without_secrets(store):
    store.below("x").write("k", b"v")
    frozen = pickle.dumps(store.below("x"))
    copy = pickle.loads(frozen)
    assert (copy.read("k"), copy.url) == (b"v", store.below("x").url)
    assert SECRET.encode() not in frozen


def test_only_one_writer_holds_a_root(store):
    with exclusive_store(store) as lock:
        lock.check()
        with pytest.raises(ConfigError, match="only one run may write"), exclusive_store(store):
            pass
    with exclusive_store(store):
        pass


_HOLDER = """
import sys, time
from infra.object_store import StoreOptions, open_store
from infra.store_lock import exclusive_store
with exclusive_store(open_store(sys.argv[1]), lease_s=0.3):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_killed_holder_is_followed(store):
    with subprocess.Popen([sys.executable, "-c", _HOLDER, store.url], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        time.sleep(0.4)  # Longer than the lease: it is renewed.
        with pytest.raises(ConfigError), exclusive_store(store, lease_s=0.3):
            pass
        os.kill(holder.pid, signal.SIGKILL)
    if isinstance(store, ObjectStore):
        time.sleep(0.3)
    with exclusive_store(store, lease_s=0.3) as lock:
        lock.check()


# What a URL may be.


@pytest.mark.parametrize(
    ("url", "kind", "shown"),
    [
        ("/x/y", LocalStore, "/x/y"),
        ("s3://b", ObjectStore, "s3://b"),
        ("s3://b/", ObjectStore, "s3://b"),
        ("gs://b/c/d/", ObjectStore, "gs://b/c/d"),
        ("az://b/c", ObjectStore, "az://b/c"),
    ],
)
def test_open_store_knows_paths_and_buckets(url, kind, shown):
    store = open_store(url)
    assert (type(store), store.url) == (kind, shown)


@pytest.mark.parametrize(
    "url",
    ["", "s3://", "s3:///x", "ftp://b/c", "S4://b", "s3://key:hush@b/c", "s3://b/../c", "s3://b//c", "s3://b/*",
     "s3://b/c?sig=hush", "https://b/c"],
)  # fmt: skip
def test_open_store_refuses_other_urls(url):
    with pytest.raises(ConfigError) as caught:
        open_store(url)
    assert "hush" not in str(caught.value)


# A server that fails.

OPERATIONS = {
    "write": lambda store: store.write("w", b"w"),
    "read": lambda store: store.read("there"),
    "size": lambda store: store.size_bytes("there"),
    "files": lambda store: list(store.files()),
    "delete": lambda store: store.delete(["gone"]),
    "new": lambda store: put(store, "new", bytes(PART_BYTES + 1)),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("fault", ["error", "slow_down", "lose_answer"])
def test_a_few_faults_are_survived(server, bucket, operation, fault):
    bucket.write("there", b"x")
    server.fail(fault, times=QUICK.max_retries - 1)
    OPERATIONS[operation](bucket)
    if operation == "new":
        assert bucket.read("new") == bytes(PART_BYTES + 1)


@pytest.mark.parametrize("operation", ["write", "read", "new"])
def test_a_request_that_hangs_is_asked_again(server, bucket, operation):
    bucket.write("there", b"x")
    server.heal()
    server.fail("hang")
    OPERATIONS[operation](open_store(bucket.url, replace(QUICK, request_timeout_s=1.0)))
    assert server.num_requests() >= 2


def test_a_server_that_never_answers_is_given_up(server, bucket):
    server.fail("hang", times=99)
    impatient = open_store(bucket.url, replace(QUICK, request_timeout_s=0.1))
    with pytest.raises(StorageUnavailable, match="3 retries"):
        impatient.read("k")


def test_an_answer_that_is_cut_is_completed(server, bucket):
    bucket.write("k", CONTENT)
    server.fail("cut_answer", times=2, method="GET")
    assert bucket.read("k") == CONTENT
    server.fail("cut_answer", times=2, method="GET")
    with bucket.open("k") as stream:
        assert stream.read() == CONTENT


@pytest.mark.parametrize("operation", OPERATIONS)
def test_many_faults_are_one_clear_line(server, bucket, operation):
    bucket.write("there", b"x")
    server.heal()
    server.fail("slow_down", times=99)
    with pytest.raises(StorageUnavailable, match=r"SlowDown|503") as caught:
        OPERATIONS[operation](bucket)
    assert_is_one_line_without_secrets(caught.value)
    assert server.num_requests() == QUICK.max_retries + 1  # Asked again in one layer.


@pytest.mark.parametrize("operation", OPERATIONS)
def test_denied_credentials_and_a_missing_bucket_are_for_the_operator(server, bucket, operation):
    bucket.write("there", b"x")
    server.fail("denied", times=99)
    with pytest.raises(ConfigError, match="403") as caught:
        OPERATIONS[operation](bucket)
    assert_is_one_line_without_secrets(caught.value)
    server.heal()
    if operation != "size":  # A HEAD is answered without a reason.
        with pytest.raises(ConfigError, match="NoSuchBucket"):
            OPERATIONS[operation](open_store("s3://nowhere/x", QUICK))


def test_http_without_leave_is_for_the_operator(bucket, monkeypatch):
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    with pytest.raises(ConfigError, match="environment"):
        open_store("s3://bucket/x", QUICK).read("k")


def test_an_account_that_is_not_named_is_for_the_operator(monkeypatch):
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(ConfigError, match="az:// needs"):
        open_store("az://container/x", QUICK).read("k")


def assert_is_one_line_without_secrets(err: AvgenError) -> None:
    assert "\n" not in str(err)
    assert "<" not in str(err)
    assert SECRET not in str(err)
    assert ACCESS_KEY_ID not in str(err)
    assert err.__cause__ is None
    assert err.__suppress_context__


@pytest.mark.parametrize(
    ("method", "key"), [("POST", "uploads"), ("PUT", "partNumber"), ("POST", "uploadId")]
)
def test_a_failed_upload_leaves_the_old_object_and_no_parts(server, bucket, method, key):
    bucket.write("k", b"before")
    before = server.num_unfinished_uploads("bucket")
    server.fail("error", times=99, method=method, key=key)
    with pytest.raises(StorageUnavailable):
        put(bucket, "k", bytes(2 * PART_BYTES))
    assert (bucket.read("k"), keys(bucket)) == (b"before", ["k"])
    assert server.num_unfinished_uploads("bucket") == before


_UPLOADER = """
import sys, time
from infra.object_store import open_store
file = open_store(sys.argv[1]).create("k")
file.write(bytes(20 * 1024 ** 2))
print("sent", flush=True)
time.sleep(60)
"""


def test_a_killed_upload_leaves_the_old_object(server, bucket):
    bucket.write("k", b"before")
    with subprocess.Popen([sys.executable, "-c", _UPLOADER, bucket.url], stdout=subprocess.PIPE) as uploader:
        assert uploader.stdout is not None
        assert uploader.stdout.readline() == b"sent\n"
        while server.num_requests(method="PUT", key="partNumber") == 0:
            time.sleep(0.01)
        os.kill(uploader.pid, signal.SIGKILL)
    assert (bucket.read("k"), keys(bucket)) == (b"before", ["k"])


def test_a_header_is_read_without_the_object(server, bucket):
    bucket.write("k", bytes(3_000_000))
    server.heal()
    with bucket.open("k") as stream:
        assert stream.read(100) == bytes(100)
        assert stream.read(100) == bytes(100)
    assert server.num_requests() == 2  # How long it is, and the first bytes.
    assert server.num_answered_bytes < 100_000


def test_an_object_that_is_replaced_while_it_is_read_is_not_mixed(bucket):
    bucket.write("k", b"a" * 300_000)
    with bucket.open("k") as stream:
        stream.read(10)
        bucket.write("k", b"b" * 300_000)
        with pytest.raises(StorageUnavailable):
            stream.read()


def test_a_lock_whose_answer_was_lost_is_held(server, bucket):
    server.fail("lose_answer", method="PUT", key=".lock")
    with exclusive_store(bucket) as lock:
        lock.check()


def test_a_lock_that_cannot_be_renewed_is_not_trusted(server, bucket):
    impatient = open_store(bucket.url, replace(QUICK, max_retries=0))
    with exclusive_store(impatient, lease_s=0.2) as lock:
        server.fail("error", times=10**6)
        time.sleep(0.3)
        with pytest.raises(StorageUnavailable, match="renewed"):
            lock.check()
        server.heal()


def test_a_local_writer_that_was_killed_is_swept(tmp_path):
    store = open_store(str(tmp_path))
    (tmp_path / "d").mkdir()
    file = store.create("d/k")
    file.write(b"half")
    assert keys(store) == []
    assert len(store.sweep("d")) == 1
    assert list(Path(tmp_path / "d").iterdir()) == []
