"""What is broken comes out byte-identical, what is sound is not touched, whenever the process was killed."""

import random
from pathlib import Path

import pytest

from infra.errors import IntegrityError
from infra.store import LocalStore
from pipeline.dataset import PackOptions
from pipeline.repair_dataset import plan_repair, repair
from shards.verify import verify_version
from tests.pipeline.in_process import pack_in_process
from tests.pipeline.killing import run_killed, run_whole
from tests.pipeline.staged_lake import stage_sources


@pytest.fixture
def root(tmp_path) -> Path:
    """Two versions, the second with shards of the first."""
    for numbers, run_id in ((range(16, 22), "r1"), (range(22, 25), "r2")):
        stage_sources(tmp_path, numbers, run_id=run_id)
        pack_in_process("d", tmp_path, PackOptions(samples_per_shard=5))
    return tmp_path


def content(root: Path) -> dict[str, bytes]:
    folder = root / "datasets/d"
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def mended(root: Path) -> tuple[str, ...]:
    return repair(plan_repair("d", str(root))).shards


def test_shards_come_out_byte_identical_and_sound_ones_are_not_touched(root):
    before = content(root)
    folder = root / "datasets/d"
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("*.tar")}
    first, second, third = sorted(folder.glob("*/*.tar"))[:3]
    first.write_bytes(before["v1/train-000000.tar"][:7000])
    second.unlink()
    third.write_bytes(b"x" + before["v1/train-000002.tar"][1:])
    assert mended(root) == ("train-000000.tar", "train-000001.tar", "train-000002.tar")
    assert content(root) == before
    changed = {path for path, stamp in stamps.items() if path.stat().st_mtime_ns != stamp}
    assert changed == {first, second, third}
    assert mended(root) == ()


def test_index_lists_and_order_of_broken_shards_are_found_elsewhere(root):
    before = content(root)
    folder = root / "datasets/d/v2"
    for name in ("index.parquet", "train.txt", "train.wids.json"):
        (folder / name).unlink()
    next(folder.glob("*.tar")).unlink()
    mended(root)
    assert content(root) == before


def test_lost_card_is_made_again(root):
    card = root / "datasets/d/v2/README.md"
    card.unlink()
    mended(root)
    assert card.read_text().startswith("---\npretty_name: d v2")
    assert verify_version(LocalStore(root / "datasets/d"), 2) == []


def test_bundle_that_is_gone_is_one_clear_line_and_changes_nothing(root):
    shard = next(iter(sorted(root.glob("datasets/d/v1/*.tar"))))
    shard.write_bytes(b"")
    for bundle in root.glob("staged/*/*.npy.tar"):
        bundle.unlink()
    before = content(root)
    with pytest.raises(
        IntegrityError, match=r"bundle of every sample .* must be there.* nothing was changed"
    ):
        mended(root)
    assert content(root) == before


def test_bundle_with_other_bytes_does_not_get_into_a_shard(root):
    shard = next(iter(sorted(root.glob("datasets/d/v1/*.tar"))))
    shard.unlink()
    for bundle in root.glob("staged/*/*.tar"):
        data = bytearray(bundle.read_bytes())
        data[600] ^= 1
        bundle.write_bytes(data)
    with pytest.raises(IntegrityError, match="is damaged"):
        mended(root)
    assert not shard.exists()


def check_kills(root: Path, *, num_kills: int) -> None:
    before, rng = content(root), random.Random(0)
    shards = sorted(root.glob("datasets/d/*/*.tar"))

    def damage(number: int) -> list[str]:
        for shard in shards:
            data = before[shard.relative_to(root / "datasets/d").as_posix()]
            shard.write_bytes(data[: rng.randrange(len(data))])
        return ["repair", str(root), "d"]

    longest_s = run_whole(damage(0))
    assert content(root) == before
    run_killed(damage, num_kills=num_kills, longest_s=longest_s)
    run_whole(["repair", str(root), "d"])
    assert content(root) == before
    assert list(root.rglob("*.tmp")) + list((root / "tmp").glob("*")) == []


@pytest.mark.timeout(300)
def test_repair_killed_three_times_is_finished_by_the_next(root):
    check_kills(root, num_kills=3)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_repair_killed_twenty_times_is_finished_by_the_next(root):
    check_kills(root, num_kills=20)
