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
from shards.manifest import index_table
from shards.schema import BUNDLE_MEMBERS, SAMPLE_MEMBERS
from shards.writer import ShardWriter, remove_leftovers, write_manifest
from tests.shards.made_samples import make_dataset, make_sample

REPOSITORY = Path(__file__).resolve().parents[2]
PAYLOADS = st.binary(min_size=1, max_size=1100)
BUNDLES = st.dictionaries(
    st.text("abcXYZ019_-", min_size=1, max_size=91), st.tuples(PAYLOADS, PAYLOADS, PAYLOADS), min_size=1
)


def write_bundle(path: Path, clips) -> ShardWriter:
    with ShardWriter(path) as writer:
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
    with ShardWriter(path) as writer:
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
    with ShardWriter(path) as writer:
        writer.write("a", {"mp4": b"1", "flac": b"2", "json": b"3"})
        assert path.read_bytes() == b"old"
    assert path.stat().st_size == writer.record.shard_bytes


@pytest.mark.parametrize("error_type", [RuntimeError, KeyboardInterrupt, IntegrityError])
def test_shard_writer_error_in_the_block_leaves_nothing(tmp_path, error_type):
    def fail_after_one_sample():
        with ShardWriter(tmp_path / "x.tar") as writer:
            writer.write("a", {"mp4": b"1", "flac": b"2", "json": b"3"})
            raise error_type

    with pytest.raises(error_type):
        fail_after_one_sample()
    assert list(tmp_path.iterdir()) == []


def test_shard_writer_no_sample_raises_integrity_error_and_leaves_nothing(tmp_path):
    with pytest.raises(IntegrityError, match="at least one"), ShardWriter(tmp_path / "x.tar"):
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
    with ShardWriter(tmp_path / "x.tar") as writer:
        writer.write("taken", GOOD)
        with pytest.raises(IntegrityError):
            writer.write(key, members)
    assert [member.key for member in writer.record.members] == ["taken"] * 3
    with tarfile.open(tmp_path / "x.tar") as tar:
        assert tar.getnames() == ["taken.mp4", "taken.flac", "taken.json"]


def test_shard_writer_killed_leaves_only_a_leftover_that_can_be_removed(tmp_path):
    script = (
        "import os, signal, sys; from pathlib import Path; from shards.writer import ShardWriter\n"
        "with ShardWriter(Path(sys.argv[1])) as writer:\n"
        "    writer.write('a', {'mp4': b'1' * 99999, 'flac': b'2', 'json': b'3'})\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "x.tar")], cwd=REPOSITORY, env=os.environ, check=False
    )
    assert child.returncode == -signal.SIGKILL
    [leftover] = [path.name for path in tmp_path.iterdir()]
    write_bundle(tmp_path / "y.tar", {"a": (b"1", b"2", b"3")})
    assert remove_leftovers(tmp_path) == [leftover]
    assert [path.name for path in tmp_path.iterdir()] == ["y.tar"]


def test_write_manifest_writes_index_and_manifest(tmp_path):
    manifest = make_dataset(tmp_path, num_samples=5, samples_per_shard=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "index.parquet",
        "manifest.json",
        "shard-000000.tar",
        "shard-000001.tar",
        "shard-000002.tar",
    ]
    assert (tmp_path / "manifest.json").read_bytes() == manifest.to_bytes()
    assert pq.read_table(tmp_path / "index.parquet").equals(index_table(manifest))


def test_write_manifest_again_gives_the_same_bytes(tmp_path):
    make_dataset(tmp_path / "1", num_samples=7, samples_per_shard=3)
    make_dataset(tmp_path / "2", num_samples=7, samples_per_shard=3)
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / k).iterdir()} for k in "12")
    assert one == two


def test_write_manifest_is_the_last_write(tmp_path):
    manifest = make_dataset(tmp_path / "v1", num_samples=2, samples_per_shard=2)
    (tmp_path / "v2" / "index.parquet").mkdir(parents=True)
    with pytest.raises(OSError, match=r"index\.parquet"):
        write_manifest(tmp_path / "v2", manifest)
    assert not (tmp_path / "v2" / "manifest.json").exists()
