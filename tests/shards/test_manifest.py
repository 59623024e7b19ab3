import json
from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import IntegrityError
from shards.manifest import (
    Manifest,
    MemberRecord,
    ShardEntry,
    ShardRecord,
    SplitEntry,
    index_columns,
    index_schema,
    index_table,
    members_of_row,
    shard_index,
    shard_key,
    shard_name,
)
from shards.schema import SAMPLE_MEMBERS
from tests.shards.made_samples import MODELS


def make_record(name: str, keys: tuple[str, ...], exts: tuple[str, ...] = SAMPLE_MEMBERS) -> ShardRecord:
    members = tuple(
        MemberRecord(key=key, ext=ext, offset_bytes=512 + 1024 * place, member_bytes=9, crc32=place)
        for place, (key, ext) in enumerate((key, ext) for key in keys for ext in exts)
    )
    return ShardRecord(name=name, sha256="ab" * 32, shard_bytes=20480, num_samples=len(keys), members=members)


def make_entry(name: str, num_samples: int, home_version: int = 2) -> ShardEntry:
    return ShardEntry(
        name=name,
        split=name.partition("-")[0],
        home_version=home_version,
        sha256="ab" * 32,
        shard_bytes=20480,
        num_samples=num_samples,
    )


def make_manifest(**changes) -> Manifest:
    shards = (
        make_entry("train-000000.tar", 2, home_version=1),
        make_entry("train-000001.tar", 1),
        make_entry("val-000000.tar", 1),
    )
    values = {
        "format_version": 2,
        "name": "demo",
        "version": 2,
        "recipe_id": "r0",
        "recipe_sha256": "cd" * 32,
        "seed": 0,
        "samples_per_shard": 2,
        "sql": "SELECT 1",
        "mixture_json": "{}",
        "num_samples": 4,
        "num_sources": 2,
        "duration_s": 40.0,
        "num_forgotten": 0,
        "models": MODELS,
        "lake_version": {"clips": 3},
        "index_sha256": "ef" * 32,
        "splits": (
            SplitEntry(split="train", num_samples=3, num_shards=2, duration_s=30.0),
            SplitEntry(split="val", num_samples=1, num_shards=1, duration_s=10.0),
        ),
        "shards": shards,
    }
    return Manifest(**{**values, **changes})


def test_to_bytes_is_as_large_as_the_list_of_shards():
    value = json.loads(make_manifest().to_bytes())
    assert value["shards"][0] == {
        "name": "train-000000.tar",
        "split": "train",
        "home_version": 1,
        "sha256": "ab" * 32,
        "shard_bytes": 20480,
        "num_samples": 2,
    }
    assert value["lake_version"] == {"clips": 3}


def test_from_bytes_inverts_to_bytes():
    manifest = make_manifest()
    again = Manifest.from_bytes(manifest.to_bytes())
    assert again == manifest
    assert again.to_bytes() == manifest.to_bytes()


def test_from_bytes_reads_json_that_another_program_reformatted():
    manifest = make_manifest()
    assert Manifest.from_bytes(json.dumps(json.loads(manifest.to_bytes()), indent=1).encode()) == manifest


def test_shard_of_an_earlier_version_lies_in_its_folder():
    old, new, _ = make_manifest().shards
    assert (old.path_from(2), shard_key(old)) == ("../v1/train-000000.tar", "v1/train-000000.tar")
    assert (new.path_from(2), shard_key(new)) == ("train-000001.tar", "v2/train-000001.tar")


def test_shard_index_inverts_shard_name():
    assert shard_name("val", 12) == "val-000012.tar"
    assert shard_index("val-000012.tar") == 12


@pytest.mark.parametrize(
    "damage",
    [
        lambda value: value.pop("name"),
        lambda value: value.update(surprise=1),
        lambda value: value.update(num_samples=5),
        lambda value: value.update(num_samples="4"),
        lambda value: value.update(format_version=1),
        lambda value: value.update(format_version=3),
        lambda value: value.update(samples_per_shard=1),
        lambda value: value.update(version=1),
        lambda value: value["models"].pop("clip_model"),
        lambda value: value["models"].update(clip_model=None),
        lambda value: value["lake_version"].update(clips="3"),
        lambda value: value.update(lake_version=[]),
        lambda value: value["splits"].reverse(),
        lambda value: value["splits"].pop(),
        lambda value: value["splits"][0].update(num_samples=4),
        lambda value: value["splits"][0].update(num_shards=1),
        lambda value: value["shards"].reverse(),
        lambda value: value["shards"].append(value["shards"][-1]),
        lambda value: value["shards"].append([]),
        lambda value: value.update(shards={}),
        lambda value: value["shards"][0].update(num_samples=1),
        lambda value: value["shards"][0].update(num_samples=0),
        lambda value: value["shards"][0].pop("sha256"),
        lambda value: value["shards"][0].update(sha256="AB" * 32),
        lambda value: value["shards"][0].update(split="val"),
        lambda value: value["shards"][0].update(home_version=0),
        lambda value: value["shards"][1].update(name="../train-000001.tar"),
        lambda value: value["shards"][1].update(name="train-1.tar"),
    ],
)
def test_from_bytes_contradiction_raises_integrity_error(damage):
    value = json.loads(make_manifest().to_bytes())
    damage(value)
    with pytest.raises(IntegrityError):
        Manifest.from_bytes(json.dumps(value).encode())


@settings(deadline=None)
@given(data=st.data())
def test_from_bytes_cut_text_raises_integrity_error(data):
    whole = make_manifest().to_bytes()
    with pytest.raises(IntegrityError):
        Manifest.from_bytes(whole[: data.draw(st.integers(0, len(whole) - 2))])


def test_manifest_infinite_duration_raises_integrity_error():
    with pytest.raises(IntegrityError, match="duration_s"):
        replace(make_manifest(), duration_s=float("inf"))


@pytest.mark.parametrize("change", [{"shard_bytes": 100}, {"num_samples": 3}])
def test_shard_record_contradiction_raises_integrity_error(change):
    with pytest.raises(IntegrityError):
        replace(make_record("x.tar", ("b", "a")), **change)


def test_by_key_keeps_file_order():
    assert list(make_record("x.tar", ("b", "a")).by_key()) == ["b", "a"]


def test_index_table_has_one_row_a_sample():
    table = index_table(make_record("train-000000.tar", ("b", "a")), split="train", durations_s=[1.5, 2.0])
    assert table.schema == index_schema()
    assert table.column_names == index_columns()
    assert table.slice(1).select(table.column_names[:7]).to_pylist() == [
        {
            "key": "a",
            "shard": "train-000000.tar",
            "split": "train",
            "duration_s": 2.0,
            "mp4_offset_bytes": 512 + 5 * 1024,
            "mp4_bytes": 9,
            "mp4_crc32": 5,
        }
    ]
    assert table.column_names[-3:] == ["clap_npy_offset_bytes", "clap_npy_bytes", "clap_npy_crc32"]
    assert table.schema.field("clap_npy_crc32").type == pa.int64()


def test_members_of_row_inverts_index_table():
    record = make_record("train-000000.tar", ("b", "a"))
    rows = index_table(record, split="train", durations_s=[1.0, 1.0]).to_pylist()
    assert tuple(member for row in rows for member in members_of_row(row)) == record.members


@pytest.mark.parametrize("exts", [SAMPLE_MEMBERS[:-1], SAMPLE_MEMBERS[::-1]])
def test_index_table_of_what_are_no_samples_raises_integrity_error(exts):
    with pytest.raises(IntegrityError, match="in order"):
        index_table(make_record("x.tar", ("a",), exts), split="train", durations_s=[1.0])
