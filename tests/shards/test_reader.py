import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.errors import ConfigError, IntegrityError
from shards.manifest import Manifest, MemberRecord
from shards.reader import (
    ShardReader,
    num_samples,
    read_manifest,
    read_sample,
    read_samples,
    read_staged_clip,
    verify_dataset,
    verify_shard,
)
from shards.writer import ShardWriter, write_manifest
from tests.shards.made_samples import make_dataset, make_sample

NUM_SAMPLES = 11
CUT_SHARD = "shard-000001.tar"


@pytest.fixture(scope="module")
def dataset_dir(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("dataset") / "v1"
    make_dataset(path, num_samples=NUM_SAMPLES, samples_per_shard=4)
    return path


@pytest.fixture
def own_dataset_dir(tmp_path) -> Path:
    """Two shards of two samples, to be damaged."""
    make_dataset(tmp_path / "v1", num_samples=4, samples_per_shard=2)
    return tmp_path / "v1"


def keys_of(dataset_dir, **changes) -> list[str]:
    arguments = {"rank": 0, "num_ranks": 1, "seed": 0, "epoch": 0, **changes}
    return [sample.key for sample in read_samples(dataset_dir, **arguments)]


def read_all(dataset_dir) -> list[str]:
    return keys_of(dataset_dir)


def test_read_samples_gives_back_what_was_written(dataset_dir):
    expected = {sample.key: sample.to_members() for sample in map(make_sample, range(NUM_SAMPLES))}
    samples = list(read_samples(dataset_dir, rank=0, num_ranks=1, seed=0, epoch=0))
    assert {sample.key: sample.to_members() for sample in samples} == expected
    assert len(samples) == NUM_SAMPLES


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(num_ranks=st.integers(1, NUM_SAMPLES), seed=st.integers(0, 5), epoch=st.integers(0, 5))
def test_read_samples_ranks_are_disjoint_equal_and_miss_only_the_remainder(
    dataset_dir, num_ranks, seed, epoch
):
    by_rank = [
        keys_of(dataset_dir, rank=rank, num_ranks=num_ranks, seed=seed, epoch=epoch)
        for rank in range(num_ranks)
    ]
    read = [key for keys in by_rank for key in keys]
    assert {len(keys) for keys in by_rank} == {NUM_SAMPLES // num_ranks}
    assert len(set(read)) == len(read) == NUM_SAMPLES - NUM_SAMPLES % num_ranks


def test_read_samples_order_depends_on_seed_and_epoch_alone(dataset_dir):
    assert keys_of(dataset_dir) == keys_of(dataset_dir)
    orders = {tuple(keys_of(dataset_dir, seed=seed, epoch=epoch)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


@pytest.mark.parametrize("start_index", range(NUM_SAMPLES + 1))
def test_read_samples_start_index_continues_the_same_order(dataset_dir, start_index):
    assert keys_of(dataset_dir, start_index=start_index) == keys_of(dataset_dir)[start_index:]


def test_read_samples_start_index_does_not_read_what_it_skips(own_dataset_dir):
    keys = keys_of(own_dataset_dir)
    shards = read_manifest(own_dataset_dir).shards
    tail_shards = {shard.name for shard in shards if keys[3] in shard.by_key()}
    for shard in shards:
        if shard.name not in tail_shards:
            (own_dataset_dir / shard.name).unlink()
    assert keys_of(own_dataset_dir, start_index=3) == keys[3:]


@pytest.mark.parametrize(
    "changes", [{"num_ranks": NUM_SAMPLES + 1}, {"rank": 1}, {"start_index": -1}, {"start_index": 12}]
)
def test_read_samples_impossible_argument_raises_config_error_at_once(dataset_dir, changes):
    with pytest.raises(ConfigError):
        read_samples(dataset_dir, **{"rank": 0, "num_ranks": 1, "seed": 0, "epoch": 0, **changes})


def test_num_samples_and_samples_per_rank_are_those_of_the_manifest(dataset_dir):
    assert num_samples(dataset_dir) == NUM_SAMPLES
    assert ShardReader(dataset_dir).samples_per_rank(4) == 2


def test_read_sample_any_key_gives_that_sample(dataset_dir):
    for sample in map(make_sample, range(NUM_SAMPLES)):
        assert read_sample(dataset_dir, sample.key).to_members() == sample.to_members()


def test_read_sample_unknown_key_raises_config_error(dataset_dir):
    with pytest.raises(ConfigError, match="nobody"):
        read_sample(dataset_dir, "nobody")


def test_read_manifest_unfinished_version_raises_config_error(tmp_path):
    with pytest.raises(ConfigError, match=r"manifest\.json"):
        read_manifest(tmp_path)


def test_verify_dataset_sound_version_has_no_problems(dataset_dir):
    assert verify_dataset(dataset_dir) == []


def test_read_samples_and_verify_find_truncation_at_every_tested_offset(own_dataset_dir):
    path = own_dataset_dir / CUT_SHARD
    whole = path.read_bytes()
    shard = read_manifest(own_dataset_dir).shards[1]
    ends = [member.offset_bytes + member.member_bytes for member in shard.members]
    starts = [member.offset_bytes for member in shard.members]
    cuts = sorted({*range(0, len(whole), 331), *starts, *ends, *(end - 1 for end in ends), len(whole) - 1})
    for cut in cuts:
        path.write_bytes(whole[:cut])
        damaged = [key for key, members in shard.by_key().items() if _end(members) > cut]
        with pytest.raises(IntegrityError, match=CUT_SHARD) as caught:
            read_all(own_dataset_dir)
        assert not damaged or damaged[0] in str(caught.value)
        problems = verify_dataset(own_dataset_dir)
        assert problems[0].startswith(f"{CUT_SHARD} must have {len(whole)} bytes")
        assert [
            key for key in shard.by_key() if any(f"sample {key} " in line for line in problems)
        ] == damaged
    assert len(cuts) > 40


def _end(members) -> int:
    return members[-1].offset_bytes + members[-1].member_bytes


def test_read_samples_flipped_payload_byte_raises_integrity_error_naming_shard_and_sample(own_dataset_dir):
    path = own_dataset_dir / CUT_SHARD
    whole = path.read_bytes()
    for member in read_manifest(own_dataset_dir).shards[1].members:
        place = member.offset_bytes + member.member_bytes // 2
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(IntegrityError, match=f"{member.key} of {CUT_SHARD}.*{member.ext}"):
            read_all(own_dataset_dir)
        assert len(verify_dataset(own_dataset_dir)) == 2


def test_verify_dataset_flipped_header_byte_is_found(own_dataset_dir):
    path = own_dataset_dir / CUT_SHARD
    whole = bytearray(path.read_bytes())
    whole[0] ^= 1
    path.write_bytes(whole)
    [problem] = verify_dataset(own_dataset_dir)
    assert "sha256" in problem


def test_read_samples_missing_shard_raises_integrity_error(own_dataset_dir):
    (own_dataset_dir / CUT_SHARD).unlink()
    with pytest.raises(IntegrityError, match=CUT_SHARD):
        read_all(own_dataset_dir)
    assert verify_dataset(own_dataset_dir) == [f"{CUT_SHARD} must be there, got no file"]


def test_verify_dataset_stray_shard_is_found(own_dataset_dir):
    (own_dataset_dir / "shard-000009.tar").write_bytes(b"")
    assert verify_dataset(own_dataset_dir) == ["shard-000009.tar must be in the manifest or not be there"]


@pytest.mark.parametrize("alter", [Path.unlink, lambda path: path.write_bytes(b"no parquet")])
def test_verify_dataset_damaged_index_is_found(own_dataset_dir, alter):
    alter(own_dataset_dir / "index.parquet")
    [problem] = verify_dataset(own_dataset_dir)
    assert problem.startswith("index.parquet must")


def test_verify_dataset_index_of_another_dataset_is_found(own_dataset_dir, dataset_dir):
    (own_dataset_dir / "index.parquet").write_bytes((dataset_dir / "index.parquet").read_bytes())
    assert verify_dataset(own_dataset_dir) == ["index.parquet must hold what manifest.json says"]


@pytest.mark.parametrize(
    ("name", "value"), [("num_sources", 3), ("duration_s", 39.0), ("models", {"clip_weights": "laion2b"})]
)
def test_verify_dataset_total_that_samples_contradict_is_found(own_dataset_dir, name, value):
    manifest = json.loads((own_dataset_dir / "manifest.json").read_bytes())
    manifest[name] = {**manifest[name], **value} if name == "models" else value
    write_manifest(own_dataset_dir, Manifest.from_bytes(json.dumps(manifest).encode()))
    [problem] = verify_dataset(own_dataset_dir)
    assert name in problem or name == "models"


def test_verify_dataset_member_that_the_tar_names_otherwise_is_found(own_dataset_dir):
    manifest = json.loads((own_dataset_dir / "manifest.json").read_bytes())
    samples = manifest["shards"][0]["samples"]
    one, two = samples
    samples[one], samples[two] = samples[two], samples[one]
    write_manifest(own_dataset_dir, Manifest.from_bytes(json.dumps(manifest).encode()))
    assert any("members of the manifest" in line for line in verify_dataset(own_dataset_dir))


def test_verify_dataset_unreadable_manifest_is_one_problem(own_dataset_dir):
    (own_dataset_dir / "manifest.json").write_bytes(b"{")
    assert len(verify_dataset(own_dataset_dir)) == 1
    (own_dataset_dir / "manifest.json").unlink()
    assert len(verify_dataset(own_dataset_dir)) == 1


def test_verify_shard_sound_shard_has_no_problems(dataset_dir):
    for shard in read_manifest(dataset_dir).shards:
        assert verify_shard(dataset_dir, shard) == []


CLIPS = {key: {"mp4": key.encode() * 99, "flac": b"f" * 600, "json": b"{}"} for key in ("c", "a", "b")}


@pytest.fixture
def bundle(tmp_path) -> tuple[Path, dict[str, tuple[MemberRecord, ...]]]:
    with ShardWriter(tmp_path / "bundle.tar") as writer:
        for key, members in CLIPS.items():
            writer.write(key, members)
    return tmp_path / "bundle.tar", writer.record.by_key()


def test_read_staged_clip_gives_the_bytes_that_were_staged(bundle):
    path, members = bundle
    assert {key: read_staged_clip(path, members[key]) for key in CLIPS} == CLIPS


def test_read_staged_clip_any_altered_byte_of_it_raises_integrity_error(bundle):
    path, members = bundle
    whole = path.read_bytes()
    for member in members["a"]:
        for position in (member.offset_bytes, member.offset_bytes + member.member_bytes - 1):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
            with pytest.raises(IntegrityError, match=f"clip a of bundle .*{member.ext} must have the crc32"):
                read_staged_clip(path, members["a"])
            assert read_staged_clip(path, members["b"]) == CLIPS["b"]


def test_read_staged_clip_cut_bundle_raises_integrity_error(bundle):
    path, members = bundle
    path.write_bytes(path.read_bytes()[: members["b"][0].offset_bytes + 1])
    with pytest.raises(IntegrityError, match="got the first 1"):
        read_staged_clip(path, members["b"])


def test_read_staged_clip_no_bundle_raises_integrity_error(bundle, tmp_path):
    with pytest.raises(IntegrityError, match="which is missing"):
        read_staged_clip(tmp_path / "none.tar", bundle[1]["a"])
