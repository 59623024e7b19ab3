import hashlib
import io
import os
import signal
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import IntegrityError
from infra.store import LocalStore
from shards.schema import BUNDLE_MEMBERS, EMBEDDING_MEMBERS, SAMPLE_MEMBERS
from shards.writer import ShardWriter, write_index
from tests.shards.made_samples import make_sample
from tests.shards.made_versions import make_version, train_shards

REPOSITORY = Path(__file__).resolve().parents[2]
PAYLOADS = st.binary(min_size=1, max_size=1100)
BUNDLES = st.dictionaries(
    st.text("abcXYZ019_-", min_size=1, max_size=91), st.tuples(PAYLOADS, PAYLOADS, PAYLOADS), min_size=1
)


def write_bundle(path: Path, clips) -> ShardWriter:
    with ShardWriter(LocalStore(path.parent), path.name) as writer:
        for key, payloads in clips.items():
            writer.write(key, dict(zip(BUNDLE_MEMBERS, payloads, strict=True)))
    return writer


@settings(deadline=None)
@given(clips=BUNDLES)
def test_shard_writer_record_gives_the_place_of_every_byte(tmp_path_factory, clips):
    path = tmp_path_factory.mktemp("b") / "bundle.tar"
    record = write_bundle(path, clips).record
    data = path.read_bytes()
    found = {(m.key, m.ext): data[m.offset_bytes : m.offset_bytes + m.member_bytes] for m in record.members}
    assert found == {
        (key, ext): payload
        for key, payloads in clips.items()
        for ext, payload in zip(BUNDLE_MEMBERS, payloads, strict=True)
    }
    assert [m.crc32 for m in record.members] == [zlib.crc32(payload) for payload in found.values()]
    assert (record.name, record.num_samples) == ("bundle.tar", len(clips))
    assert (record.shard_bytes, record.sha256) == (len(data), hashlib.sha256(data).hexdigest())


@settings(deadline=None)
@given(clips=BUNDLES)
def test_shard_writer_bytes_equal_those_of_webdataset(tmp_path_factory, clips):
    import webdataset

    path = tmp_path_factory.mktemp("b") / "bundle.tar"
    write_bundle(path, clips)
    stream = io.BytesIO()
    reference = webdataset.TarWriter(stream, user="", group="", mode=0o644, mtime=0, encoder=False)
    for key, payloads in clips.items():
        for ext, payload in zip(BUNDLE_MEMBERS, payloads, strict=True):
            reference.write({"__key__": key, ext: payload})
    reference.close()
    assert path.read_bytes() == stream.getvalue()


def test_shard_writer_members_lie_in_order_with_fixed_headers(tmp_path):
    path = tmp_path / "shard-000000.tar"
    samples = [make_sample(index) for index in (1, 0)]
    with ShardWriter(LocalStore(path.parent), path.name) as writer:
        for sample in samples:
            writer.write(sample.key, sample.to_members())
    with tarfile.open(path, "r:") as tar:
        headers = tar.getmembers()
    assert [header.name for header in headers] == [
        f"{sample.key}.{ext}" for sample in samples for ext in SAMPLE_MEMBERS
    ]
    assert {(h.mtime, h.uid, h.gid, h.mode, h.uname, h.gname) for h in headers} == {(0, 0, 0, 0o644, "", "")}


def test_shard_writer_again_gives_the_same_bytes(tmp_path):
    clips = {"a": (b"1", b"2", b"3"), "b": (b"4", b"5", b"6")}
    one, two = write_bundle(tmp_path / "1.tar", clips), write_bundle(tmp_path / "2.tar", clips)
    assert one.record.sha256 == two.record.sha256
    # Origin: this writer, 2026-11-23; a change of one byte in any shard must be a decision.
    assert one.record.sha256 == "cfbc43142ef99281486b7b2051269383445d0b33664cb7eb3d1bb09d27fa2917"


def test_shard_writer_replaces_an_older_file_only_at_the_end(tmp_path):
    path = tmp_path / "x.tar"
    path.write_bytes(b"old")
    with ShardWriter(LocalStore(path.parent), path.name) as writer:
        writer.write("a", {"mp4": b"1", "flac": b"2", "json": b"3"})
        assert path.read_bytes() == b"old"
    assert path.stat().st_size == writer.record.shard_bytes


@pytest.mark.parametrize("error_type", [RuntimeError, KeyboardInterrupt, IntegrityError])
def test_shard_writer_error_in_the_block_leaves_nothing(tmp_path, error_type):
    def fail_after_one_sample():
        with ShardWriter(LocalStore(tmp_path), "x.tar") as writer:
            writer.write("a", {"mp4": b"1", "flac": b"2", "json": b"3"})
            raise error_type

    with pytest.raises(error_type):
        fail_after_one_sample()
    assert list(tmp_path.iterdir()) == []


def test_shard_writer_no_sample_raises_integrity_error_and_leaves_nothing(tmp_path):
    with pytest.raises(IntegrityError, match="at least one"), ShardWriter(LocalStore(tmp_path), "x.tar"):
        pass
    assert list(tmp_path.iterdir()) == []


GOOD = {"mp4": b"1", "flac": b"2", "json": b"3"}


@pytest.mark.parametrize(
    ("key", "members"),
    [
        ("a.b", GOOD),
        ("a/b", GOOD),
        ("taken", GOOD),
        ("a", {**GOOD, "txt": b"4"}),
        ("a", {"mp4": b"1", "flac": b"2"}),
        ("a", {"flac": b"2", "mp4": b"1", "json": b"3"}),
        ("a", {**GOOD, "flac": b""}),
        ("a", make_sample(0).to_members()),
    ],
)
def test_write_refused_sample_raises_integrity_error_and_writes_nothing_of_it(tmp_path, key, members):
    with ShardWriter(LocalStore(tmp_path), "x.tar") as writer:
        writer.write("taken", GOOD)
        with pytest.raises(IntegrityError):
            writer.write(key, members)
    assert [member.key for member in writer.record.members] == ["taken"] * 3
    with tarfile.open(tmp_path / "x.tar") as tar:
        assert tar.getnames() == ["taken.mp4", "taken.flac", "taken.json"]


def test_shard_writer_killed_leaves_only_a_leftover_that_can_be_removed(tmp_path):
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from infra.store import LocalStore\n"
        "from shards.writer import ShardWriter\n"
        "with ShardWriter(LocalStore(Path(sys.argv[1])), 'x.tar') as writer:\n"
        "    writer.write('a', {'mp4': b'1' * 99999, 'flac': b'2', 'json': b'3'})\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=REPOSITORY, env=os.environ, check=False
    )
    assert child.returncode == -signal.SIGKILL
    [leftover] = [path.name for path in tmp_path.iterdir()]
    write_bundle(tmp_path / "y.tar", {"a": (b"1", b"2", b"3")})
    assert LocalStore(tmp_path).sweep() == [leftover]
    assert [path.name for path in tmp_path.iterdir()] == ["y.tar"]


def test_shard_writer_writes_a_bundle_of_embeddings(tmp_path):
    with ShardWriter(LocalStore(tmp_path), "x.npy.tar") as writer:
        writer.write("a", dict.fromkeys(EMBEDDING_MEMBERS, b"1"))
    with tarfile.open(tmp_path / "x.npy.tar") as tar:
        assert tar.getnames() == ["a.clip.npy", "a.clap.npy"]


def test_write_index_has_a_row_group_a_table_and_knows_its_hash(tmp_path):
    manifest = make_version(LocalStore(tmp_path), 1, train_shards(5, samples_per_shard=2))
    path = tmp_path / "v1" / "index.parquet"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == manifest.index_sha256
    metadata = pq.read_metadata(path)
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [2, 2, 1]


def test_write_index_again_gives_the_same_bytes(tmp_path):
    for name in "12":
        make_version(LocalStore(tmp_path / name), 1, train_shards(7, samples_per_shard=3))
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / name / "v1").iterdir()} for name in "12")
    assert one == two
    assert sorted(one) == ["index.parquet", "manifest.json", *(f"train-00000{i}.tar" for i in range(3))]


def test_write_index_error_on_the_way_leaves_nothing(tmp_path):
    def tables():
        yield pq.read_table(tmp_path / "v1" / "index.parquet")
        raise RuntimeError

    store = LocalStore(tmp_path)
    make_version(store, 1, train_shards(2, samples_per_shard=2))
    with pytest.raises(RuntimeError):
        write_index(store, 2, tables())
    assert list((tmp_path / "v2").iterdir()) == []
