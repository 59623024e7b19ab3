"""The lake: Delta tables that only grow, and a journal that makes a batch over several tables all or nothing.

A batch is first written whole to `lake/_journal/`, one file, then appended table by table under the batch's number
as application transaction id, then its file is removed. A kill leaves the file; the next writer replays it, and
tables that have the number already are passed over. So nothing is lost and nothing is there twice.
"""

import io
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import DeltaError, TableNotFoundError

from infra.errors import ConfigError
from infra.object_store import ObjectStore
from infra.store import LocalStore, Store
from infra.store_lock import HELD_BY_KERNEL, StoreLock
from pipeline.lake_tables import table_schemas
from pipeline.lake_upkeep import NO_HOOKS, TABLE_PROPERTIES, keep_up, purge_table

_JOURNAL = "_journal"


class LiveTable(NamedTuple):
    """What a table holds at a version."""

    schema: pa.Schema
    files: list[str]
    """Parquet files: paths, or URLs of an object store."""
    version: int


class Lake:
    """The tables under a root, for one writer at a time."""

    def __init__(self, root: Path | Store, *, lock: StoreLock = HELD_BY_KERNEL) -> None:
        """Argument: `lock`, by which the writer holds the root; it is looked at before each commit."""
        self._store, self._lock = _lake_store(root), lock
        self._schemas = table_schemas()

    def held_by(self, lock: StoreLock) -> None:
        """From now on the writer holds the root by another lock."""
        self._lock = lock

    def check_lock(self) -> None:
        """Look that the writer still holds the root, before something that another one must not see twice."""
        self._lock.check()

    def create(self) -> None:
        """Make the tables that are missing, then finish what a killed writer had begun."""
        with _store_errors(self._store):
            for name, schema in self._schemas.items():
                store = self._store.below(name)
                options = _storage_options(store)
                DeltaTable.create(
                    store.url, schema, mode="ignore", configuration=TABLE_PROPERTIES, storage_options=options
                )
        # Drafts: their batches were never committed and their work will be done again.
        self._store.sweep(_JOURNAL)
        for entry in [file.key for file in self._store.files(_JOURNAL)]:
            self._apply(entry, self._store.read(entry))

    def commit(self, rows: Mapping[str, list[dict]], *, run_id: str, batch_index: int) -> None:
        """Append rows to several tables: after this returns all are there, and after a kill all or none will be.

        Args:
            rows: table name -> rows; a column that a row does not name is null.
            batch_index: counts the commits of a run from 0.
        """
        entry = f"{_JOURNAL}/{run_id}-{batch_index:08d}.zip"
        batch = _pack(
            {
                name: pa.Table.from_pylist(table_rows, schema=self._schemas[name])
                for name, table_rows in rows.items()
                if table_rows
            }
        )
        self._lock.check()
        self._store.write(entry, batch)
        self._apply(entry, batch)

    def delete(self, conditions: Mapping[str, str]) -> None:
        """Delete rows: table name -> SQL condition. Their bytes stay until `purge`.

        Batches that a killed writer had promised come first, so that none of them brings a row back.
        """
        self.create()
        with _store_errors(self._store):
            for name, condition in conditions.items():
                self._table(name).delete(condition, post_commithook_properties=NO_HOOKS)

    def purge(self) -> None:
        """Leave no byte under `lake/` of a row that was deleted; older versions of the tables are gone, too.

        Whoever is reading the lake meanwhile may have to begin again. In a bucket that keeps older versions of its
        objects they stay until its own rules expire them.
        """
        self.create()
        self._store.delete([file.key for file in self._store.files(_JOURNAL)])
        with _store_errors(self._store):
            for name in self._schemas:
                purge_table(self._table(name), self._store.below(name))

    def versions(self) -> dict[str, int]:
        """Table name -> its version."""
        with _store_errors(self._store):
            return {name: self._table(name).version() for name in self._schemas}

    def _apply(self, entry: str, batch: bytes) -> None:
        run_id, _, number = entry.removeprefix(f"{_JOURNAL}/").removesuffix(".zip").rpartition("-")
        with _store_errors(self._store):
            for name, rows in _unpack(batch):
                self._lock.check()
                self._append(name, rows, Transaction(run_id, int(number)))
        self._store.delete([entry])

    def _append(self, name: str, rows: pa.Table, transaction: Transaction) -> None:
        table = self._table(name)
        done_index = table.transaction_version(transaction.app_id)
        if done_index is not None and done_index >= transaction.version:
            return
        since_version = table.version()
        write_deltalake(
            table,
            rows,
            mode="append",
            schema_mode="merge",
            commit_properties=CommitProperties(app_transactions=[transaction]),
            post_commithook_properties=NO_HOOKS,
        )
        keep_up(table, self._store.below(name), since_version=since_version)

    def _table(self, name: str) -> DeltaTable:
        return _live_table(self._store, name)


def live_tables(root: Path | Store) -> dict[str, LiveTable]:
    """Every table of a root that has a lake, as it is now.

    Raises:
        ConfigError: a table is missing, because the run that was to make it was killed or knew fewer tables.
    """
    store = _lake_store(root)
    with _store_errors(store):
        tables = {name: _live_table(store, name) for name in table_schemas()}
    # `file_uris` quotes as URLs do, and readers of paths do not unquote; no table is partitioned.
    return {
        name: LiveTable(
            schema=pa.schema(table.schema().to_arrow()),
            files=[f"{store.below(name).url}/{uri.rpartition('/')[2]}" for uri in table.file_uris()],
            version=table.version(),
        )
        for name, table in tables.items()
    }


def lake_files(root: Path | Store) -> dict[str, tuple[pa.Schema, list[str]]]:
    """Schema and live Parquet files of every table: see `live_tables`."""
    return {name: (table.schema, table.files) for name, table in live_tables(root).items()}


def _lake_store(root: Path | Store) -> Store:
    return (LocalStore(root) if isinstance(root, Path) else root).below("lake")


def _live_table(lake: Store, name: str) -> DeltaTable:
    store = lake.below(name)
    try:
        return DeltaTable(store.url, storage_options=_storage_options(store))
    except TableNotFoundError as err:
        raise ConfigError(
            f"a lake must hold all of its tables, {name} is missing in {lake.url};"
            " run `avgen run` again, which makes it"
        ) from err


def _storage_options(store: Store) -> dict[str, str]:
    """What the Delta library needs beside the environment, which it reads for itself."""
    return store.library_options() if isinstance(store, ObjectStore) else {}


@contextmanager
def _store_errors(store: Store) -> Iterator[None]:
    """Our names for what the Delta library raises when an object store fails; errors of a disk stay."""
    try:
        yield
    except (DeltaError, OSError) as err:
        if not isinstance(store, ObjectStore):
            raise
        raise store.told(err, "") from None


def _pack(tables: Mapping[str, pa.Table]) -> bytes:
    """Tables as Parquet files of one zip file; Parquet is compressed already."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as batch:
        for name, table in tables.items():
            with batch.open(f"{name}.parquet", "w") as file:
                pq.write_table(table, file)
    return stream.getvalue()


def _unpack(batch: bytes) -> Iterator[tuple[str, pa.Table]]:
    with zipfile.ZipFile(io.BytesIO(batch)) as stored:
        for file_name in sorted(stored.namelist()):
            yield file_name.removesuffix(".parquet"), pq.read_table(io.BytesIO(stored.read(file_name)))
