"""A root is a store and a scratch folder, which are the same folder for a local one."""

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from infra.errors import ConfigError, StorageUnavailable
from infra.root import SCRATCH_VARIABLE, Root, open_root
from tests.s3_server import S3Server, s3_server


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture
def bucket(server, tmp_path, monkeypatch) -> Root:
    monkeypatch.setenv(SCRATCH_VARIABLE, str(tmp_path / "cache"))
    return open_root(server.url(f"bucket/{uuid4().hex}"), create=True)


@pytest.fixture(params=["folder", "bucket"])
def root(request, tmp_path) -> Root:
    local = tmp_path / "root"
    return (
        open_root(str(local), create=True) if request.param == "folder" else request.getfixturevalue("bucket")
    )


def scratch_files(root: Root) -> list[str]:
    return sorted(path.name for path in root.tmp_dir.rglob("*") if path.is_file())


def test_open_root_leaves_nothing_in_a_store_that_it_tries(root):
    assert list(root.store.files()) == []


def test_open_root_wants_one_that_was_filled(root):
    with pytest.raises(ConfigError, match="run `avgen run` first"):
        open_root(root.url, create=False)
    root.store.write("lake/sources/_delta_log/0.json", b"{}")
    assert open_root(root.url, create=False) == root


def test_scratch_folder_of_a_url_is_its_own_and_below_the_named_folder(server, bucket, tmp_path):
    other = open_root(server.url(f"bucket/{uuid4().hex}"), create=True)
    assert bucket.scratch.parent == other.scratch.parent == tmp_path / "cache"
    assert bucket.scratch != other.scratch
    assert open_root(f"{bucket.url}/", create=True) == bucket


@pytest.mark.parametrize(("name", "found"), [("a*b", "without %"), ("file/below", "can be written")])
def test_scratch_folder_that_cannot_be_used_is_for_the_operator(bucket, tmp_path, monkeypatch, name, found):
    (tmp_path / "file").touch()
    monkeypatch.setenv(SCRATCH_VARIABLE, str(tmp_path / name))
    with pytest.raises(ConfigError, match=found):
        open_root(bucket.url, create=True)


def test_publish_and_local_copy_give_the_bytes_back_and_leave_nothing(root, tmp_path):
    content = os.urandom(70_000)
    for _ in range(2):
        (tmp_path / "made").write_bytes(content)
        root.publish(tmp_path / "made", "media/ab/abc.mp4")
    assert root.store.read("media/ab/abc.mp4") == content
    with root.local_copy("media/ab/abc.mp4") as path:
        assert (path.name, path.read_bytes()) == ("abc.mp4", content)
        assert root.is_local == (path == root.scratch / "media" / "ab" / "abc.mp4")
    assert scratch_files(root) == []


def test_publish_sends_nothing_that_is_there_and_replaces_what_was_cut(server, bucket, tmp_path):
    (tmp_path / "made").write_bytes(b"whole")
    bucket.store.write("media/k", b"who")
    bucket.publish(tmp_path / "made", "media/k")
    assert bucket.store.read("media/k") == b"whole"
    server.heal()
    bucket.publish(tmp_path / "made", "media/k")
    assert server.num_requests(method="PUT") == 0


def test_local_copy_of_what_is_gone_may_be_asked_again(bucket):
    with pytest.raises(StorageUnavailable, match="media/gone"), bucket.local_copy("media/gone"):
        pass
    assert scratch_files(bucket) == []


def test_empty_tmp_keeps_what_a_living_process_spills(root):
    ended = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    for folder in (root.spill_dir(), root.tmp_dir / f"spill-{int(ended.stdout)}", root.tmp_dir / "run"):
        folder.mkdir()
        (folder / folder.name).touch()
    if not root.is_local:
        root.store.write("tmp/run/shared", b"x")
    root.empty_tmp()
    assert scratch_files(root) == [root.spill_dir().name]
    assert root.is_local or list(root.store.files()) == []


def test_root_travels_to_other_processes_without_secrets(server, root):
    sent = pickle.dumps(root)
    assert pickle.loads(sent) == root
    assert server.environment["AWS_SECRET_ACCESS_KEY"].encode() not in sent


def test_a_path_stands_for_its_local_root(tmp_path):
    root = Root.of(tmp_path)
    assert (root.url, root.scratch, root.is_local) == (str(tmp_path), tmp_path, True)
    assert Root.of(root) is root
    assert isinstance(root.scratch, Path)
