"""What is forgotten is nowhere any more, what is not is as it was, whenever the process was killed."""

import json
import shutil
from pathlib import Path

import pytest

from infra.errors import ConfigError, IntegrityError
from infra.store import LocalStore
from pipeline.catalog import Catalog
from pipeline.dataset import PackOptions
from pipeline.finish_forgetting import finish_forgetting
from pipeline.forget import forget, plan_forget
from shards.manifest import members_of_row
from shards.reader import read_manifest
from shards.verify import verify_version
from tests.media import make_clip
from tests.pipeline.byte_search import traces
from tests.pipeline.in_process import ingest_in_process, pack_in_process
from tests.pipeline.killing import run_killed, run_whole
from tests.pipeline.staged_lake import source_id_of, stage_sources

CLIPS = "split.clip_s=4"
PACKED = PackOptions(samples_per_shard=2)
PEOPLE = {
    "kestrel": "UCfalconry001",
    "osprey": "UCfalconry001",
    "dolphin": "UCseaside0002",
    "walrus": "UCseaside0002",
}


def add_clips(folder: Path, *names: str) -> str:
    """Clips with what a site would say of them; `walrus` has the bytes of `dolphin`."""
    folder.mkdir(exist_ok=True)
    for name in names:
        path = folder / f"{name}-footage.mp4"
        if name == "walrus":
            shutil.copy(folder / "dolphin-footage.mp4", path)
        else:
            make_clip(path, duration_s=8.0 + 0.2 * list(PEOPLE).index(name))
        info = {
            "title": f"The {name} at noon",
            "uploader": f"uploader of {PEOPLE[name]}",
            "channel_id": PEOPLE[name],
            "webpage_url": f"https://video.example/watch/{name}",
        }
        path.with_suffix(".info.json").write_text(json.dumps(info))
    return f"dir:{folder}"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A root of four sources, packed into two versions of which the second uses shards of the first."""
    folder = tmp_path_factory.mktemp("made")
    spec = add_clips(folder / "in", "kestrel", "dolphin", "walrus")
    ingest_in_process(spec, folder / "root", CLIPS)
    pack_in_process("birds", folder / "root", PACKED)
    add_clips(folder / "in", "osprey")
    ingest_in_process(spec, folder / "root", CLIPS)
    where = PackOptions(samples_per_shard=2, where="source_id != 'x' or clip_id = 'UCfalconry001'")
    pack_in_process("birds", folder / "root", where)
    return folder


@pytest.fixture
def root(made, tmp_path) -> Path:
    return shutil.copytree(made / "root", tmp_path / "root")


def source_of_name(root: Path, name: str) -> str:
    ((source_id,),) = Catalog(root).rows(
        "select distinct source_id from sources where contains(url, ?)", [name]
    )
    return source_id


def words_of(root: Path, source_ids: list[str]) -> set[str]:
    """Everything that names the sources and nothing else."""
    catalog = Catalog(root)
    sql = """select source_id, url, title, webpage_url from fetches where source_id in (select unnest(?))"""
    words = {word for row in catalog.rows(sql, [source_ids]) for word in row}
    sql = "select distinct clip_id from clips where source_id in (select unnest(?))"
    return words | {row[0] for row in catalog.rows(sql, [source_ids])}


def samples(root: Path, name: str = "birds") -> dict[tuple[int, str], bytes]:
    """Bytes of every sample of every version."""
    import pyarrow.parquet as pq

    found = {}
    for folder in sorted((root / "datasets" / name).glob("v*")):
        version = int(folder.name[1:])
        manifest = read_manifest(LocalStore(folder.parent), version)
        homes = {shard.name: f"v{shard.home_version}" for shard in manifest.shards}
        for row in pq.read_table(folder / "index.parquet").to_pylist():
            data = (folder.parent / homes[row["shard"]] / row["shard"]).read_bytes()
            found[version, row["key"]] = b"".join(
                data[one.offset_bytes : one.offset_bytes + one.member_bytes] for one in members_of_row(row)
            )
    return found


def check_datasets(root: Path, name: str = "birds") -> None:
    """Every version is sound, and the lake says the same of it."""
    store, catalog = LocalStore(root / "datasets" / name), Catalog(root)
    for folder in sorted((root / "datasets" / name).glob("v*")):
        version = int(folder.name[1:])
        assert verify_version(store, version) == []
        manifest = read_manifest(store, version)
        ((told,),) = catalog.rows(
            "select num_samples from datasets where dataset = ? and version = ?", [name, version]
        )
        ((rows,),) = catalog.rows(
            "select count(*) from samples where dataset = ? and version = ?", [name, version]
        )
        assert told == rows == manifest.num_samples
        shards = catalog.rows(
            "select shard, sha256 from shards where dataset = ? and version = ? order by 1", [name, version]
        )
        assert shards == [(shard.name, shard.sha256) for shard in manifest.shards]


def test_channel_is_nowhere_and_everything_else_is_as_it_was(root):
    gone = [source_of_name(root, name) for name in ("kestrel", "osprey")]
    words = words_of(root, gone) | {"UCfalconry001", "uploader of UCfalconry001"}
    assert {word for _, word in traces(root, words)} == words
    before = samples(root)
    summary = forget(plan_forget(str(root), channels=["UCfalconry001"]))
    assert (summary.num_sources, summary.num_shared_files, len(summary.versions)) == (2, 0, 2)
    assert traces(root, words) == []
    kept = {place: data for place, data in before.items() if place[1][:16] not in gone}
    assert samples(root) == kept
    assert len(before) - len(kept) == summary.num_samples > 0
    check_datasets(root)
    manifests = [read_manifest(LocalStore(root / "datasets/birds"), version) for version in (1, 2)]
    assert sum(manifest.num_forgotten for manifest in manifests) == summary.num_samples
    (audit,) = Catalog(root).query("select kind, num_sources, num_samples from forgotten").to_pylist()
    assert audit == {"kind": "channel", "num_sources": 2, "num_samples": summary.num_samples}
    assert list((root / "forgetting").glob("**/*.*")) == []


def test_later_run_does_not_fetch_what_was_forgotten(made, root):
    (url,) = Catalog(root).rows("select url from sources where contains(url, 'kestrel')")[0]
    forget(plan_forget(str(root), urls=[url]))
    num_media = len(list(root.glob("media/*/*")))
    ingest_in_process(f"dir:{made / 'in'}", root, CLIPS)
    assert len(list(root.glob("media/*/*"))) == num_media
    codes = Catalog(root).rows("select code from outcomes where outcome = 'failed'")
    assert codes == [("blocked_by_policy",)]
    # The same bytes at another address.
    shutil.copytree(made / "in", root.parent / "elsewhere")
    ingest_in_process(f"dir:{root.parent / 'elsewhere'}", root, CLIPS)
    kestrels = "select count(*) from fetches where contains(url, 'kestrel')"
    assert Catalog(root).rows(kestrels) == [(0,)]


def test_media_that_another_source_shares_stays(root):
    source_id = source_of_name(root, "dolphin")
    words = words_of(root, [source_id])
    num_media = len(list(root.glob("media/*/*")))
    summary = forget(plan_forget(str(root), source_ids=[source_id]))
    assert summary.num_shared_files == 1
    assert len(list(root.glob("media/*/*"))) == num_media
    assert traces(root, words) == []
    check_datasets(root)


def test_clip_goes_alone_and_its_neighbours_can_be_packed(root):
    source_id = source_of_name(root, "kestrel")
    sql = "select clip_id from clips where source_id = ? order by 1"
    clip_id, other_id = (row[0] for row in Catalog(root).rows(sql, [source_id]))
    before = samples(root)
    summary = forget(plan_forget(str(root), clip_ids=[clip_id]))
    assert (summary.num_sources, summary.num_clips) == (0, 1)
    assert traces(root, [clip_id]) == []
    assert samples(root) == {place: data for place, data in before.items() if place[1] != clip_id}
    check_datasets(root)
    pack_in_process("again", root, PACKED)
    packed = samples(root, "again")
    assert packed[1, other_id] == before[1, other_id]
    assert len(packed) == len({key for _, key in before}) - 1


def test_forgetting_twice_changes_nothing(root):
    for _ in range(2):
        summary = forget(plan_forget(str(root), channels=["UCfalconry001"]))
    assert (summary.num_sources, summary.num_samples) == (0, 0)
    assert Catalog(root).rows("select num_sources from forgotten") == [(2,)]


def test_damaged_shard_is_refused_before_anything_is_gone(root):
    shard = next(root.glob("datasets/birds/v1/*.tar"))
    shard.write_bytes(shard.read_bytes()[:5000])
    before = len(list(root.glob("staged/*/*")))
    with pytest.raises(IntegrityError, match="run `avgen repair birds` first, nothing was forgotten"):
        forget(plan_forget(str(root), channels=["UCfalconry001", "UCseaside0002"]))
    assert len(list(root.glob("staged/*/*"))) == before
    assert not finish_forgetting(root)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "something to forget must be named"),
        ({"source_ids": ["x"]}, "--source-id must be 16 hex digits"),
        ({"clip_ids": ["0123456789abcdef"]}, "--clip-id must be SOURCE_ID-START_MS-END_MS"),
        ({"urls": ["ftp://h/a"]}, "a block of kind 'url' must have"),
    ],
)
def test_plan_forget_refuses_what_names_nothing(root, values, message):
    with pytest.raises(ConfigError, match=message):
        plan_forget(str(root), **values)


# ---- kills ----


def check_kills(folder: Path, *, num_kills: int) -> None:
    """Forget one channel after another in processes that are killed: the last attempt leaves no trace of any."""
    root, numbers = folder / "root", range(1000, 1000 + 2 * num_kills + 6)
    stage_sources(root, numbers, run_id="r1")
    pack_in_process("d", root, PackOptions(samples_per_shard=5))
    before = samples(root, "d")
    lone = f"{source_id_of(numbers[-1])}-00010000-00020000"
    # A few kills each: the second finds what the first left.
    commands = [["forget", str(root), f"UC{numbers[kill // 3]}", lone] for kill in range(num_kills)]
    longest_s = run_whole(["forget", str(root), "UCnobody"]) * 2
    run_killed(lambda number: commands[number], num_kills=num_kills, longest_s=longest_s)
    run_whole(commands[-1])
    named = sorted({int(command[2][2:]) for command in commands})
    gone = [source_id_of(number) for number in named if f"UC{number}" == commands[-1][2]]
    gone += [source_id_of(int(row)) for row in named if _is_forgotten(root, row)]
    words = {*gone, *(f"uploader {int(source_id, 16)}" for source_id in gone), lone}
    assert traces(root, words) == []
    kept = {place: data for place, data in before.items() if place[1] != lone and place[1][:16] not in gone}
    assert samples(root, "d") == kept
    check_datasets(root, "d")
    left = [
        *root.rglob("*.tmp"),
        *(root / "lake/_journal").glob("*"),
        *(root / "tmp").glob("*"),
        *root.glob("forgetting/*"),
    ]
    assert left == []


def _is_forgotten(root: Path, number: int) -> bool:
    """Whether an attempt got as far as its intent; one that was killed before has done nothing."""
    return not Catalog(root).rows("select 1 from sources where source_id = ?", [source_id_of(number)])


@pytest.mark.timeout(300)
def test_forget_killed_three_times_is_finished_by_the_next(tmp_path):
    check_kills(tmp_path, num_kills=3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_forget_killed_twenty_times_is_finished_by_the_next(tmp_path):
    check_kills(tmp_path, num_kills=20)
