"""A query over the lake becomes shards: in-process stages, real media, foreign readers."""

import io
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import webdataset

from infra.errors import ConfigError
from infra.store import LocalStore
from pipeline.catalog import Catalog
from pipeline.dataset import PackOptions
from pipeline.lake import Lake
from pipeline.train_job import plan_training
from shards.manifest import Manifest
from shards.read_state import ReadState
from shards.reader import ShardReader, read_manifest
from tests.media import SPEECH, make_clip
from tests.pipeline.in_process import ingest_in_process, pack_in_process


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Two good sources of two clips each, a blurred one, one without sound, a text called .mp4."""
    folder = tmp_path_factory.mktemp("sources")
    make_clip(folder / "one.mp4", duration_s=8)
    make_clip(folder / "two.mp4", duration_s=8, video="mandelbrot=size=854x480:rate=25", audio=SPEECH)
    make_clip(folder / "gray.mp4", duration_s=4, video="color=gray:size=640x480:rate=25")
    make_clip(folder / "mute.mp4", duration_s=4, audio="")
    (folder / "text.mp4").write_text("this is not a film\n" * 50)
    root = tmp_path_factory.mktemp("root")
    ingest_in_process(f"dir:{folder}", root, "split.clip_s=4")
    return root


@pytest.fixture(scope="module")
def dataset(root: Path) -> tuple[Path, Manifest]:
    summary = pack_in_process("d", root, PackOptions(samples_per_shard=2))
    dataset_dir = root / "datasets" / "d" / "v1"
    assert summary.folder == str(dataset_dir)
    return dataset_dir, read_manifest(LocalStore(dataset_dir.parent), 1)


def test_ingest_every_source_has_one_ending(root):
    rows = Catalog(root).query(
        "select parse_filename(url) as name, outcome, code from outcomes"
        " join sources using (source_id) order by 1"
    )
    assert [tuple(row.values()) for row in rows.to_pylist()] == [
        ("gray.mp4", "rejected", None),
        ("mute.mp4", "rejected", None),
        ("one.mp4", "kept", None),
        ("text.mp4", "failed", "undecodable"),
        ("two.mp4", "kept", None),
    ]


def test_ingest_again_finds_nothing_to_do_and_adds_nothing(root):
    before = {name: Catalog(root).query(f"from {name}").num_rows for name in ("clips", "fetches", "failures")}
    recipe = ingest_in_process(f"dir:{_source_folder(root)}", root, "split.clip_s=4")
    assert recipe.recipe_id == Catalog(root).latest_recipe_id()
    after = {name: Catalog(root).query(f"from {name}").num_rows for name in before}
    assert after == before


def _source_folder(root: Path) -> str:
    url = Catalog(root).query("select url from sources limit 1").column(0)[0].as_py()
    return url.removeprefix("file://").rpartition("/")[0]


def test_ingest_provenance_is_in_the_lake_and_the_media_lie_under_their_hash(root):
    (row,) = (
        Catalog(root)
        .query("select f.* from fetches f join sources using (source_id) where sources.url like '%one.mp4'")
        .to_pylist()
    )
    assert (row["title"], row["extractor"]) == ("one", "file")
    assert row["media_key"] == f"media/{row['sha256'][:2]}/{row['sha256']}.mp4"
    assert (root / row["media_key"]).stat().st_size == row["media_bytes"]


def test_pack_samples_are_whole(dataset):
    dataset_dir, manifest = dataset
    assert (manifest.num_samples, manifest.num_sources, len(manifest.shards)) == (4, 2, 2)
    assert manifest.models.clip_weights == manifest.models.clap_weights == "untrained"
    samples = list(ShardReader.opened(dataset_dir).stream(ReadState.start(seed=0)))
    assert len(samples) == 4
    for sample in samples:
        assert sample.clip_embedding_ND.shape == (4, 512)
        norms = np.linalg.norm(sample.clip_embedding_ND.astype(np.float32), axis=1)
        np.testing.assert_allclose(norms, 1, atol=2e-3)
        with av.open(io.BytesIO(sample.mp4)) as container:
            assert sum(1 for _ in container.decode(video=0)) == sample.meta.num_frames == 32
        assert sample.meta.num_samples == 64_000
        assert sample.meta.clip_weights == "untrained"


def test_pack_shards_are_read_by_plain_webdataset(dataset):
    dataset_dir, _ = dataset
    urls = [str(dataset_dir / line) for line in (dataset_dir / "train.txt").read_text().splitlines()]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert len(samples) == 4
    assert set(samples[0]) >= {"mp4", "flac", "json", "clip.npy", "clap.npy", "__key__"}
    assert samples[0]["clip.npy"].shape == (4, 512)
    assert samples[0]["json"]["clip_id"] == samples[0]["__key__"]


def test_build_selects_from_what_a_killed_run_had_committed(root, tmp_path):
    """A batch that is whole in the journal is in the lake."""
    killed = Path(shutil.copytree(root, tmp_path / "root"))
    extra = Catalog(root).query("select * from raw.clips where bundle_key is not null limit 1")
    row = extra.to_pylist()[0] | {"clip_id": "c-00000000-00004000", "source_id": "c"}
    (killed / "lake" / "clips").rename(killed / "clips")
    with pytest.raises(ConfigError, match="clips is missing"):
        Lake(killed).commit({"clips": [row]}, run_id="killed", batch_index=0)
    (killed / "clips").rename(killed / "lake" / "clips")
    summary = pack_in_process(
        "e", killed, PackOptions(where="clip_id = 'c-00000000-00004000' or start_s = 0")
    )
    assert summary.num_samples == 3


def test_plan_training_finds_the_latest_or_the_named_version(root, dataset):
    dataset_dir, _ = dataset
    for text in ("d", "d@1", "d@v1"):
        request = plan_training(text, str(root), recipe="tiny", overrides=[])
        assert request.dataset_dir == dataset_dir
    for text in ("d@2", "nosuch"):
        with pytest.raises(ConfigError, match="there is d@1"):
            plan_training(text, str(root), recipe="tiny", overrides=[])
