"""What keeps a Delta table small while it grows: few files, a short log, and nothing of rows that were deleted.

Every `_PERIOD_VERSIONS` versions the committer merges small files, writes a checkpoint and drops the log before
the last but one. Any of these steps may be cut short by a kill: each one is a commit of its own or deletes what
nothing needs, and the next period does again what this one did not.
"""

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake
from deltalake.transaction import PostCommitHookProperties

from infra.store import Store

_LOG = "_delta_log"
_LAST_CHECKPOINT = f"{_LOG}/_last_checkpoint"
# Digits of the version that names of files in the log begin with. Source: Delta protocol, "Delta log entries".
_VERSION_DIGITS = 20
_PERIOD_VERSIONS = 32
# Files are merged in two steps, so that a row is written again a few times and not once a period.
_PERIODS_PER_LARGE_MERGE = 16
_SMALL_FILE_BYTES = 16 * 1024**2
_LARGE_FILE_BYTES = 256 * 1024**2
# A reader looks up the live files once and then reads them: this long at most after they were replaced.
READER_HOURS = 1
# Checkpoints come at the end of a period and nowhere else.
NO_HOOKS = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)
TABLE_PROPERTIES = {"delta.deletedFileRetentionDuration": f"interval {READER_HOURS} hours"}


def keep_up(table: DeltaTable, store: Store, *, since_version: int) -> None:
    """Upkeep of a table, if a period ended after `since_version`.

    Args:
        store: the table's folder.
    """
    num_periods = table.version() // _PERIOD_VERSIONS
    if num_periods == since_version // _PERIOD_VERSIONS:
        return
    is_large = num_periods % _PERIODS_PER_LARGE_MERGE == 0
    table.optimize.compact(
        target_size=_LARGE_FILE_BYTES if is_large else _SMALL_FILE_BYTES, post_commithook_properties=NO_HOOKS
    )
    table.create_checkpoint()
    _shorten_log(store)
    table.vacuum(
        retention_hours=READER_HOURS,
        dry_run=False,
        enforce_retention_duration=False,
        full=True,
        post_commithook_properties=NO_HOOKS,
    )


def purge_table(table: DeltaTable, store: Store) -> None:
    """Leave the live files and what is needed to read them, and no byte of anything else.

    A commit holds the least and greatest value of columns in each of its files, and the condition of a deletion:
    so the last commit is made one that speaks of no row, a checkpoint holds the rest, and all before goes.
    """
    no_rows = pa.schema(table.schema().to_arrow()).empty_table()
    write_deltalake(table, no_rows, mode="append", post_commithook_properties=NO_HOOKS)
    table.create_checkpoint()
    needed = {uri.rpartition("/")[2] for uri in table.file_uris()} | {_LAST_CHECKPOINT}
    last_commit = f"{_LOG}/{table.version():0{_VERSION_DIGITS}d}."
    files = [file.key for file in store.files()]
    store.delete(key for key in files if key not in needed and not key.startswith(last_commit))


def _shorten_log(store: Store) -> None:
    """Drop what lies before the checkpoint before the last: who reads now has begun with one of the two."""
    versions = {file.key: _version(file.key) for file in store.files(_LOG)}
    checkpoints = sorted(
        version for key, version in versions.items() if ".checkpoint" in key and version >= 0
    )
    if len(checkpoints) > 1:
        store.delete(key for key, version in versions.items() if 0 <= version < checkpoints[-2])


def _version(key: str) -> int:
    """The version that a file of the log belongs to; -1 when it names none."""
    digits = key.removeprefix(f"{_LOG}/")[:_VERSION_DIGITS]
    return int(digits) if digits.isdecimal() else -1
