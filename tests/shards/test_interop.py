"""Other programs read the shards: webdataset and Hugging Face datasets, as their users call them."""

import json
from pathlib import Path

import numpy as np
import pytest

from shards.schema import SAMPLE_MEMBERS
from tests.shards.made_samples import make_dataset, make_sample

NUM_SAMPLES = 7


@pytest.fixture(scope="module")
def shard_paths(tmp_path_factory) -> list[str]:
    path: Path = tmp_path_factory.mktemp("interop")
    manifest = make_dataset(path, num_samples=NUM_SAMPLES, samples_per_shard=3)
    return [str(path / shard.name) for shard in manifest.shards]


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
