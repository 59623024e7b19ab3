import pytest
import torch

from infra.errors import ConfigError, IntegrityError
from train.checkpoint import (
    begin_checkpoint,
    check_resume,
    checkpoints_dir,
    commit_checkpoint,
    has_checkpoint,
    load_last_checkpoint,
    remove_old_checkpoints,
    save_model,
    save_optimiser_shard,
    temporary_dir,
)

MODEL = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.tensor([1.5], dtype=torch.bfloat16)}


def save(out_dir, *, step: int) -> None:
    begin_checkpoint(out_dir)
    files = [save_model(out_dir, MODEL)]
    files += [
        save_optimiser_shard(out_dir, {"master": torch.full((2,), rank)}, rank=rank) for rank in range(2)
    ]
    commit_checkpoint(out_dir, step=step, facts={"codec": "linear_patch_codec"}, files=files)


def test_load_last_checkpoint_returns_what_was_saved(tmp_path):
    save(tmp_path, step=12)
    loaded = load_last_checkpoint(tmp_path)
    assert (loaded.step, loaded.facts) == (12, {"codec": "linear_patch_codec"})
    assert all(torch.equal(loaded.model_state[name], MODEL[name]) for name in MODEL)
    assert loaded.model_state["bias"].dtype == torch.bfloat16
    assert [shard["master"].tolist() for shard in loaded.optimiser_shards] == [[0, 0], [1, 1]]


def test_load_last_checkpoint_two_saved_returns_the_newer(tmp_path):
    save(tmp_path, step=1)
    save(tmp_path, step=2)
    assert load_last_checkpoint(tmp_path).step == 2


def test_begin_checkpoint_killed_while_writing_leaves_the_one_before(tmp_path):
    save(tmp_path, step=1)
    begin_checkpoint(tmp_path)
    save_model(tmp_path, MODEL)
    assert load_last_checkpoint(tmp_path).step == 1
    save(tmp_path, step=2)
    assert load_last_checkpoint(tmp_path).step == 2
    assert not temporary_dir(tmp_path).exists()


def test_commit_checkpoint_killed_before_the_pointer_is_written_again(tmp_path):
    save(tmp_path, step=2)
    (checkpoints_dir(tmp_path) / "last").unlink()
    assert not has_checkpoint(tmp_path)
    save(tmp_path, step=2)
    assert load_last_checkpoint(tmp_path).step == 2


@pytest.mark.parametrize("name", ["model.pt", "optimiser-00001.pt"])
@pytest.mark.parametrize("damage", ["cut", "altered", "missing"])
def test_load_last_checkpoint_torn_file_raises_integrity_error(tmp_path, name, damage):
    save(tmp_path, step=3)
    path = checkpoints_dir(tmp_path) / "step-000003" / name
    data = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(data[:-9] if damage == "cut" else data[:100] + b"?" + data[101:])
    with pytest.raises(IntegrityError, match=f"{name} must have sha256"):
        load_last_checkpoint(tmp_path)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format_version": 1}'])
def test_load_last_checkpoint_torn_manifest_raises_integrity_error(tmp_path, text):
    save(tmp_path, step=3)
    (checkpoints_dir(tmp_path) / "step-000003" / "manifest.json").write_text(text)
    with pytest.raises(IntegrityError, match=r"whole manifest\.json"):
        load_last_checkpoint(tmp_path)


def test_save_optimiser_shard_view_saves_no_more_than_it_shows(tmp_path):
    begin_checkpoint(tmp_path)
    saved = save_optimiser_shard(tmp_path, {"master": torch.zeros(1_000_000)[:10]}, rank=0)
    assert saved.size_bytes < 10_000


def test_remove_old_checkpoints_keeps_the_newest(tmp_path):
    for step in (1, 2, 10):
        save(tmp_path, step=step)
    remove_old_checkpoints(tmp_path, num_kept=2)
    assert sorted(path.name for path in checkpoints_dir(tmp_path).glob("step-*")) == [
        "step-000002",
        "step-000010",
    ]


def test_check_resume_wish_and_folder_must_match(tmp_path):
    check_resume(tmp_path, resume=False)
    with pytest.raises(ConfigError, match="needs a checkpoint"):
        check_resume(tmp_path, resume=True)
    save(tmp_path, step=1)
    check_resume(tmp_path, resume=True)
    with pytest.raises(ConfigError, match="add --resume"):
        check_resume(tmp_path, resume=False)
