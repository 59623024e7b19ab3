"""Staged clips become versions of a dataset: order, bytes, growth, resumption, and what the lake says of them."""

import io
import random
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from infra.errors import ConfigError, IntegrityError
from infra.storage import exclusive
from infra.store import LocalStore
from pipeline.catalog import Catalog
from pipeline.dataset import DatasetSummary, PackOptions, build, plan_dataset
from pipeline.lake import Lake
from pipeline.pack_dataset import ShardTask, check_dataset_name, finished_versions, write_shard
from shards.manifest import Manifest, ShardEntry, index_schema, shard_key
from shards.plan import hash_order
from shards.reader import Skipped, iter_samples_of_shard, read_manifest
from shards.schema import SAMPLE_MEMBERS, Sample, source_of
from tests.pipeline.in_process import pack_in_process
from tests.pipeline.staged_lake import CLIPS_PER_SOURCE, source_id_of, stage_sources
from tests.shards.made_samples import MODELS

NUM_SOURCES = 8
OPTIONS = PackOptions(samples_per_shard=5, overrides=("dataset.split.val=0.3",))


@pytest.fixture(scope="module")
def staged(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("staged")
    stage_sources(root, range(NUM_SOURCES), run_id="one")
    return root


@pytest.fixture(scope="module")
def packed(staged, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("packed") / "root"
    shutil.copytree(staged, root)
    pack_in_process("d", root, OPTIONS)
    return root


@pytest.fixture
def root(packed, tmp_path) -> Path:
    return Path(shutil.copytree(packed, tmp_path / "root"))


def versions_of(root: Path) -> LocalStore:
    return LocalStore(root / "datasets" / "d")


def samples_of(root: Path, manifest: Manifest) -> Iterator[tuple[ShardEntry, Sample]]:
    for shard in manifest.shards:
        for sample in iter_samples_of_shard(versions_of(root), manifest, shard.name):
            assert not isinstance(sample, Skipped), sample.reason
            yield shard, sample


def clip_ids(numbers: range) -> set[str]:
    return {
        f"{source_id_of(number)}-{10_000 * place:08d}-{10_000 * (place + 1):08d}"
        for number in numbers
        for place in range(CLIPS_PER_SOURCE)
    }


def contents(root: Path) -> dict[str, bytes]:
    folder = root / "datasets"
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def identities(root: Path, version: int) -> dict[str, tuple[int, int, bytes]]:
    """Of every file of a version: inode, time of its last change, bytes."""
    folder = root / "datasets" / "d" / f"v{version}"
    return {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.iterdir())
        if path.is_file()
    }


def test_build_every_kept_clip_is_there_once_with_its_bytes(packed):
    manifest = read_manifest(versions_of(packed), 1)
    samples = [sample for _, sample in samples_of(packed, manifest)]
    assert sorted(sample.key for sample in samples) == sorted(clip_ids(range(NUM_SOURCES)))
    rows = Catalog(packed).query("from clips where kept").to_pylist()
    for row in rows:
        [sample] = [sample for sample in samples if sample.key == row["clip_id"]]
        members = sample.to_members()
        for ext in SAMPLE_MEMBERS:
            stem = ext.replace(".", "_")
            bundle = packed / (row["embedding_key"] if ext.endswith("npy") else row["bundle_key"])
            first = row[f"{stem}_offset_bytes"]
            staged = bundle.read_bytes()[first : first + row[f"{stem}_bytes"]]
            if ext == "json":
                assert sample.meta.models == MODELS
            else:
                assert members[ext] == staged


def test_build_order_is_that_of_the_hashes_of_seed_and_clip(packed):
    manifest = read_manifest(versions_of(packed), 1)
    for split in ("train", "val"):
        found = [sample.key for shard, sample in samples_of(packed, manifest) if shard.split == split]
        assert found == hash_order(found, salt="0")
        sizes = [shard.num_samples for shard in manifest.shards if shard.split == split]
        assert all(size == 5 for size in sizes[:-1])
        assert 1 <= sizes[-1] <= 5


def test_build_manifest_states_what_the_version_is(packed):
    manifest = read_manifest(versions_of(packed), 1)
    selected = dict(Catalog(packed).rows(manifest.sql))
    assert selected.keys() == clip_ids(range(NUM_SOURCES))
    found = {sample.key: shard.split for shard, sample in samples_of(packed, manifest)}
    assert found == selected
    assert (manifest.num_samples, manifest.num_sources) == (24, 8)
    assert manifest.duration_s == 240.0
    assert {split.split: split.num_samples for split in manifest.splits} == {
        split: sum(one == split for one in selected.values()) for split in ("train", "val")
    }
    assert manifest.lake_version["clips"] == 1
    assert "runs" not in manifest.lake_version, "its version differs from one attempt to the next"


def test_build_index_has_one_row_group_a_shard(packed):
    manifest = read_manifest(versions_of(packed), 1)
    index = pq.ParquetFile(packed / "datasets" / "d" / "v1" / "index.parquet")
    assert index.schema_arrow.equals(index_schema())
    sizes = [index.metadata.row_group(group).num_rows for group in range(index.num_row_groups)]
    assert sizes == [shard.num_samples for shard in manifest.shards]
    keys = [sample.key for _, sample in samples_of(packed, manifest)]
    assert index.read(["key"]).column(0).to_pylist() == keys


def test_build_leaves_nothing_that_only_the_making_needed(packed):
    names = {Path(name).suffix for name in contents(packed)}
    assert names == {".tar", ".parquet", ".json", ".txt", ".md", ".svg"}


def test_build_lake_knows_version_shards_and_samples(packed):
    catalog = Catalog(packed)
    manifest = read_manifest(versions_of(packed), 1)
    [row] = catalog.query("from datasets").to_pylist()
    assert (row["dataset"], row["version"], row["num_samples"], row["num_shards"]) == (
        "d",
        1,
        24,
        len(manifest.shards),
    )
    assert row["sql"] == manifest.sql
    shards = catalog.rows("select shard, split, home_version, sha256, uri from shards order by shard")
    assert shards == [
        (shard.name, shard.split, 1, shard.sha256, str(packed / "datasets" / "d" / "v1" / shard.name))
        for shard in manifest.shards
    ]
    samples = catalog.rows("select clip_id, source_id, split, shard, offset_bytes from samples")
    for clip_id, source_id, split, shard, offset_bytes in samples:
        assert source_id == source_of(clip_id)
        assert shard.startswith(f"{split}-")
        with tarfile.open(packed / "datasets" / "d" / "v1" / shard) as tar:
            assert tar.getmember(f"{clip_id}.mp4").offset_data == offset_bytes
    assert {sample[0] for sample in samples} == clip_ids(range(NUM_SOURCES))
    assert len(samples) == 24


def in_any_order(tasks: Sequence[ShardTask]) -> Iterator[ShardEntry]:
    return map(write_shard, random.sample(tasks, len(tasks)))


def test_build_gives_the_same_bytes_in_any_order_of_work(packed, staged, tmp_path):
    other = Path(shutil.copytree(staged, tmp_path / "root"))
    request = plan_dataset("d", str(other), OPTIONS).request
    with exclusive(other):
        build(request, write_shards=in_any_order)
    assert contents(other) == contents(packed)


def test_build_again_writes_nothing(root):
    before = identities(root, 1)
    for options in (OPTIONS, replace(OPTIONS, fresh=True)):
        summary = pack_in_process("d", root, options)
        assert (summary.version, summary.written) == (1, False)
    assert identities(root, 1) == before
    assert Catalog(root).rows("select count(*) from samples") == [(24,)]


def test_build_after_growth_keeps_old_shards_untouched(root):
    before = identities(root, 1)
    old = read_manifest(versions_of(root), 1)
    stage_sources(root, range(NUM_SOURCES, NUM_SOURCES + 4), run_id="two")
    summary = pack_in_process("d", root, OPTIONS)
    manifest = read_manifest(versions_of(root), 2)
    assert (summary.version, summary.num_reused_shards) == (2, len(old.shards))
    assert identities(root, 1) == before
    assert {shard for shard in manifest.shards if shard.home_version == 1} == set(old.shards)
    new = [shard for shard in manifest.shards if shard.home_version == 2]
    assert {shard.name for shard in new}.isdisjoint(shard.name for shard in old.shards)
    keys = [(shard, sample.key) for shard, sample in samples_of(root, manifest)]
    assert sorted(key for _, key in keys) == sorted(clip_ids(range(NUM_SOURCES + 4)))
    assert {key for shard, key in keys if shard in new} == clip_ids(range(NUM_SOURCES, NUM_SOURCES + 4))
    assert pack_in_process("d", root, OPTIONS).written is False


def test_build_fresh_shuffles_a_grown_dataset_as_a_whole_once(root):
    stage_sources(root, range(NUM_SOURCES, NUM_SOURCES + 2), run_id="two")
    pack_in_process("d", root, OPTIONS)
    fresh = replace(OPTIONS, fresh=True)
    summary = pack_in_process("d", root, fresh)
    assert (summary.version, summary.num_reused_shards, summary.written) == (3, 0, True)
    manifest = read_manifest(versions_of(root), 3)
    found = [sample.key for shard, sample in samples_of(root, manifest) if shard.split == "train"]
    assert found == hash_order(found, salt="0")
    assert pack_in_process("d", root, fresh).written is False


def test_build_shard_with_a_clip_that_is_not_selected_any_more_is_not_used_again(root):
    old = read_manifest(versions_of(root), 1)
    gone = next(iter(samples_of(root, old)))[1].key
    summary = pack_in_process("d", root, replace(OPTIONS, where=f"clip_id != '{gone}'"))
    manifest = read_manifest(versions_of(root), 2)
    keys = [sample.key for _, sample in samples_of(root, manifest)]
    assert sorted(keys) == sorted(clip_ids(range(NUM_SOURCES)) - {gone})
    assert summary.num_reused_shards == len(old.shards) - 1
    assert old.shards[0] not in manifest.shards


@pytest.mark.parametrize("change", [{"seed": 1}, {"samples_per_shard": 4}])
def test_build_other_settings_make_a_full_new_version(root, change):
    summary = pack_in_process("d", root, replace(OPTIONS, **change))
    assert (summary.version, summary.num_reused_shards) == (2, 0)
    names = [shard_key(s) for k in (1, 2) for s in read_manifest(versions_of(root), k).shards]
    assert len({name.partition("/")[2] for name in names}) == len(names), "names are unique among versions"


def test_build_reused_shard_of_another_size_is_an_integrity_error(root):
    old = read_manifest(versions_of(root), 1)
    path = root / "datasets" / "d" / shard_key(old.shards[0])
    path.write_bytes(path.read_bytes()[:-1])
    stage_sources(root, [NUM_SOURCES], run_id="two")
    with pytest.raises(IntegrityError, match=rf"{old.shards[0].name} .* used again; run"):
        pack_in_process("d", root, OPTIONS)
    assert finished_versions(versions_of(root)) == [1]


class StoppedError(Exception):
    """Stands for a kill between two shards."""


def stop_after(count: int, written: list[str]):
    def write(tasks: Sequence[ShardTask]) -> Iterator[ShardEntry]:
        for number, task in enumerate(tasks):
            if number == count:
                raise StoppedError
            entry = write_shard(task)
            written.append(entry.name)
            yield entry

    return write


def stopped_pack(root: Path, count: int, options: PackOptions = OPTIONS) -> list[str]:
    written: list[str] = []
    with pytest.raises(StoppedError), exclusive(root):
        build(plan_dataset("d", str(root), options).request, write_shards=stop_after(count, written))
    return written


def resumed_pack(root: Path, options: PackOptions = OPTIONS) -> tuple[DatasetSummary, list[str]]:
    written: list[str] = []
    with exclusive(root):
        request = plan_dataset("d", str(root), options).request
        return build(request, write_shards=stop_after(1_000, written)), written


def test_build_goes_on_where_it_was_stopped(packed, staged, tmp_path):
    root = Path(shutil.copytree(staged, tmp_path / "root"))
    first = stopped_pack(root, 2)
    assert finished_versions(versions_of(root)) == []
    summary, second = resumed_pack(root)
    assert len(first) == 2
    assert set(first).isdisjoint(second)
    assert len(first) + len(second) == summary.num_shards
    assert contents(root) == contents(packed)


def test_build_after_a_stop_with_another_plan_begins_afresh(packed, staged, tmp_path):
    root = Path(shutil.copytree(staged, tmp_path / "root"))
    stopped_pack(root, 2, replace(OPTIONS, seed=5))
    summary, written = resumed_pack(root)
    assert len(written) == summary.num_shards
    assert contents(root) == contents(packed)


def test_build_records_a_version_once_also_when_its_record_was_cut_short(root):
    """A kill after the manifest, or between the rows of `samples` and those of `datasets`."""
    lake = root / "lake"
    before = Catalog(root).rows("select * exclude (run_id, packed_at) from datasets")
    for table in ("datasets", "shards"):
        shutil.rmtree(lake / table)
    Lake(root).create()
    assert pack_in_process("d", root, OPTIONS).written is False
    assert Catalog(root).rows("select * exclude (run_id, packed_at) from datasets") == before
    assert Catalog(root).rows("select count(*), count(distinct clip_id) from samples") == [(24, 24)]


@pytest.mark.parametrize("suffix", [".tar", ".npy.tar"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:1500], "got the first"),
        (lambda data: data[:520] + bytes([data[520] ^ 1]) + data[521:], "must have the crc32"),
        (None, "got no file"),
    ],
    ids=["truncated", "altered", "missing"],
)
def test_build_damaged_bundle_is_an_integrity_error_and_makes_no_version(
    staged, tmp_path, suffix, damage, message
):
    root = Path(shutil.copytree(staged, tmp_path / "root"))
    [bundle] = [
        p
        for p in root.glob(f"staged/*/{source_id_of(3)}-*{suffix}")
        if p.name.count(".") == suffix.count(".")
    ]
    data = bundle.read_bytes()
    bundle.unlink()
    if damage:
        bundle.write_bytes(damage(data))
    with pytest.raises(IntegrityError, match=f"clip {source_id_of(3)}.* {message}"):
        pack_in_process("d", root, OPTIONS)
    assert finished_versions(versions_of(root)) == []
    bundle.write_bytes(data)
    assert pack_in_process("d", root, OPTIONS).version == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (PackOptions(where="snr_db > 1000"), "snr_db > 1000"),
        (PackOptions(where="snrdb > 10"), "DuckDB says"),
        (PackOptions(samples_per_shard=0), "--samples-per-shard"),
        (PackOptions(overrides=("transcode.side_px=256",)), "ingest run"),
        (PackOptions(overrides=("dataset.splits.val=0.1",)), "splits"),
    ],
)
def test_plan_dataset_refuses_what_cannot_be(staged, options, message):
    with pytest.raises(ConfigError, match=message):
        plan_dataset("d", str(staged), options)


@pytest.mark.parametrize("name", ["", "a/b", "../up", "a b", "x" * 65, "-x"])
def test_check_dataset_name_refuses_what_cannot_be_a_folder(name):
    with pytest.raises(ConfigError, match="dataset name"):
        check_dataset_name(name)


def test_build_ignores_folders_that_are_no_versions(root):
    (root / "datasets" / "d" / "version-notes").mkdir()
    (root / "datasets" / "d" / "version-notes" / "manifest.json").touch()
    assert pack_in_process("d", root, OPTIONS).version == 1


def test_build_after_a_version_of_the_format_before_goes_on_counting(root):
    (root / "datasets" / "d" / "v2").mkdir()
    (root / "datasets" / "d" / "v2" / "manifest.json").write_text('{"format_version": 1}')
    with pytest.raises(IntegrityError, match="pack the dataset again"):
        read_manifest(versions_of(root), 2)
    assert pack_in_process("d", root, OPTIONS).version == 3


def test_build_tars_hold_nothing_else(packed):
    for path in sorted((packed / "datasets" / "d" / "v1").glob("*.tar")):
        with tarfile.open(fileobj=io.BytesIO(path.read_bytes())) as tar:
            exts = [name.partition(".")[2] for name in tar.getnames()]
        assert exts == list(SAMPLE_MEMBERS) * (len(exts) // len(SAMPLE_MEMBERS))
