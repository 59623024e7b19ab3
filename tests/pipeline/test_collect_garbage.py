"""What nothing names is told first and then removed; what anything names stays."""

from pathlib import Path

import pytest

from infra.errors import ConfigError
from infra.storage import exclusive
from infra.store import LocalStore
from pipeline.catalog import Catalog
from pipeline.collect_garbage import collect_garbage, plan_gc
from pipeline.dataset import PackOptions
from shards.verify import verify_version
from tests.pipeline.in_process import pack_in_process
from tests.pipeline.staged_lake import stage_sources

ORPHANS = {
    "staged/aa/lost.tar": "bundles",
    "media/aa/lost.mp4": "media",
    "partial/0123456789abcdef/stream0": "partial",
    "datasets/d/v9/train-000000.tar": "unfinished_versions",
    "datasets/d/v2/train-000999.tar": "shards",
    "datasets/d/v2/.train-000001.tar.0.tmp": "temporary",
}


@pytest.fixture
def root(tmp_path) -> Path:
    for numbers, run_id in ((range(16, 20), "r1"), (range(20, 23), "r2")):
        stage_sources(tmp_path, numbers, run_id=run_id)
        pack_in_process("d", tmp_path, PackOptions(samples_per_shard=5))
    return tmp_path


def files(root: Path) -> set[str]:
    folders = ("staged", "media", "partial", "datasets")
    return {
        p.relative_to(root).as_posix() for name in folders for p in (root / name).rglob("*") if p.is_file()
    }


def test_orphans_are_told_and_removed_and_nothing_else(root):
    before = files(root)
    assert plan_gc(str(root)).orphans == ()
    for key in ORPHANS:
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"1234")
    plan = plan_gc(str(root))
    told = {key.removeprefix(f"{root}/"): orphans.kind for orphans in plan.orphans for key in orphans.keys}
    assert told == ORPHANS
    assert {orphans.num_bytes for orphans in plan.orphans} == {4}
    assert files(root) == before | set(ORPHANS)
    collect_garbage(plan)
    assert files(root) == before
    assert verify_version(LocalStore(root / "datasets/d"), 2) == []


def test_old_versions_go_when_asked_and_shards_that_newer_ones_use_stay(root):
    plan = plan_gc(str(root), versions_keep=1)
    assert plan.old_versions == (("d", 1),)
    collect_garbage(plan)
    assert not (root / "datasets/d/v1/manifest.json").exists()
    assert list((root / "datasets/d/v1").glob("*.tar"))
    assert verify_version(LocalStore(root / "datasets/d"), 2) == []
    for table in ("datasets", "samples", "shards"):
        assert Catalog(root).rows(f"select distinct version from {table}") == [(2,)]
    assert plan_gc(str(root), versions_keep=1).orphans == ()


def test_running_run_is_refused(root):
    with exclusive(root), pytest.raises(ConfigError, match="only one run may write"):
        plan_gc(str(root))


def test_keeping_no_version_raises_config_error(root):
    with pytest.raises(ConfigError, match="--versions-keep must be at least 1"):
        plan_gc(str(root), versions_keep=0)
