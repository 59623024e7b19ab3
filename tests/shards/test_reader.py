import logging
import multiprocessing
import pickle
import random
import threading
import time
from itertools import chain, islice
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.errors import ConfigError, IntegrityError, StorageUnavailable
from infra.object_store import open_store
from infra.store import LocalStore
from shards.manifest import MemberRecord, shard_key
from shards.order import EpochOrder
from shards.read_state import ReadState
from shards.reader import (
    ShardReader,
    Skipped,
    iter_samples_of_shard,
    num_samples,
    read_manifest,
    read_staged_clip,
)
from shards.schema import Sample
from shards.verify import verify_version
from shards.writer import ShardWriter
from tests.s3_server import s3_server
from tests.shards.made_samples import make_sample
from tests.shards.made_versions import make_version, train_shards

NUM_SAMPLES = 11
CUT_SHARD = "train-000001.tar"
NUM_DAMAGES = 50
START = ReadState(seed=0, epoch=0, position=0, num_lanes=3)


@pytest.fixture(scope="module")
def versions(tmp_path_factory) -> LocalStore:
    store = LocalStore(tmp_path_factory.mktemp("demo"))
    make_version(store, 1, train_shards(NUM_SAMPLES, samples_per_shard=4))
    return store


@pytest.fixture
def own_versions(tmp_path) -> LocalStore:
    """Two shards of two samples, to be damaged."""
    make_version(LocalStore(tmp_path), 1, train_shards(4, samples_per_shard=2))
    return LocalStore(tmp_path)


def keys_of(reader: ShardReader, state: ReadState = START, **share) -> list[str]:
    """Keys of what a process reads; no sample may be skipped."""
    items = list(reader.stream(state, **share))
    assert not [item for item in items if isinstance(item, Skipped)]
    return [item.key for item in items]


def lenient(versions: LocalStore) -> ShardReader:
    return ShardReader(versions, 1, max_skipped_ratio=1.0)


def assert_damage_is_found(versions: LocalStore) -> list[str]:
    """Every position gives its sample, whole, or is skipped, and verify says so; keys that were skipped."""
    made = {sample.key: sample.to_members() for sample in map(make_sample, range(4))}
    items = list(lenient(versions).stream(START))
    assert sorted(item.key for item in items) == sorted(made)
    for item in items:
        if isinstance(item, Sample):
            assert item.to_members() == made[item.key]
        else:
            assert item.shard == CUT_SHARD
    problems = verify_version(versions, 1)
    assert problems[0].shard == CUT_SHARD
    assert "sha256" in problems[0].text
    skipped = sorted(item.key for item in items if isinstance(item, Skipped))
    assert sorted(problem.key for problem in problems[1:]) == skipped
    return skipped


def test_stream_gives_back_what_was_written(versions):
    made = {sample.key: sample.to_members() for sample in map(make_sample, range(NUM_SAMPLES))}
    items = list(ShardReader(versions, 1).stream(START))
    assert {item.key: item.to_members() for item in items} == made
    assert len(items) == NUM_SAMPLES


def test_stream_is_in_the_order_of_the_epoch(versions):
    reader = ShardReader(versions, 1)
    order = EpochOrder([4, 4, 3], seed=5, epoch=2, num_lanes=3)
    keys = list(reader.keys())
    expected = [keys[4 * shard + index] for shard, index in map(order.place, range(NUM_SAMPLES))]
    assert keys_of(reader, ReadState(seed=5, epoch=2, position=0, num_lanes=3)) == expected
    assert len({tuple(keys_of(reader, START.next_epoch())), tuple(keys_of(reader))}) == 2


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(data=st.data(), num_lanes=st.integers(1, 12))
def test_stream_resumed_on_other_numbers_of_ranks_gives_every_sample_once(versions, data, num_lanes):
    reader = ShardReader(versions, 1)
    state = ReadState.start(seed=1, num_lanes=num_lanes)
    seen = []
    for num_ranks in data.draw(st.lists(st.integers(1, 4), max_size=3)):
        steps = data.draw(st.integers(0, (NUM_SAMPLES - state.position) // num_ranks))
        for rank in range(num_ranks):
            stream = reader.stream(state, rank=rank, num_ranks=num_ranks)
            seen += [item.key for item in islice(stream, steps)]
            stream.close()
        state = ReadState.from_json(state.advanced(steps * num_ranks).to_json())
    assert sorted(seen + keys_of(reader, state)) == sorted(reader.keys())


def test_stream_workers_have_no_overlap_and_no_gap(versions):
    reader = ShardReader(versions, 1)
    shares = [
        {"rank": rank, "num_ranks": 2, "worker": worker, "num_workers": 2, "batch_positions": 2}
        for rank in range(2)
        for worker in range(2)
    ]
    read = [keys_of(reader, START, **share) for share in shares]
    assert sorted(chain.from_iterable(read)) == sorted(reader.keys())


def test_stream_does_not_read_what_the_state_has_passed(own_versions):
    reader = lenient(own_versions)
    whole = keys_of(reader)
    places = list(map(EpochOrder([2, 2], seed=0, epoch=0, num_lanes=3).place, range(4)))
    passed = next(place.shard_index for place in places if place.shard_index != places[3].shard_index)
    (own_versions.folder / "v1" / f"train-{passed:06d}.tar").unlink()
    assert keys_of(reader, START.advanced(3)) == whole[3:]


@pytest.mark.parametrize(
    "share",
    [{"rank": 1}, {"num_ranks": 0}, {"worker": 1}, {"batch_positions": 0}, {"rank": -1, "num_ranks": 2}],
)
def test_stream_impossible_share_raises_config_error_at_once(versions, share):
    with pytest.raises(ConfigError):
        ShardReader(versions, 1).stream(START, **share)


def test_stream_state_beyond_the_epoch_raises_config_error_at_once(versions):
    reader = ShardReader(versions, 1)
    assert keys_of(reader, START.advanced(NUM_SAMPLES)) == []
    with pytest.raises(ConfigError, match=r"at most the 11 samples .* got 12"):
        reader.stream(START.advanced(NUM_SAMPLES + 1))


def test_stream_and_verify_find_truncation_at_random_bytes(own_versions):
    path = own_versions.folder / "v1" / CUT_SHARD
    whole = path.read_bytes()
    skipped = set()
    for cut in random.Random(0).sample(range(len(whole)), NUM_DAMAGES):
        path.write_bytes(whole[:cut])
        skipped |= {tuple(assert_damage_is_found(own_versions))}
    assert len(skipped) == 3  # None, the second, and both samples.


def test_stream_and_verify_find_flipped_bytes(own_versions):
    path = own_versions.folder / "v1" / CUT_SHARD
    whole = path.read_bytes()
    skipped = set()
    for place in random.Random(1).sample(range(len(whole)), NUM_DAMAGES):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x81]) + whole[place + 1 :])
        skipped |= {tuple(assert_damage_is_found(own_versions))}
    assert len(skipped) == 3  # None, one, or the other.


def test_stream_truncation_at_the_edges_of_members_skips_what_is_cut(own_versions):
    path = own_versions.folder / "v1" / CUT_SHARD
    whole = path.read_bytes()
    rows = ShardReader(own_versions, 1)._index.rows(1)
    first, second = rows.members(0), rows.members(1)
    for member in (*first, *second):
        end = member.offset_bytes + member.member_bytes
        for cut in (member.offset_bytes, end - 1, end):
            path.write_bytes(whole[:cut])
            cut_off = [
                one[0].key for one in (first, second) if one[-1].offset_bytes + one[-1].member_bytes > cut
            ]
            assert assert_damage_is_found(own_versions) == cut_off


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: (path.unlink(), path.mkdir())])
def test_stream_missing_shard_is_skipped_counted_and_said_once(own_versions, damage, caplog):
    damage(own_versions.folder / "v1" / CUT_SHARD)
    reader = lenient(own_versions)
    with caplog.at_level(logging.WARNING):
        skipped = [item for item in reader.stream(START) if isinstance(item, Skipped)]
    assert {item.shard for item in skipped} == {CUT_SHARD}
    assert "got no file" in skipped[0].reason
    assert reader.num_skipped_by_shard == {CUT_SHARD: 2}
    assert len(caplog.records) == 1
    assert CUT_SHARD in caplog.text


def test_stream_damaged_index_rows_are_skipped(tmp_path):
    versions = LocalStore(tmp_path)
    make_version(versions, 1, train_shards(40, samples_per_shard=20))
    path = tmp_path / "v1" / "index.parquet"
    whole = path.read_bytes()
    path.write_bytes(bytes(len(whole) // 4) + whole[len(whole) // 4 :])
    items = list(lenient(versions).stream(START))
    skipped = [item for item in items if isinstance(item, Skipped)]
    assert len(skipped) == 20
    assert {(item.key, item.shard) for item in skipped} == {("", "train-000000.tar")}
    assert {problem.shard for problem in verify_version(versions, 1)} == {"index.parquet", "train-000000.tar"}


@pytest.mark.parametrize("content", [None, b"no parquet", b""])
def test_stream_no_index_skips_everything_and_aborts(own_versions, content):
    path = own_versions.folder / "v1" / "index.parquet"
    path.unlink() if content is None else path.write_bytes(content)
    assert all(isinstance(item, Skipped) for item in lenient(own_versions).stream(START))
    with pytest.raises(IntegrityError, match="may be skipped"):
        list(ShardReader(own_versions, 1).stream(START))


def test_stream_index_of_another_version_gives_no_sample(own_versions, versions):
    index = (versions.folder / "v1" / "index.parquet").read_bytes()
    (own_versions.folder / "v1" / "index.parquet").write_bytes(index)
    assert all(isinstance(item, Skipped) for item in lenient(own_versions).stream(START))
    assert "sha256" in verify_version(own_versions, 1)[0].text


def test_stream_over_the_ceiling_raises_integrity_error_naming_shards(tmp_path):
    versions = LocalStore(tmp_path)
    make_version(versions, 1, train_shards(20, samples_per_shard=2))
    (tmp_path / "v1" / CUT_SHARD).unlink()
    below = list(ShardReader(versions, 1, max_skipped_ratio=0.1).stream(START))
    assert sum(isinstance(item, Skipped) for item in below) == 2
    above = ShardReader(versions, 1, max_skipped_ratio=0.09)
    with pytest.raises(
        IntegrityError, match=r"at most 9\.00% of 20 samples .* got 2 .*train-000001\.tar \(2\)"
    ):
        list(above.stream(START))


@pytest.mark.parametrize(
    ("num_skipped", "num_readers", "is_too_much"),
    [(2, 1, False), (3, 1, True), (1, 10, False), (2, 10, True), (0, 1, False)],
)
def test_check_skipped_ratio_is_of_the_split_and_no_reader_loses_more_than_half(
    tmp_path_factory, versions, num_skipped, num_readers, is_too_much
):
    reader = ShardReader(versions, 1, max_skipped_ratio=0.2)  # Of 11 samples: 2.2.
    if not is_too_much:
        reader.check_skipped(num_skipped, num_readers=min(num_readers, 5))
        return
    with pytest.raises(IntegrityError):
        reader.check_skipped(num_skipped, num_readers=num_readers)


class _FarStore:
    """A folder whose answers take a while, and not the same while."""

    def __init__(self, folder: Path) -> None:
        self._store = LocalStore(folder)
        self._delays_s = random.Random(0)
        self.num_reads = 0

    def __getattr__(self, name: str):
        return getattr(self._store, name)

    def read_range(self, key: str, *, offset_bytes: int, num_bytes: int) -> bytes:
        self.num_reads += 1
        time.sleep(0.01 * self._delays_s.random())
        return self._store.read_range(key, offset_bytes=offset_bytes, num_bytes=num_bytes)


def test_stream_of_a_far_store_reads_ahead_and_keeps_the_order(own_versions):
    make_version(own_versions, 1, train_shards(60, samples_per_shard=20))
    (own_versions.folder / "v1" / CUT_SHARD).unlink()
    far = _FarStore(own_versions.folder)
    near = [item.key for item in lenient(own_versions).stream(START)]
    num_threads = threading.active_count()
    stream = ShardReader(far, 1, max_skipped_ratio=1.0).stream(START)
    assert [item.key for item in islice(stream, 10)] == near[:10]
    assert far.num_reads <= 10 + 16
    assert [item.key for item in stream] == near[10:]
    assert far.num_reads == 60
    assert threading.active_count() == num_threads


def test_stream_and_verify_of_an_object_store(own_versions, monkeypatch):
    with s3_server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        versions = open_store(server.url("bucket/datasets/demo"))
        make_version(versions, 1, train_shards(4, samples_per_shard=2))
        reader = ShardReader(versions, 1, max_skipped_ratio=1.0)
        assert keys_of(reader) == keys_of(lenient(own_versions))
        assert reader.sample(make_sample(3).key).to_members() == make_sample(3).to_members()
        assert verify_version(versions, 1) == []
        whole = versions.read(f"v1/{CUT_SHARD}")
        versions.write(f"v1/{CUT_SHARD}", whole[:-11_000])
        skipped = [item.key for item in reader.stream(START) if isinstance(item, Skipped)]
        assert skipped == [make_sample(3).key]
        assert [problem.key for problem in verify_version(versions, 1)] == ["", *skipped]
        versions.delete([f"v1/{CUT_SHARD}"])
        assert sum(isinstance(item, Skipped) for item in reader.stream(START)) == 2


def test_stream_that_is_left_early_ends_its_threads(own_versions):
    num_threads = threading.active_count()
    stream = ShardReader(_FarStore(own_versions.folder), 1).stream(START)
    next(stream)
    assert threading.active_count() > num_threads
    stream.close()
    assert threading.active_count() == num_threads


class _Unreachable(LocalStore):
    """A store whose shards cannot be had for now."""

    def read_range(self, key: str, *, offset_bytes: int, num_bytes: int) -> bytes:
        raise StorageUnavailable(f"{key} must be reachable, got a test")


def test_stream_store_that_does_not_answer_is_no_damage(own_versions):
    with pytest.raises(StorageUnavailable):
        list(ShardReader(_Unreachable(own_versions.folder), 1).stream(START))


def test_reader_travels_to_other_processes(versions):
    reader = ShardReader(versions, 1, max_skipped_ratio=0.5)
    keys = keys_of(reader)
    again = pickle.loads(pickle.dumps(reader))
    assert (again.max_skipped_ratio, keys_of(again)) == (0.5, keys)
    context = multiprocessing.get_context("fork")
    parent, child = context.Pipe()
    process = context.Process(target=lambda: child.send(keys_of(reader)))
    process.start()
    assert parent.poll(30)
    assert parent.recv() == keys
    process.join()


def test_sample_by_key_and_by_number_is_that_sample(versions):
    reader = ShardReader(versions, 1)
    for index, key in enumerate(reader.keys()):
        assert reader.sample_at(index).key == key
    for sample in map(make_sample, range(NUM_SAMPLES)):
        assert reader.sample(sample.key).to_members() == sample.to_members()


@pytest.mark.parametrize("index", [-1, NUM_SAMPLES])
def test_sample_at_no_such_number_raises_config_error(versions, index):
    with pytest.raises(ConfigError, match="from 0 to 10"):
        ShardReader(versions, 1).sample_at(index)


def test_sample_unknown_key_raises_config_error(versions):
    with pytest.raises(ConfigError, match="nobody"):
        ShardReader(versions, 1).sample("nobody")


def test_sample_of_damaged_shard_raises_integrity_error(own_versions):
    (own_versions.folder / "v1" / CUT_SHARD).unlink()
    reader = ShardReader(own_versions, 1)
    assert reader.sample_at(0).key == make_sample(0).key
    with pytest.raises(IntegrityError, match=f"{CUT_SHARD} is damaged"):
        reader.sample_at(2)


@pytest.fixture(scope="module")
def grown(tmp_path_factory) -> LocalStore:
    """Version 2 uses the shards of version 1 and has one more, and a split of its own."""
    store = LocalStore(tmp_path_factory.mktemp("grown"))
    shards = train_shards(6, samples_per_shard=2)
    make_version(store, 1, dict(islice(shards.items(), 2)))
    make_version(store, 2, {"test-000003.tar": [make_sample(9)], **shards})
    return store


def test_reader_uses_shards_of_earlier_versions(grown):
    reader = ShardReader(grown, 2)
    assert [shard_key(shard) for shard in reader.manifest.shards] == [
        "v2/test-000003.tar", "v1/train-000000.tar", "v1/train-000001.tar", "v2/train-000002.tar",
    ]  # fmt: skip
    assert sorted(keys_of(reader)) == [make_sample(index).key for index in range(6)]
    assert keys_of(ShardReader(grown, 2, split="test")) == [make_sample(9).key]
    assert [verify_version(grown, version) for version in (1, 2)] == [[], []]


def test_reader_unknown_split_or_version_raises_config_error(grown):
    with pytest.raises(ConfigError, match="one of test, train"):
        ShardReader(grown, 2, split="val")
    with pytest.raises(ConfigError, match=r"v3/manifest\.json"):
        ShardReader(grown, 3)


def test_opened_and_num_samples_take_the_folder_of_a_version(grown, tmp_path):
    assert ShardReader.opened(grown.folder / "v2").num_samples == num_samples(grown.folder / "v2") == 6
    assert ShardReader.opened(grown.folder / "v2", split="test").num_samples == 1
    for folder in (tmp_path / "latest", tmp_path / "v1"):
        with pytest.raises(ConfigError):
            ShardReader.opened(folder)


def test_read_manifest_of_another_version_raises_integrity_error(own_versions):
    (own_versions.folder / "v1").rename(own_versions.folder / "v2")
    with pytest.raises(IntegrityError, match="must be 2, got 1"):
        read_manifest(own_versions, 2)


def test_iter_samples_of_shard_gives_every_nth(versions):
    manifest = read_manifest(versions, 1)
    found = [item.key for item in iter_samples_of_shard(versions, manifest, CUT_SHARD, every=3)]
    assert found == [make_sample(4).key, make_sample(7).key]
    with pytest.raises(ConfigError, match="must be named"):
        next(iter_samples_of_shard(versions, manifest, "train-000009.tar"))


def test_iter_samples_of_shard_names_what_is_damaged(own_versions):
    path = own_versions.folder / "v1" / CUT_SHARD
    path.write_bytes(path.read_bytes()[:-11_000])
    whole, cut = iter_samples_of_shard(own_versions, read_manifest(own_versions, 1), CUT_SHARD)
    assert isinstance(whole, Sample)
    assert cut == Skipped(key=make_sample(3).key, shard=CUT_SHARD, reason=cut.reason)


CLIPS = {key: {"mp4": key.encode() * 99, "flac": b"f" * 600, "json": b"{}"} for key in ("c", "a", "b")}


@pytest.fixture
def bundle(tmp_path) -> tuple[LocalStore, dict[str, tuple[MemberRecord, ...]]]:
    with ShardWriter(LocalStore(tmp_path), "bundle.tar") as writer:
        for key, members in CLIPS.items():
            writer.write(key, members)
    return LocalStore(tmp_path), writer.record.by_key()


def test_read_staged_clip_gives_the_bytes_that_were_staged(bundle):
    store, members = bundle
    assert {key: read_staged_clip(store, "bundle.tar", members[key]) for key in CLIPS} == CLIPS


def test_read_staged_clip_any_altered_byte_of_it_raises_integrity_error(bundle):
    store, members = bundle
    path = store.folder / "bundle.tar"
    whole = path.read_bytes()
    for member in members["a"]:
        for position in (member.offset_bytes, member.offset_bytes + member.member_bytes - 1):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
            with pytest.raises(IntegrityError, match=f"clip a of bundle .*{member.ext} must have the crc32"):
                read_staged_clip(store, "bundle.tar", members["a"])
            assert read_staged_clip(store, "bundle.tar", members["b"]) == CLIPS["b"]


def test_read_staged_clip_cut_or_missing_bundle_raises_integrity_error(bundle):
    store, members = bundle
    path = store.folder / "bundle.tar"
    path.write_bytes(path.read_bytes()[: members["b"][0].offset_bytes + 1])
    with pytest.raises(IntegrityError, match="got the first 1"):
        read_staged_clip(store, "bundle.tar", members["b"])
    with pytest.raises(IntegrityError, match="got no file"):
        read_staged_clip(store, "none.tar", members["b"])
