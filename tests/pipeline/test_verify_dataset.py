"""Every kind of damage is a line: bytes, media that do not decode, a lake that says something else."""

import shutil
from pathlib import Path

import pytest

from infra.errors import ConfigError
from pipeline.catalog import Catalog
from pipeline.dataset import PackOptions
from pipeline.lake import Lake
from pipeline.verify_dataset import plan_verify, verify_dataset
from tests.media import make_clip
from tests.pipeline.in_process import ingest_in_process, pack_in_process
from tests.pipeline.staged_lake import stage_sources


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    make_clip(folder / "in" / "a.mp4", duration_s=8.0)
    ingest_in_process(f"dir:{folder / 'in'}", folder / "root", "split.clip_s=4")
    pack_in_process("d", folder / "root", PackOptions(samples_per_shard=1))
    return folder / "root"


@pytest.fixture
def root(made, tmp_path) -> Path:
    return shutil.copytree(made, tmp_path / "root")


def texts(root: Path, every: int = 1) -> list[str]:
    return [problem.text for problem in verify_dataset(plan_verify("d", str(root), every=every)).problems]


def test_sound_version_has_no_problems_and_every_sample_decodes(root):
    report = verify_dataset(plan_verify("d", str(root), every=1))
    assert (report.problems, report.num_decoded, report.num_samples) == ((), 2, 2)


def test_media_that_do_not_decode_are_told(tmp_path):
    stage_sources(tmp_path, range(16, 18), run_id="r1")  # Their media are made-up bytes.
    pack_in_process("d", tmp_path, PackOptions(samples_per_shard=5))
    report = verify_dataset(plan_verify("d", str(tmp_path), every=2))
    assert report.num_decoded == 4
    assert len([one for one in report.problems if "must decode" in one.text]) == 4


def test_truncated_shard_is_told_and_the_others_are_decoded(root):
    shard = sorted(root.glob("datasets/d/v1/*.tar"))[0]
    shard.write_bytes(shard.read_bytes()[:3000])
    report = verify_dataset(plan_verify("d", str(root), every=1))
    assert report.num_decoded == 1
    assert {problem.shard for problem in report.problems} == {shard.name}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("samples", "must be in the lake's samples where the index says"),
        ("shards", "must be the same in the lake's shards"),
        ("datasets", "the lake must have one row of the version, got 0"),
        ("clips", "must be the clip of the lake's clips"),
    ],
)
def test_lake_that_says_something_else_is_told(root, table, message):
    Lake(root).delete({table: "true"})
    assert Catalog(root).query(f"from {table}").num_rows == 0
    assert any(message in text for text in texts(root))


def test_plan_verify_below_one_raises_config_error(root):
    with pytest.raises(ConfigError, match="--every must be at least 1"):
        plan_verify("d", str(root), every=0)
