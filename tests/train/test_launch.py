"""Real runs: two ranks under DeepSpeed ZeRO-2 over gloo, on real media."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from shards.reader import ShardReader
from tests.train.conftest import SMALL_MODEL
from train import launch
from train.arguments import Arguments, parse_arguments
from train.checkpoint import checkpoints_dir, load_last_checkpoint
from train.engine import learning_rate_at

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = (*SMALL_MODEL, "num_steps=4", "checkpoint.every_steps=2", "optimiser.warmup_steps=1")


def words(dataset_dir: Path, out_dir: Path, *settings: str) -> list[str]:
    flags = [flag for setting in settings for flag in ("--set", setting)]
    return ["--dataset", str(dataset_dir), "--out", str(out_dir), *flags]


def run(module: str, arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.fixture(scope="module")
def finished(dataset_dir, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A run of four steps on two ranks, and what it printed."""
    out_dir = tmp_path_factory.mktemp("run") / "out"
    return out_dir, run("train.launch", words(dataset_dir, out_dir, *SETTINGS))


def test_launch_two_ranks_trains_and_reports(finished, dataset_dir):
    out_dir, result = finished
    assert result.returncode == 0, result.stderr
    (line,) = result.stdout.splitlines()
    summary = json.loads(line)
    assert (summary["steps"], summary["codec"]) == (4, "linear_patch_codec")
    assert summary["checkpoint"] == str(out_dir / "checkpoints" / "step-000004")
    assert summary["embeddings"]["clip_weights"] == "untrained"
    metrics = [json.loads(row) for row in (out_dir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics] == [1, 2, 3, 4]
    assert (summary["first_loss"], summary["last_loss"]) == (metrics[0]["loss"], metrics[-1]["loss"])
    # One of the eight clips is too short: an epoch of two steps trains on seven.
    assert [row["num_samples_seen"] for row in metrics[1::2]] == [7, 14]
    assert "0 in damaged shards, 2 shorter than the window, 0 undecodable, 0 at the ends" in result.stderr
    assert result.stderr.count("are untrained") == 1
    assert sum(row.startswith("step ") for row in result.stderr.splitlines()) == 4


def test_launch_writes_the_resolved_recipe_and_what_it_ran_on(finished, dataset_dir):
    out_dir, _ = finished
    facts = json.loads((out_dir / "run.json").read_text())
    config = json.loads((out_dir / "config.json").read_text())
    manifest = (dataset_dir / "manifest.json").read_bytes()
    assert facts["dataset_manifest_sha256"] == hashlib.sha256(manifest).hexdigest()
    assert (config["num_steps"], config["model"]["width"]) == (4, 64)
    assert load_last_checkpoint(out_dir).facts["embeddings"] == facts["embeddings"]
    assert ShardReader.opened(dataset_dir).manifest.models.clip_weights == "untrained"


@pytest.fixture(scope="module")
def resumed(finished, dataset_dir, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The same run as if it had been killed after its second step, then resumed."""
    out_dir = tmp_path_factory.mktemp("resumed") / "out"
    shutil.copytree(finished[0], out_dir)
    shutil.rmtree(checkpoints_dir(out_dir) / "step-000004")
    (checkpoints_dir(out_dir) / "last").write_text("step-000002\n")
    return out_dir, run("train.launch", [*words(dataset_dir, out_dir, *SETTINGS), "--resume"])


def test_launch_resume_ends_bitwise_where_the_whole_run_does(finished, resumed):
    out_dir, result = resumed
    assert result.returncode == 0, result.stderr
    whole, continued = load_last_checkpoint(finished[0]), load_last_checkpoint(out_dir)
    assert continued.step == 4
    assert whole.facts["read_state"] == continued.facts["read_state"]
    assert whole.facts["read_state"] == {"seed": 0, "epoch": 1, "position": 8, "num_lanes": 64}
    assert all(
        torch.equal(whole.model_state[name], continued.model_state[name]) for name in whole.model_state
    )
    for one, two in zip(whole.optimiser_shards, continued.optimiser_shards, strict=True):
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_run_non_finite_loss_stops_before_the_update_and_names_samples(resumed, dataset_dir):
    # One rank goes on from the checkpoint of two; its first update, at an absurd rate, breaks the weights.
    out_dir, _ = resumed
    settings = (*SETTINGS, "num_steps=8", "checkpoint.every_steps=1", "optimiser.learning_rate=1e30")
    environment = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    environment |= {"MASTER_PORT": "0", **launch.rank_environment(num_gpus=0, num_cores=2)}
    result = run("train.run", [*words(dataset_dir, out_dir, *settings), "--resume"], **environment)
    assert result.returncode == 1, result.stderr
    error = result.stderr.splitlines()[-1]
    assert error.startswith("error: the loss must be finite, got [nan")
    assert "at step 6 for samples source" in error
    assert "Traceback" not in result.stderr
    assert load_last_checkpoint(out_dir).step == 5
    rows = [json.loads(row) for row in (out_dir / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["num_samples_seen"]) for row in rows[-2:]] == [
        (4, 14),
        (5, 15),
    ]  # The next epoch begins with the short clip.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("optimiser.learning_rat=1",), "unknown setting optimiser.learning_rat"),
        (("rank_batch_samples=5",), "must hold at least one batch, 10 samples for 2 ranks of 5, got 8"),
    ],
)
def test_main_bad_settings_exit_2_with_one_line(
    settings, message, dataset_dir, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(sys, "argv", ["train.launch", *words(dataset_dir, tmp_path / "out", *settings)])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert launch.main() == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""


def test_main_no_such_dataset_exits_2_with_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.launch", *words(tmp_path / "none", tmp_path / "out")])
    assert launch.main() == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_main_missing_argument_exits_2_with_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.launch", "--out", "x"])
    assert launch.main() == 2
    assert "--dataset" in capsys.readouterr().err


def test_parse_arguments_all_given():
    given = ["--dataset", "d", "--recipe", "r", "--out", "o", "--set", "a=1", "--set", "b.c=2", "--resume"]
    expected = Arguments(
        dataset_dir=Path("d"), recipe="r", out_dir=Path("o"), overrides=("a=1", "b.c=2"), resume=True
    )
    assert parse_arguments(given) == expected


@pytest.mark.parametrize(("num_gpus", "num_threads"), [(0, "4"), (4, "2")])
def test_rank_environment_shares_the_cores(num_gpus, num_threads):
    environment = launch.rank_environment(num_gpus=num_gpus, num_cores=8)
    assert environment["OMP_NUM_THREADS"] == num_threads
    assert (environment.get("DS_ACCELERATOR") == "cpu") == (num_gpus == 0)


def test_learning_rate_at_warms_up_then_stays(small_config):
    config = small_config.optimiser.model_copy(update={"learning_rate": 1.0, "warmup_steps": 3})
    assert [learning_rate_at(step, config) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
