"""A run: its id, what it ran with, and its commits to the lake."""

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

from infra.config import canonical_json
from infra.errors import AvgenError, ConfigError
from infra.root import TMP, Root
from infra.store import LocalStore
from infra.store_lock import HELD_BY_KERNEL, StoreLock, exclusive_store
from infra.telemetry import stderr_console
from pipeline.finish_forgetting import finish_forgetting
from pipeline.lake import Lake
from pipeline.lake_rows import Row

_REPOSITORY = Path(__file__).resolve().parent.parent
_RUNS, _FACTS = "runs", "run.json"
_RETRY_S = 5.0


@dataclass(slots=True, kw_only=True)
class Run:
    """One command that writes to a root. Numbers its commits, so that each happens once."""

    root: Root
    command: str
    run_id: str
    recipe_id: str
    settings_json: str
    lake: Lake
    num_commits: int = 0
    _committing: threading.Lock = field(default_factory=threading.Lock)

    @property
    def work_dir(self) -> Path:
        """Scratch of this run."""
        return self.root.tmp_dir / self.run_id

    @property
    def tmp_key(self) -> str:
        """Key of the folder for what workers of this run share; of a local root it is `work_dir`."""
        return f"{TMP}/{self.run_id}"

    @property
    def folder(self) -> Path:
        """A local folder for what this run writes that is neither lake nor dataset."""
        return run_folder(self.root, self.run_id)

    def commit(self, rows: dict[str, list[Row]]) -> None:
        """Append rows to the lake, all or nothing; from any thread."""
        with self._committing:
            self.lake.commit(rows, run_id=self.run_id, batch_index=self.num_commits)
            self.num_commits += 1

    def mark(self, state: str) -> None:
        """Write a row of `runs`: `started`, `done`, `failed`. The caller holds the root."""
        self.commit({"runs": [self._row(state)]})

    @contextmanager
    def marked_at_its_end(self) -> Iterator[None]:
        """`marked_at_end`, for a run that holds the root; its scratch goes when it is done."""
        with marked_at_end(self.mark):
            yield
        self.root.drop_tmp(self.run_id)

    def mark_when_free(self, state: str) -> None:
        """`mark`, for a run that does not hold the root: waits until whoever does has ended."""
        if self._mark_if_free(state):
            return
        stderr_console().print(
            f"run {self.run_id} is {state}; this is recorded when the run that writes to {self.root.url} has ended"
        )
        while not self._mark_if_free(state):
            time.sleep(_RETRY_S)

    def _mark_if_free(self, state: str) -> bool:
        with ExitStack() as held:
            try:
                lock = held.enter_context(exclusive_store(self.root.store))
            except ConfigError:
                return False
            self.lake.held_by(lock)
            self.mark(state)
        return True

    def _row(self, state: str) -> Row:
        return {
            "run_id": self.run_id,
            "command": self.command,
            "state": state,
            "recipe_id": self.recipe_id,
            "recipe_json": self.settings_json,
            "git_commit": git_commit(),
            "lock_sha256": lock_sha256(),
            "recorded_at": datetime.now(UTC),
        }


@contextmanager
def marked_at_end(mark: Callable[[str], None]) -> Iterator[None]:
    """Mark a run `done` after the block, or `failed` when it ends with one of our errors."""
    try:
        yield
    except AvgenError:
        mark("failed")
        raise
    mark("done")


def start_run(
    root: Root | Path, command: str, *, recipe_id: str, settings_json: str, lock: StoreLock = HELD_BY_KERNEL
) -> Run:
    """Prepare the root, finish what a killed run left behind, and record what this one runs with.

    The caller holds the root by `lock` (`infra.store_lock`), so scratch of other runs is nobody's.
    """
    home = Root.of(root)
    stamp = datetime.now(UTC).strftime("%Y%m%dt%H%M%S")
    run_id = f"{stamp}-{uuid4().hex[:6]}"
    finish_forgetting(home, lock=lock)
    home.empty_tmp()
    if isinstance(home.store, LocalStore):  # No other store shows what is unfinished.
        for folder in (home.store.folder / "staged").glob("*"):
            LocalStore(folder).sweep()
    lake = Lake(home.store, lock=lock)
    lake.create()
    run = Run(
        root=home,
        command=command,
        run_id=run_id,
        recipe_id=recipe_id,
        settings_json=settings_json,
        lake=lake,
    )
    run.work_dir.mkdir()
    facts = {
        "run_id": run_id,
        "command": command,
        "recipe_id": recipe_id,
        "settings": json.loads(settings_json),
        "git_commit": git_commit(),
        "lock_sha256": lock_sha256(),
    }
    home.store.write(_facts_key(run_id), json.dumps(facts, indent=2).encode())
    run.mark("started")
    return run


def resume_run(root: Root | Path, run_id: str, *, num_commits: int, lock: StoreLock = HELD_BY_KERNEL) -> Run:
    """A run that was started and did not end, to go on as itself. The caller holds the root by `lock`.

    Args:
        num_commits: how many it has made, so that the next one has a number of its own.
    """
    home = Root.of(root)
    finish_forgetting(home, lock=lock)
    facts = json.loads(home.store.read(_facts_key(run_id)))
    run = Run(
        root=home,
        command=facts["command"],
        run_id=run_id,
        recipe_id=facts["recipe_id"],
        settings_json=canonical_json(facts["settings"]).decode(),
        lake=Lake(home.store, lock=lock),
        num_commits=num_commits,
    )
    run.mark("started")
    return run


def run_folder(root: Root, run_id: str) -> Path:
    """See `Run.folder`."""
    return root.scratch / _RUNS / run_id


def _facts_key(run_id: str) -> str:
    return f"{_RUNS}/{run_id}/{_FACTS}"


def git_commit() -> str:
    """Commit of the checkout that this code runs from; empty outside a repository."""
    command = ["git", "-C", str(_REPOSITORY), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""


def lock_sha256() -> str:
    """Hash of the lock file that the environment was made from; empty where it is not at hand."""
    path = _REPOSITORY / "requirements.lock"
    return sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
