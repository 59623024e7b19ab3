"""A training is a run of the lake: recorded, taken up again after a kill, never two at once."""

import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from infra.errors import ConfigError, IntegrityError
from infra.storage import exclusive
from pipeline import run_record
from pipeline.catalog import Catalog
from pipeline.lake import Lake
from pipeline.train_job import (
    OUT_NAME,
    TrainRequest,
    plan_training,
    train_command,
    training_result,
    training_run,
)


@pytest.fixture
def root(tmp_path) -> Path:
    """A root with two finished versions of one dataset."""
    Lake(tmp_path).create()
    for version in ("v1", "v2"):
        folder = tmp_path / "datasets" / "d" / version
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(version)
    (tmp_path / "datasets" / "d" / "v3").mkdir()  # Begun, not finished.
    return tmp_path


def plan(
    root: Path, dataset: str = "d", *, recipe: str = "tiny", overrides: tuple[str, ...] = ()
) -> TrainRequest:
    return plan_training(dataset, str(root), recipe=recipe, overrides=overrides)


def run_rows(root: Path) -> list[tuple[str, str]]:
    """Run id and state, in the order of writing."""
    rows = Catalog(root).query("select run_id, state from runs where command = 'train' order by recorded_at")
    return [(row["run_id"], row["state"]) for row in rows.to_pylist()]


def states(root: Path) -> list[str]:
    return [state for _, state in run_rows(root)]


def save_checkpoint(run: run_record.Run) -> None:
    path = run.folder / OUT_NAME / "checkpoints" / "last"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("step-000001\n")


def kill_training(root: Path, *, after_checkpoint: bool) -> str:
    """Leave a training as Ctrl-C or a kill does; its run id."""
    with pytest.raises(KeyboardInterrupt), training_run(plan(root)) as run:
        if after_checkpoint:
            save_checkpoint(run)
        raise KeyboardInterrupt
    return run.run_id


@pytest.mark.parametrize(("dataset", "folder"), [("d", "v2"), ("d@1", "v1"), ("d@v2", "v2")])
def test_plan_training_finds_the_version(dataset, folder, root):
    assert plan(root, dataset).dataset_dir == root / "datasets" / "d" / folder


@pytest.mark.parametrize("dataset", ["d@3", "d@9", "d@0", "other"])
def test_plan_training_no_finished_version_names_those_there_are(dataset, root):
    with pytest.raises(ConfigError, match=r"there is d@1, d@2$"):
        plan(root, dataset)


@pytest.mark.parametrize("dataset", ["", "d@", "d@x", "../d", "a b"])
def test_plan_training_not_a_name_raises_config_error(dataset, root):
    with pytest.raises(ConfigError):
        plan(root, dataset)


def test_plan_training_no_dataset_says_what_to_run_first(tmp_path):
    Lake(tmp_path).create()
    with pytest.raises(ConfigError, match="run `avgen pack` first"):
        plan(tmp_path)


def test_recipe_id_depends_on_dataset_recipe_and_overrides(root, tmp_path):
    recipe = tmp_path / "mine.toml"
    ids = [plan(root).recipe_id, plan(root, "d@1").recipe_id, plan(root, overrides=("seed=1",)).recipe_id]
    for text in ("seed = 1", "seed = 2"):
        recipe.write_text(text)
        ids.append(plan(root, recipe=str(recipe)).recipe_id)
    assert len(set(ids)) == len(ids)
    assert plan(root).recipe_id == ids[0]


def test_train_command_resumes_only_what_has_a_checkpoint(root):
    request = plan(root, overrides=("num_steps=3", "seed=1"))
    out_dir = root / "out"
    expected = ["-m", "train.launch", "--dataset", str(root / "datasets/d/v2"), "--recipe", "tiny"]
    expected += ["--out", str(out_dir), "--set", "num_steps=3", "--set", "seed=1"]
    assert train_command(request, out_dir) == expected
    (out_dir / "checkpoints").mkdir(parents=True)
    (out_dir / "checkpoints" / "last").write_text("step-000001\n")
    assert train_command(request, out_dir) == [*expected, "--resume"]


def test_training_result_is_the_last_line():
    assert training_result('noise\n{"steps": 3}\n', Path("out")) == {"steps": 3}


@pytest.mark.parametrize("stdout", ["", "\n \n", "done\n", "[1]\n"])
def test_training_result_no_object_raises_integrity_error(stdout):
    with pytest.raises(IntegrityError, match="its files are in out"):
        training_result(stdout, Path("out"))


def test_training_run_that_ends_is_recorded_with_its_settings(root):
    request = plan(root)
    with training_run(request) as run:
        assert states(root) == ["started"]
        facts = json.loads((run.folder / "run.json").read_bytes())
    assert run_rows(root) == [(run.run_id, "started"), (run.run_id, "done")]
    assert facts["recipe_id"] == request.recipe_id
    assert facts["settings"]["dataset"] == "datasets/d/v2"
    assert run.folder == root / "runs" / run.run_id


def test_training_run_that_fails_is_recorded_and_the_error_goes_on(root):
    with pytest.raises(IntegrityError, match="boom"), training_run(plan(root)):
        raise IntegrityError("boom")
    assert states(root) == ["started", "failed"]


def test_training_run_does_not_hold_the_root(root):
    """An ingest may start, work and end while a training goes on."""
    with training_run(plan(root)) as run, exclusive(root):
        run_record.start_run(root, "ingest", recipe_id="r", settings_json="{}").mark("done")
        save_checkpoint(run)
    assert states(root) == ["started", "done"]


def test_training_run_two_of_other_settings_have_folders_of_their_own(root):
    with training_run(plan(root)) as one, training_run(plan(root, "d@1")) as two:
        assert one.folder != two.folder
    assert sorted(states(root)) == ["done", "done", "started", "started"]


def test_training_run_killed_after_a_checkpoint_is_taken_up_again(root):
    killed_id = kill_training(root, after_checkpoint=True)
    with training_run(plan(root)) as run:
        assert run.run_id == killed_id
    assert run_rows(root) == [(killed_id, "started"), (killed_id, "started"), (killed_id, "done")]
    with training_run(plan(root)) as run:
        assert run.run_id != killed_id  # What is done is done; this is another training.


def test_training_run_failed_after_a_checkpoint_is_taken_up_again(root):
    with pytest.raises(IntegrityError), training_run(plan(root)) as failed:
        save_checkpoint(failed)
        raise IntegrityError("boom")
    with training_run(plan(root)) as run:
        assert run.run_id == failed.run_id
    assert states(root) == ["started", "failed", "started", "done"]


def test_training_run_killed_before_a_checkpoint_starts_anew(root):
    killed_id = kill_training(root, after_checkpoint=False)
    with training_run(plan(root)) as run:
        assert run.run_id != killed_id


def test_training_run_other_settings_start_anew(root):
    killed_id = kill_training(root, after_checkpoint=True)
    with training_run(plan(root, overrides=("seed=1",))) as run:
        assert run.run_id != killed_id


def test_training_run_of_equal_settings_at_once_is_refused_and_harms_nothing(root):
    with training_run(plan(root)) as run:
        save_checkpoint(run)
        with pytest.raises(ConfigError, match="another one is writing"), training_run(plan(root)):
            pass
    assert states(root) == ["started", "done"]


def test_training_run_while_another_run_writes_is_refused(root):
    with (
        exclusive(root),
        pytest.raises(ConfigError, match="another one is writing"),
        training_run(plan(root)),
    ):
        pass
    assert states(root) == []


def test_mark_when_free_waits_for_the_writer(root, monkeypatch, capsys):
    with training_run(plan(root)) as run, ExitStack() as writer:
        writer.enter_context(exclusive(root))
        monkeypatch.setattr(run_record.time, "sleep", lambda _: writer.close())
        run.mark_when_free("failed")
    assert states(root) == ["started", "failed", "done"]
    assert "recorded when the run that writes to" in capsys.readouterr().err
