"""A query over the lake becomes shards: in-process stages, real media, foreign readers."""

import io
import shutil
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset

from infra.errors import ConfigError, IntegrityError
from infra.storage import exclusive
from pipeline.catalog import Catalog
from pipeline.dataset import build, plan_dataset
from pipeline.lake_tables import table_schemas
from pipeline.pack_dataset import check_dataset_name, same_content, select_clips
from pipeline.train_job import plan_training
from shards.reader import ShardReader, verify_dataset
from shards.writer import write_manifest
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
def dataset(root: Path) -> tuple[Path, object]:
    catalog = Catalog(root)
    dataset_dir = root / "datasets" / "d" / "v1"
    dataset_dir.mkdir(parents=True)
    manifest = pack_in_process(catalog, root, dataset_dir, recipe_id=catalog.latest_recipe_id())
    write_manifest(dataset_dir, manifest)
    return dataset_dir, manifest


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


def test_pack_samples_are_whole_and_verified(dataset):
    dataset_dir, manifest = dataset
    assert verify_dataset(dataset_dir) == []
    assert (manifest.num_samples, manifest.num_sources, len(manifest.shards)) == (4, 2, 2)
    assert manifest.models.clip_weights == manifest.models.clap_weights == "untrained"
    reader = ShardReader(dataset_dir)
    for sample in reader.samples(rank=0, num_ranks=1, seed=0, epoch=0):
        assert sample.clip_embedding_ND.shape == (4, 512)
        norms = np.linalg.norm(sample.clip_embedding_ND.astype(np.float32), axis=1)
        np.testing.assert_allclose(norms, 1, atol=2e-3)
        with av.open(io.BytesIO(sample.mp4)) as container:
            assert sum(1 for _ in container.decode(video=0)) == sample.meta.num_frames == 32
        assert sample.meta.num_samples == 64_000
        assert sample.meta.clip_weights == "untrained"


def test_pack_shards_are_read_by_plain_webdataset(dataset):
    dataset_dir, manifest = dataset
    urls = [str(dataset_dir / shard.name) for shard in manifest.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert len(samples) == 4
    assert set(samples[0]) >= {"mp4", "flac", "json", "clip.npy", "clap.npy", "__key__"}
    assert samples[0]["clip.npy"].shape == (4, 512)
    assert samples[0]["json"]["clip_id"] == samples[0]["__key__"]


def test_pack_twice_gives_the_same_bytes_and_another_seed_another_order(root, dataset, tmp_path):
    dataset_dir, manifest = dataset
    catalog = Catalog(root)
    again = pack_in_process(catalog, root, tmp_path, recipe_id=manifest.recipe_id)
    assert again == manifest
    for shard in manifest.shards:
        assert (tmp_path / shard.name).read_bytes() == (dataset_dir / shard.name).read_bytes()
    other_dir = tmp_path / "other"
    other_dir.mkdir()
    orders = {
        tuple(
            member.key
            for shard in pack_in_process(
                catalog, root, other_dir, recipe_id=manifest.recipe_id, seed=seed
            ).shards
            for member in shard.members
            if member.ext == "mp4"
        )
        for seed in range(5)
    }
    assert len(orders) > 1


def test_select_clips_where_is_sql_over_the_columns(root):
    catalog = Catalog(root)
    recipe_id = catalog.latest_recipe_id()
    first_halves = select_clips(catalog, recipe_id=recipe_id, where="start_s = 0 and snr_db > 10")
    assert [clip.duration_s for clip in first_halves.clips] == [4.0, 4.0]
    with pytest.raises(ConfigError, match=r"none satisfies: .*snr_db > 1000"):
        select_clips(catalog, recipe_id=recipe_id, where="snr_db > 1000")
    with pytest.raises(ConfigError, match="DuckDB says"):
        select_clips(catalog, recipe_id=recipe_id, where="snrdb > 10")


def test_same_content_tells_a_version_that_is_up_to_date(root, dataset):
    _, manifest = dataset
    catalog = Catalog(root)
    same = select_clips(catalog, recipe_id=manifest.recipe_id, where="true")
    assert same_content(manifest, same, seed=0, samples_per_shard=2)
    assert not same_content(manifest, same, seed=1, samples_per_shard=2)
    fewer = select_clips(catalog, recipe_id=manifest.recipe_id, where="start_s = 0")
    assert not same_content(manifest, fewer, seed=0, samples_per_shard=2)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda whole: whole[:5000], "got the first"),
        (lambda whole: whole[:600] + bytes([whole[600] ^ 1]) + whole[601:], "must have the crc32"),
        (None, "which is missing"),
    ],
    ids=["truncated", "altered", "missing"],
)
def test_pack_damaged_bundle_is_an_integrity_error_and_leaves_no_shard(
    root, dataset, tmp_path, damage, message
):
    _, manifest = dataset
    copy = tmp_path / "root"
    for bundle in root.glob("staged/*/*.tar"):
        target = copy / bundle.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        if damage is not None:
            target.write_bytes(damage(bundle.read_bytes()))
    with pytest.raises(IntegrityError, match=f"clip .* {message}"):
        pack_in_process(Catalog(root), copy, tmp_path, recipe_id=manifest.recipe_id)
    assert list(tmp_path.glob("*.tar")) == []


def test_build_version_that_the_lake_does_not_know_is_recorded(root, dataset):
    """A kill between the manifest and the lake's rows leaves such a version."""
    dataset_dir, _ = dataset
    (dataset_dir.parent / "version-notes").mkdir()
    (dataset_dir.parent / "version-notes" / "manifest.json").touch()
    request = plan_dataset("d", str(root), "true", 2, 0, None)
    for _ in range(2):
        with exclusive(root):
            summary = build(request)
        assert (summary.version, summary.written) == (1, False)
    catalog = Catalog(root)
    assert catalog.query("select dataset, version, num_samples from datasets").to_pylist() == [
        {"dataset": "d", "version": 1, "num_samples": 4}
    ]
    unknown = "select count(*) as n from samples anti join clips using (clip_id, source_id)"
    assert catalog.query(unknown).to_pylist() == [{"n": 0}]
    assert catalog.query("from samples").num_rows == 4


def test_build_selects_from_what_a_killed_run_had_committed(root, dataset, tmp_path):
    """A batch that is whole in the journal is in the lake."""
    killed = tmp_path / "root"
    shutil.copytree(root, killed)
    extra = Catalog(root).query("select * from clips where kept limit 1").to_pylist()[0]
    journal = killed / "lake" / "_journal" / "killed-00000000"
    journal.mkdir()
    row = extra | {"clip_id": "c-00000000-00004000", "source_id": "c"}
    pq.write_table(pa.Table.from_pylist([row], schema=table_schemas()["clips"]), journal / "clips.parquet")
    request = plan_dataset("d", str(killed), "true", 2, 0, None)
    with pytest.raises(IntegrityError, match="1 lack one, first c-00000000-00004000"):
        build(request)


@pytest.mark.parametrize("name", ["", "a/b", "../up", "a b", "x" * 65, "-x"])
def test_check_dataset_name_refuses_what_cannot_be_a_folder(name):
    with pytest.raises(ConfigError, match="dataset name"):
        check_dataset_name(name)


def test_plan_training_finds_the_latest_or_the_named_version(root, dataset):
    dataset_dir, _ = dataset
    for text in ("d", "d@1", "d@v1"):
        request = plan_training(text, str(root), recipe="tiny", overrides=[])
        assert request.dataset_dir == dataset_dir
    for text in ("d@2", "nosuch"):
        with pytest.raises(ConfigError, match="there is d@1"):
            plan_training(text, str(root), recipe="tiny", overrides=[])
