import json
from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import IntegrityError
from shards.manifest import Manifest, MemberRecord, ShardRecord, index_table
from shards.schema import SAMPLE_MEMBERS
from tests.shards.made_samples import MODELS


def make_record(name: str, keys: tuple[str, ...]) -> ShardRecord:
    members = tuple(
        MemberRecord(key=key, ext=ext, offset_bytes=512 + 1024 * place, member_bytes=9, crc32=place)
        for place, (key, ext) in enumerate((key, ext) for key in keys for ext in SAMPLE_MEMBERS)
    )
    return ShardRecord(name=name, sha256="ab" * 32, shard_bytes=20480, num_samples=len(keys), members=members)


def make_manifest(**changes) -> Manifest:
    shards = (make_record("shard-000000.tar", ("b", "a")), make_record("shard-000001.tar", ("c",)))
    values = {
        "format_version": 1,
        "name": "demo",
        "version": 1,
        "recipe_id": "r0",
        "seed": 0,
        "samples_per_shard": 2,
        "sql": "SELECT 1",
        "num_samples": 3,
        "num_sources": 2,
        "duration_s": 30.0,
        "models": MODELS,
        "shards": shards,
    }
    return Manifest(**{**values, **changes})


def test_to_bytes_lists_offset_and_bytes_of_every_member():
    value = json.loads(make_manifest().to_bytes())
    assert set(value["shards"][1]) == {"name", "sha256", "shard_bytes", "num_samples", "samples", "crc32"}
    assert value["shards"][1]["samples"] == {
        "c": {
            "mp4": [512, 9],
            "flac": [1536, 9],
            "json": [2560, 9],
            "clip.npy": [3584, 9],
            "clap.npy": [4608, 9],
        }
    }
    assert value["shards"][1]["crc32"] == [0, 1, 2, 3, 4]


def test_from_bytes_inverts_to_bytes():
    manifest = make_manifest()
    again = Manifest.from_bytes(manifest.to_bytes())
    assert again == manifest
    assert again.to_bytes() == manifest.to_bytes()


def test_from_bytes_reads_json_that_another_program_reformatted():
    manifest = make_manifest()
    assert Manifest.from_bytes(json.dumps(json.loads(manifest.to_bytes()), indent=1).encode()) == manifest


def test_by_key_keeps_file_order():
    assert list(make_manifest().shards[0].by_key()) == ["b", "a"]


def _drop_name(value):
    del value["name"]


def _second_owner(value):
    value["shards"][1]["samples"]["a"] = value["shards"][1]["samples"].pop("c")


def _drop_member(value):
    del value["shards"][0]["samples"]["a"]["flac"]
    value["shards"][0]["crc32"].pop()


def _overlap(value):
    value["shards"][0]["samples"]["a"]["flac"][1] = 2000


def _negative(value):
    value["shards"][0]["samples"]["b"]["mp4"][0] = -1


def _three_numbers(value):
    value["shards"][0]["samples"]["b"]["mp4"].append(1)


def _outside(value):
    value["shards"][0]["shard_bytes"] = 100


def _dotted_key(value):
    value["shards"][1]["samples"]["c.d"] = value["shards"][1]["samples"].pop("c")


def _short_crc(value):
    value["shards"][1]["crc32"].pop()


def _folder_in_name(value):
    value["shards"][1]["name"] = "../shard-000001.tar"


@pytest.mark.parametrize(
    "damage",
    [
        _drop_name,
        _second_owner,
        _drop_member,
        _overlap,
        _negative,
        _three_numbers,
        _outside,
        _dotted_key,
        _short_crc,
        _folder_in_name,
        lambda value: value.update(surprise=1),
        lambda value: value.update(num_samples=4),
        lambda value: value.update(num_samples="3"),
        lambda value: value.update(format_version=2),
        lambda value: value.update(samples_per_shard=1),
        lambda value: value["models"].pop("clip_model"),
        lambda value: value["models"].update(clip_model=None),
        lambda value: value["shards"].reverse(),
        lambda value: value["shards"].append([]),
        lambda value: value.update(shards={}),
        lambda value: value["shards"][0].update(num_samples=1),
        lambda value: value["shards"][0].pop("sha256"),
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


def test_index_table_has_one_row_a_member():
    table = index_table(make_manifest())
    assert table.schema == pa.schema(
        [
            ("key", pa.string()),
            ("shard", pa.string()),
            ("ext", pa.string()),
            ("offset_bytes", pa.int64()),
            ("member_bytes", pa.int64()),
        ]
    )
    assert table.num_rows == 15
    assert table.slice(10, 1).to_pylist() == [
        {"key": "c", "shard": "shard-000001.tar", "ext": "mp4", "offset_bytes": 512, "member_bytes": 9}
    ]
