"""The lake: Delta tables that only grow, and a journal that makes a batch over several tables all or nothing.

A batch is first written whole to `lake/_journal/`, then appended table by table under the batch's number as
application transaction id, then the journal entry is removed. A kill leaves the entry; the next writer replays
it, and tables that have the number already are passed over. So nothing is lost and nothing is there twice.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import TableNotFoundError

from infra.errors import ConfigError
from infra.storage import fresh_folder, sync
from pipeline.lake_tables import table_schemas

_JOURNAL = "_journal"


class Lake:
    """The tables under a root, for one writer at a time."""

    def __init__(self, root: Path) -> None:
        self._dir = root / "lake"
        self._schemas = table_schemas()

    def create(self) -> None:
        """Make the tables that are missing, then finish what a killed writer had begun."""
        for name, schema in self._schemas.items():
            DeltaTable.create(str(self._dir / name), schema=schema, mode="ignore")
        for entry in sorted((self._dir / _JOURNAL).glob("*")):
            if entry.name.startswith("."):
                # A draft: its batch was never committed and its work will be done again.
                shutil.rmtree(entry)
            else:
                self._apply(entry)

    def commit(self, rows: Mapping[str, list[dict]], *, run_id: str, batch_index: int) -> None:
        """Append rows to several tables: after this returns all are there, and after a kill all or none will be.

        Args:
            rows: table name -> rows; a column that a row does not name is null.
            batch_index: counts the commits of a run from 0.
        """
        entry = self._dir / _JOURNAL / f"{run_id}-{batch_index:08d}"
        draft = fresh_folder(entry.with_name(f".{entry.name}.tmp"))
        for name, table_rows in rows.items():
            if table_rows:
                path = draft / f"{name}.parquet"
                pq.write_table(pa.Table.from_pylist(table_rows, schema=self._schemas[name]), path)
                sync(path)
        sync(draft)
        draft.rename(entry)
        sync(entry.parent)
        self._apply(entry)

    def _apply(self, entry: Path) -> None:
        run_id, _, number = entry.name.rpartition("-")
        batch_index = int(number)
        for path in sorted(entry.glob("*.parquet")):
            table = DeltaTable(str(self._dir / path.stem))
            done_index = table.transaction_version(run_id)
            if done_index is not None and done_index >= batch_index:
                continue
            write_deltalake(
                table,
                pq.read_table(path),
                mode="append",
                schema_mode="merge",
                commit_properties=CommitProperties(app_transactions=[Transaction(run_id, batch_index)]),
            )
        shutil.rmtree(entry)


def lake_files(root: Path) -> dict[str, tuple[pa.Schema, list[str]]]:
    """Schema and live Parquet files of every table of a root that has a lake.

    Raises:
        ConfigError: a table is missing, because the run that was to make it was killed or knew fewer tables.
    """
    tables = {name: _live_table(root / "lake" / name) for name in table_schemas()}
    # `file_uris` quotes as URLs do, and readers of paths do not unquote; no table is partitioned.
    return {
        name: (
            pa.schema(t.schema().to_arrow()),
            [str(root / "lake" / name / Path(uri).name) for uri in t.file_uris()],
        )
        for name, t in tables.items()
    }


def _live_table(path: Path) -> DeltaTable:
    try:
        return DeltaTable(str(path))
    except TableNotFoundError as err:
        raise ConfigError(
            f"a lake must hold all of its tables, {path.name} is missing in {path.parent};"
            " run `avgen run` again, which makes it"
        ) from err
