"""The command line as its users meet it: one line for what is wrong, strict formats, help that teaches."""

import csv
import io
import json
import signal
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pytest

from pipeline.cli import exit_status
from pipeline.lake import Lake

COMMANDS = (
    "demo", "run", "retry", "what-if", "dedup", "pack", "verify", "repair", "forget", "gc", "train", "nightly",
    "status", "sql", "block",
)  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A root with one clip of an endless signal-to-noise ratio and its embedding."""
    path = tmp_path_factory.mktemp("root")
    lake = Lake(path)
    lake.create()
    clip = {"clip_id": "c", "source_id": "s", "recipe_id": "r", "snr_db": float("inf")}
    clip |= {"start_s": 0.0, "end_s": 10.0, "faults": ["a", "b"]}
    embedding = {"clip_id": "c", "vectors_f16": b"\x00\xff"}
    run = {"run_id": "r", "command": "ingest", "state": "done", "recipe_id": "r", "recipe_json": "{}"}
    run |= {"recorded_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)}
    lake.commit({"clips": [clip], "embeddings": [embedding], "runs": [run]}, run_id="r", batch_index=0)
    return path


@pytest.fixture
def avgen(capsys):
    """Runs a command line in this process: exit status, stdout, stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        status = exit_status(arguments)
        return status, *capsys.readouterr()

    return call


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rnu",), "no such command 'rnu'. Did you mean 'run'?; see avgen --help"),
        (("--bogus",), "no such option: --bogus; see avgen --help"),
        (("run", "--roo", "x"), "no such option: --roo (Possible options: --root); see avgen run --help"),
        (("run",), "missing option '--root'; see avgen run --help"),
        (("pack",), "missing argument 'NAME'; see avgen pack --help"),
        (("sql", "--root"), "option '--root' requires an argument; see avgen sql --help"),
        (("sql", "a", "b", "--root", "R"), "got unexpected extra argument(s) (b); see avgen sql --help"),
        (
            ("sql", "a", "--root", "R", "--format", "xml"),
            "invalid value for '--format': 'xml' is not one of 'table', 'csv', 'json'; see avgen sql --help",
        ),
        (
            ("pack", "d", "--root", "R", "--seed", "-1"),
            "invalid value for '--seed': must be greater than or equal to 0, got -1; see avgen pack --help",
        ),
        (
            ("pack", "d", "--root", "R", "--samples-per-shard", "0"),
            "invalid value for '--samples-per-shard': must be greater than or equal to 1, got 0;"
            " see avgen pack --help",
        ),
        (
            ("pack", "d", "--root", "R", "--samples-per-shard", "1000001"),
            "invalid value for '--samples-per-shard': must be less than or equal to 1000000, got 1000001;"
            " see avgen pack --help",
        ),
        (
            ("run", "--source", "dir:.", "--root", "R", "--num-cpus", "0"),
            "invalid value for '--num-cpus': must be greater than or equal to 1, got 0; see avgen run --help",
        ),
    ],
)
def test_exit_status_wrong_usage_is_one_line_and_2(arguments, message, avgen):
    assert avgen(*arguments) == (2, "", f"avgen: {message}\n")


def test_exit_status_without_arguments_prints_the_help(avgen):
    assert avgen() == avgen("--help")
    status, out, err = avgen()
    assert (status, err) == (0, "")
    assert all(f"\n  {command} " in out for command in COMMANDS)


def test_exit_status_version_is_that_of_the_package(avgen):
    assert avgen("--version") == (0, f"avgen {version('avgen')}\n", "")


@pytest.mark.parametrize("columns", ["80", "120"])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_has_an_example_and_fits(command, columns, avgen, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    status, out, err = avgen(command, "--help")
    assert (status, err) == (0, "")
    example = out.partition("Example")[2]
    assert f"\n    avgen {command} " in example
    assert max(map(len, out.splitlines())) <= 80
    assert "`" not in out


def test_sql_json_has_no_infinity(avgen, root):
    query = "select clip_id, snr_db, reject_reasons, vectors_f16 from clips join embeddings using (clip_id)"
    status, out, err = avgen("sql", query, "--root", str(root), "--format", "json")
    assert (status, err) == (0, "")
    row = {"clip_id": "c", "snr_db": None, "reject_reasons": ["a", "b"], "vectors_f16": "00ff"}
    assert json.loads(out) == [row]


@pytest.mark.parametrize("format_", ["csv", "table"])
def test_sql_columns_of_one_name_stay_apart(format_, avgen, root):
    status, out, _ = avgen("sql", "select 1 as a, 2 as a", "--root", str(root), "--format", format_)
    assert status == 0
    assert [character for character in out if character in "a12"] == ["a", "a", "1", "2"]


def test_sql_json_columns_of_one_name_are_refused(avgen, root):
    status, out, err = avgen("sql", "select 1 as a, 2 as a", "--root", str(root), "--format", "json")
    assert (status, out) == (2, "")
    assert "got a 2 times; give one an alias" in err


def test_sql_csv_of_many_batches_is_whole(avgen, root):
    status, out, _ = avgen(
        "sql", "select range as n from range(25000)", "--root", str(root), "--format", "csv"
    )
    rows = list(csv.reader(io.StringIO(out)))
    assert status == 0
    assert rows == [["n"], *([str(n)] for n in range(25000))]


def test_sql_csv_time_is_iso_8601(avgen, root):
    _, out, _ = avgen("sql", "select recorded_at from runs", "--root", str(root), "--format", "csv")
    (_, text) = out.splitlines()
    assert datetime.fromisoformat(text) == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_sql_help_lists_queries_that_work(avgen, root):
    for query in (
        "show tables",
        "describe clips",
        "from failures",
        "select outcome, count(*) from outcomes group by 1",
    ):
        assert avgen("sql", query, "--root", str(root))[0] == 0


@pytest.mark.parametrize(
    "command", [("status",), ("sql", "from runs"), ("pack", "d"), ("train", "--dataset", "d")]
)
def test_half_made_lake_says_to_run_again(command, avgen, tmp_path):
    (tmp_path / "lake").mkdir()
    status, out, err = avgen(*command, "--root", str(tmp_path))
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert "run `avgen" in err


def test_status_json_is_the_funnel(avgen, root):
    status, out, err = avgen("status", "--root", str(root), "--json")
    assert (status, err) == (0, "")
    assert json.loads(out)["reasons"] == {"a": 1, "b": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--train-recipe", "nope"), "a recipe must be a file or one of"),
        (("--where", "snrdb > 3"), "snrdb"),
        (("--where", "snr_db >"), "--where must be one SQL condition"),
    ],
)
def test_nightly_checks_its_last_step_before_its_first(options, message, avgen, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"never read")
    source = ("--source", f"dir:{tmp_path}", "--root", str(tmp_path / "root"), "--dataset", "d")
    status, out, err = avgen("nightly", *source, *options)
    assert (status, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "root" / "runs").exists()


def test_train_checks_its_recipe_before_anything_is_started(avgen, root):
    folder = root / "datasets" / "d" / "v1"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    status, out, err = avgen("train", "--root", str(root), "--dataset", "d", "--set", "num_steps=0")
    assert (status, out) == (2, "")
    assert err.startswith("avgen: num_steps: ")
    assert not (root / "runs").exists()


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_sql_reader_that_stops_ends_it_quietly(root):
    with start("sql", "from range(1000000)", "--root", str(root), "--format", "csv") as process:
        assert process.stdout.readline() == "range\n"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 141


def test_interrupt_is_one_line_and_130(root):
    with start("sql", "from range(1000000)", "--root", str(root), "--format", "csv") as process:
        assert process.stdout.readline() == "range\n"
        process.send_signal(signal.SIGINT)  # While it waits for somebody to read on.
        _, err = process.communicate()
    assert (process.returncode, err) == (130, "avgen: interrupted\n")
