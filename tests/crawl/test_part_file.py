import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crawl.part_file import Described, PartFile
from tests.crawl.web_answers import made_bytes

_NOISE = made_bytes("noise", 10_000)


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


class _Killed(BaseException):
    """What kill -9 is to the code: it ends there and then."""


def _killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The `step`-th change to the disk from now on is done by half, and nothing after it."""
    left = [step]

    def dying(change: Callable[..., Any], *, is_write: bool) -> Callable[..., Any]:
        def wrapper(target: Any, *args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] > 0:
                return change(target, *args, **kwargs)
            if left[0] == 0 and is_write:
                change(target, args[0][: len(args[0]) // 2])
            raise _Killed

        return wrapper

    monkeypatch.setattr(os, "write", dying(os.write, is_write=True))
    monkeypatch.setattr(os, "ftruncate", dying(os.ftruncate, is_write=False))
    monkeypatch.setattr(Path, "write_text", dying(Path.write_text, is_write=True))
    monkeypatch.setattr(Path, "replace", dying(Path.replace, is_write=False))
    monkeypatch.setattr(Path, "unlink", dying(Path.unlink, is_write=False))


def _described(edition: int) -> Described:
    return Described(url="http://h/a", content_type="video/mp4", validator=f'"{edition}"', total_bytes=10_000)


def _blocks() -> Iterator[bytes]:
    return (_NOISE[start : start + 2500] for start in range(0, len(_NOISE), 2500))


@pytest.mark.parametrize("step", range(1, 16))
def test_part_file_killed_at_any_change_holds_what_its_note_says(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One edition is begun, then it has changed and another is written: parts of the two are never mixed."""
    with PartFile(tmp_path / "part") as file:
        file.describe(_described(1))
        file.write(bytes(3000))
    with monkeypatch.context() as patch:
        _killed_at(step, patch)
        try:
            with PartFile(tmp_path / "part") as file:
                file.start_over()
                file.describe(_described(2))
                for block in _blocks():
                    file.write(block)
        except _Killed:
            is_killed = True
        else:
            is_killed = False
    assert is_killed == (step <= 8)  # One removal, one truncation, four blocks, and a note of two steps.
    with PartFile(tmp_path / "part") as file:
        held = {'"1"': bytes(3000), '"2"': _NOISE}[file.described.validator or '"1"'][: file.num_bytes]
        assert file.sha256 == _sha256(held) == _sha256((tmp_path / "part").read_bytes())
        assert file.num_bytes == 0 or file.described.validator


@pytest.mark.parametrize("note", ["", "[]", "null", "{}", '{"boot_id": 1}', "\0", '{"opt_out": 3}'])
def test_part_file_note_that_is_damaged_counts_for_nothing(note: str, tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(b"something")
    (tmp_path / "part.json").write_text(note)
    with PartFile(tmp_path / "part") as file:
        assert (file.num_bytes, file.described.validator) == (0, "")
    assert (tmp_path / "part").read_bytes() == b""


def test_part_file_note_of_an_empty_part_is_removed_before_other_bytes_come(tmp_path: Path) -> None:
    with PartFile(tmp_path / "part") as file:
        file.describe(_described(1))
        file.write(b"begun")
    (tmp_path / "part").write_bytes(b"")
    with PartFile(tmp_path / "part") as file:
        assert not (tmp_path / "part.json").exists()
        file.start_over()
        file.describe(_described(2))
        file.write(b"begun again")
    with PartFile(tmp_path / "part") as file:
        assert (file.described, file.num_bytes) == (_described(2), 11)


def test_part_file_note_of_another_boot_counts_for_nothing(tmp_path: Path) -> None:
    with PartFile(tmp_path / "part") as file:
        file.describe(_described(1))
        file.write(b"begun")
    with PartFile(tmp_path / "part") as file:
        assert file.num_bytes == 5
    note = json.loads((tmp_path / "part.json").read_text())
    (tmp_path / "part.json").write_text(json.dumps(note | {"boot_id": "another"}))
    with PartFile(tmp_path / "part") as file:
        assert file.num_bytes == 0
