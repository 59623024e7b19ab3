"""Shards in a bucket behind a real S3 server: the same bytes as in a folder, also when the server stumbles."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from infra.object_store import StoreOptions, open_store
from infra.store import LocalStore, Store
from pipeline.catalog import Catalog
from pipeline.dataset import PackOptions, plan_dataset
from pipeline.pack_dataset import ShardTask, adopt_plan, drop_parts, finished_shards, read_part, write_shard
from pipeline.shard_plan import VersionPlan, plan_version
from tests.pipeline.staged_lake import stage_sources
from tests.s3_server import S3Server, s3_server
from tests.shards.made_samples import MODELS

QUICK = StoreOptions(max_retries=3, first_backoff_s=0.001, max_backoff_s=0.002)


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server, pytest.MonkeyPatch.context() as environment:
        for name, value in server.environment.items():
            environment.setenv(name, value)
        yield server


@pytest.fixture(scope="module")
def planned(tmp_path_factory) -> tuple[Path, VersionPlan]:
    root = tmp_path_factory.mktemp("root")
    stage_sources(root, range(3), run_id="one")
    asked = plan_dataset("d", str(root), PackOptions(samples_per_shard=4))
    plan = plan_version(
        Catalog(root),
        asked.selection,
        asked.request.settings,
        previous=None,
        next_index={},
        work_dir=tmp_path_factory.mktemp("plan"),
    )
    assert [shard.num_samples for shard in plan.shards] == [4, 4, 1]
    return root, plan


def write_version(root: Store, versions: Store, plan: VersionPlan) -> dict[str, bytes]:
    """All shards of version 3, and what lies there then."""
    plan_key = adopt_plan(versions, 3, LocalStore(plan.path.parent))
    for shard in plan.shards:
        task = ShardTask(
            root=root, versions=versions, version=3, plan_key=plan_key, models=MODELS, shard=shard
        )
        entry = write_shard(task)
        assert read_part(versions, 3, shard.name)[0] == entry
    assert finished_shards(versions, 3) == {shard.name for shard in plan.shards}
    assert adopt_plan(versions, 3, LocalStore(plan.path.parent)) == plan_key
    found = {file.key: versions.read(file.key) for file in versions.files()}
    drop_parts(versions, 3)
    assert [file.key for file in versions.files()] == [f"v3/{shard.name}" for shard in plan.shards]
    return found


@pytest.mark.parametrize("fault", [None, "error", "slow_down", "cut_answer", "lose_answer"])
def test_write_shard_in_a_bucket_gives_the_bytes_of_a_folder(server, planned, tmp_path, fault):
    folder, plan = planned
    local = LocalStore(folder)
    bucket = open_store(server.url(f"bucket/{uuid4().hex}"), QUICK)
    for file in local.files("staged"):
        bucket.write(file.key, local.read(file.key))
    if fault:
        server.fail(fault, times=2, after=3)
    in_bucket = write_version(bucket, bucket.below("datasets/d"), plan)
    server.heal()
    assert in_bucket == write_version(local, LocalStore(tmp_path), plan)


def test_adopt_plan_deletes_what_another_plan_made(planned, tmp_path):
    _, plan = planned
    versions = LocalStore(tmp_path)
    versions.write("v3/train-000009.tar", b"old")
    versions.write("v3/train-000009.tar.part", b"old")
    versions.write("v2/train-000008.tar", b"finished")
    key = adopt_plan(versions, 3, LocalStore(plan.path.parent))
    assert [file.key for file in versions.files()] == ["v2/train-000008.tar", key]
    assert versions.read(key) == plan.path.read_bytes()
