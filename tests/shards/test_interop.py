"""Other programs read the shards: webdataset and Hugging Face datasets, as their users call them."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from infra.store import LocalStore
from shards.schema import SAMPLE_MEMBERS
from shards.wids import list_name, shard_list, wids_index, wids_name
from tests.shards.made_samples import make_sample
from tests.shards.made_versions import make_version, train_shards

NUM_SAMPLES = 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The second version of a dataset: two shards of the first one and two of its own."""
    versions = LocalStore(tmp_path_factory.mktemp("interop"))
    shards = train_shards(NUM_SAMPLES, samples_per_shard=3)
    make_version(versions, 1, dict(list(shards.items())[:2]))
    manifest = make_version(versions, 2, shards | {"val-000000.tar": [make_sample(NUM_SAMPLES)]})
    for split in ("train", "val"):
        versions.write(f"v2/{list_name(split)}", shard_list(manifest, split))
        versions.write(f"v2/{wids_name(split)}", wids_index(manifest, split))
    return versions.folder / "v2"


@pytest.fixture(scope="module")
def shard_paths(folder) -> list[str]:
    """As the card says."""
    return [str(folder / line) for line in (folder / "train.txt").read_text().splitlines()]


def expected_members() -> dict[str, dict[str, bytes]]:
    return {sample.key: sample.to_members() for sample in map(make_sample, range(NUM_SAMPLES))}


def test_webdataset_reads_every_member_of_every_sample(shard_paths):
    import webdataset

    rows = list(webdataset.WebDataset(shard_paths, shardshuffle=False))
    found = {row["__key__"]: {ext: row[ext] for ext in SAMPLE_MEMBERS} for row in rows}
    assert found == expected_members()
    assert {name for row in rows for name in row if not name.startswith("__")} == set(SAMPLE_MEMBERS)


def test_webdataset_decodes_json_and_arrays(shard_paths):
    import webdataset

    rows = webdataset.WebDataset(shard_paths, shardshuffle=False).decode()
    row = next(iter(rows))
    [sample] = [one for one in map(make_sample, range(NUM_SAMPLES)) if one.key == row["__key__"]]
    assert row["json"]["scores"] == dict(sample.meta.scores)
    np.testing.assert_array_equal(row["clip.npy"], sample.clip_embedding_ND)


def test_hugging_face_datasets_streams_every_member_of_every_sample(shard_paths, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    def stream(features: datasets.Features | None) -> datasets.IterableDataset:
        return datasets.load_dataset(
            "webdataset",
            data_files={"train": shard_paths},
            split="train",
            streaming=True,
            features=features,
            cache_dir=str(tmp_path),
        )

    # Left alone, it wants to decode the media, which takes an optional package: ask for the bytes.
    binary = datasets.Value("binary")
    rows = stream(datasets.Features({**stream(None).features, "mp4": binary, "flac": binary}))
    found = {row["__key__"]: row for row in rows}
    assert found.keys() == expected_members().keys()
    for sample in map(make_sample, range(NUM_SAMPLES)):
        row = found[sample.key]
        assert row["mp4"] == sample.mp4
        assert row["flac"] == sample.flac
        assert row["json"] == json.loads(sample.meta.to_json_bytes())
        np.testing.assert_array_equal(np.array(row["clip.npy"], np.float16), sample.clip_embedding_ND)
        np.testing.assert_array_equal(np.array(row["clap.npy"], np.float16), sample.clap_embedding_D)


def test_wids_index_names_every_shard_with_its_samples_and_bytes(folder):
    """The package wids is not in the environment: this is what its index has, entry for entry."""
    index = json.loads((folder / "train.wids.json").read_bytes())
    assert (index["__kind__"], index["wids_version"]) == ("wids-shard-index-v1", 1)
    assert [shard["url"] for shard in index["shardlist"]] == [
        "../v1/train-000000.tar",
        "../v1/train-000001.tar",
        "train-000002.tar",
    ]
    for shard in index["shardlist"]:
        with tarfile.open(folder / shard["url"]) as tar:
            assert len({name.partition(".")[0] for name in tar.getnames()}) == shard["nsamples"]
        assert (folder / shard["url"]).stat().st_size == shard["filesize"]


def test_lists_of_a_split_name_no_shard_of_another(folder):
    assert (folder / "val.txt").read_text() == "val-000000.tar\n"
    [shard] = json.loads((folder / "val.wids.json").read_bytes())["shardlist"]
    assert (shard["url"], shard["nsamples"]) == ("val-000000.tar", 1)
