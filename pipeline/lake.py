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

from filters.registry import all_filters
from infra.errors import ConfigError
from infra.storage import fresh_folder, sync
from shards.schema import BUNDLE_MEMBERS

_JOURNAL = "_journal"
_TIME = pa.timestamp("us", "UTC")


def _schema(**columns: pa.DataType | str) -> pa.Schema:
    return pa.schema(
        [(name, pa.type_for_alias(t) if isinstance(t, str) else t) for name, t in columns.items()]
    )


def member_columns(ext: str) -> tuple[str, str, str]:
    """Columns of `clips`: where a file of a staged clip lies in its bundle, its length, its crc32."""
    return f"{ext}_offset_bytes", f"{ext}_bytes", f"{ext}_crc32"


def table_schemas() -> dict[str, pa.Schema]:
    """Columns of every table. `clips` has one for each registered filter, by the filter's name."""
    scores = {spec.name: "double" for spec in all_filters()}
    members = {column: "int64" for ext in BUNDLE_MEMBERS for column in member_columns(ext)}
    return {
        "sources": _schema(
            source_id="string", url="string", kind="string", span_start_s="double", span_end_s="double",
            run_id="string", added_at=_TIME,
        ),
        "listings": _schema(
            source_id="string", spec="string", entry_ids=pa.list_(pa.string()), next_index="int64",
            complete="bool", run_id="string", listed_at=_TIME,
        ),
        "fetches": _schema(
            source_id="string", recipe_id="string", run_id="string", url="string", title="string",
            uploader="string", channel_id="string", licence="string", extractor="string", format_id="string",
            webpage_url="string", upload_date="string", video_id="string", opt_out="string",
            tool_versions="string", problem="string", fetched_at=_TIME, media_key="string", sha256="string",
            media_bytes="int64", media_start_s="double",
        ),
        "clips": _schema(
            clip_id="string", source_id="string", recipe_id="string", run_id="string", stage="string",
            start_s="double", end_s="double", width_px="int32", height_px="int32", **scores, kept="bool",
            reject_reasons=pa.list_(pa.string()), video_codec="string", audio_codec="string",
            bundle_key="string", **members,
        ),
        "embeddings": _schema(
            clip_id="string", source_id="string", recipe_id="string", run_id="string", model_kind="string",
            model="string", weights="string", num_vectors="int32", num_dims="int32", vectors_f16="binary",
        ),
        "failures": _schema(
            subject_id="string", recipe_id="string", run_id="string", stage="string", code="string",
            message="string", host="string", attempt="int32", failed_at=_TIME, next_retry_at=_TIME,
        ),
        "hosts": _schema(
            host="string", code="string", reason="string", paused_until=_TIME, run_id="string", paused_at=_TIME,
        ),
        "blocks": _schema(kind="string", value="string", reason="string", run_id="string", added_at=_TIME),
        "datasets": _schema(
            dataset="string", version="int32", recipe_id="string", run_id="string", sql="string", seed="int64",
            samples_per_shard="int32", num_samples="int64", num_sources="int64", num_shards="int32",
            duration_s="double", manifest_sha256="string", packed_at=_TIME,
        ),
        "samples": _schema(
            dataset="string", version="int32", clip_id="string", source_id="string", shard="string",
            offset_bytes="int64",
        ),
        "shards": _schema(
            dataset="string", version="int32", shard="string", uri="string", sha256="string",
            shard_bytes="int64", num_samples="int32",
        ),
        "runs": _schema(
            run_id="string", command="string", state="string", recipe_id="string", recipe_json="string",
            git_commit="string", lock_sha256="string", recorded_at=_TIME,
        ),
    }  # fmt: skip


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
