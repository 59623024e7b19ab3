"""What goes to stdout and stderr, for people and for scripts."""

import io
import json
import os
import sys

import pytest
from rich.table import Table

from infra.telemetry import discard_stdout, is_reader_gone, print_json, print_whole, progress


def test_print_json_is_one_document_on_stdout(capsys):
    print_json({"a": [1, None, "é"]})
    out, err = capsys.readouterr()
    assert json.loads(out) == {"a": [1, None, "é"]}
    assert out.endswith("}\n")
    assert err == ""


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_print_json_no_such_number_in_json_raises_and_prints_nothing(number, capsys):
    with pytest.raises(ValueError, match="JSON"):
        print_json({"a": number})
    assert capsys.readouterr().out == ""


def test_print_whole_wide_table_keeps_every_character(capsys):
    table = Table("wide", "[b]")
    table.add_row("x" * 500, "y")
    print_whole(table, "a line")
    lines = capsys.readouterr().out.splitlines()
    assert any("x" * 500 in line for line in lines)
    assert lines[-1] == "a line"


@pytest.mark.parametrize(("total", "num_lines"), [(3, 3), (20, 20), (1000, 20), (1001, 21)])
def test_progress_without_a_terminal_prints_few_lines_on_stderr(total, num_lines, capsys):
    with progress("sources", total=total) as advance:
        for num_done in range(1, total + 1):
            advance(num_done, "fine")
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == num_lines
    assert err.splitlines()[-1] == f"sources: {total}/{total} fine"


@pytest.fixture
def pipe():
    """A text stream into a pipe, and the end it is read from."""
    read_fd, write_fd = os.pipe()
    with io.TextIOWrapper(os.fdopen(write_fd, "wb")) as writer, os.fdopen(read_fd, "rb") as reader:
        yield writer, reader


def test_is_reader_gone_tells_an_open_pipe_from_a_closed_one(pipe, monkeypatch):
    writer, reader = pipe
    monkeypatch.setattr(sys, "stdout", writer)
    assert not is_reader_gone()
    reader.close()
    assert is_reader_gone()


def test_discard_stdout_lets_what_is_buffered_go_nowhere(pipe, monkeypatch):
    writer, reader = pipe
    monkeypatch.setattr(sys, "stdout", writer)
    writer.write("text that nobody reads")
    reader.close()
    with pytest.raises(BrokenPipeError):
        writer.flush()
    discard_stdout()
    writer.flush()
