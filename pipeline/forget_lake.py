"""Tables of the lake without what is forgotten, and with the blocks and the audit rows that stay.

Rows that stay but speak of what goes are written anew: set aside under the intent, deleted with the others, and
appended. What was set aside is there until all is done, so this may be cut short anywhere and done again.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from hashlib import sha256
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.config import canonical_json
from infra.store import Store
from pipeline.catalog import Catalog
from pipeline.forget_bundles import tar_members
from pipeline.forget_intent import ROWS, TOKEN, Intent
from pipeline.lake import Lake
from pipeline.lake_rows import Row
from pipeline.lake_tables import table_schemas
from pipeline.pack_dataset import finished_versions
from shards.manifest import INDEX_NAME, Manifest, member_columns, shard_key, version_key
from shards.reader import read_manifest
from shards.schema import BUNDLE_MEMBERS, EMBEDDING_MEMBERS

_ALL_ASIDE = f"{ROWS}/complete"
_IDS_PER_CONDITION = 500
_ROWS_PER_COMMIT = 100_000
_SOURCE_OF_KEY = r"^(.*)-[^-]*-[^-]*$"
"""As `shards.schema.source_of`."""
_BY_SOURCE = (
    "sources", "listings", "fetches", "clips", "embeddings", "fingerprints", "duplicates", "samples",
)  # fmt: skip
_BY_CLIP = (
    ("clips", "clip_id"), ("embeddings", "clip_id"), ("fingerprints", "clip_id"), ("duplicates", "clip_id"),
    ("samples", "clip_id"), ("failures", "subject_id"),
)  # fmt: skip
_TEXTS = {
    "failures": ("subject_id", ("message",)),
    "hosts": ("host", ("reason",)),
    "runs": ("run_id", ("recipe_json",)),
    "blocks": ("reason", ("reason",)),
}
"""Tables with texts that may name what goes: the column that finds the rows again, and the texts."""
_FOUND_BY = {"listings": "source_id", "clips": "source_id", "duplicates": "clip_id", "blocks": "value"}
"""Columns that find the rows again of tables of which rows are set aside."""
_NAMING = """
select {column} from {table} where regexp_matches({text}, $1)
union select {column} from (select {column}, unnest(regexp_extract_all({text}, $2)) as token from {table})
where rtrim(token, '.:') in (select unnest($3))
"""
"""Rows of a table with a text that names what goes."""


def forget_rows(root: Store, lake: Lake, intent: Intent, catalog: Callable[[], Catalog]) -> None:
    """Take what goes out of every table, and leave no byte of it in any file of the lake.

    Versions of datasets are as they will be by now.
    """
    if root.size_bytes(_ALL_ASIDE) is None:
        _set_aside(root, intent, catalog())
        root.write(_ALL_ASIDE, b"")
    tables = [file.key for file in root.files(ROWS) if file.key.endswith(".parquet")]
    aside = {
        key.rpartition("/")[2].removesuffix(".parquet"): pq.read_table(pa.BufferReader(root.read(key)))
        for key in tables
    }
    for conditions in _rounds([*_conditions(intent), *_conditions_of(aside)]):
        lake.delete(conditions)
    # A name of its own: what an attempt before has appended was deleted just now.
    attempt = f"forget-{uuid4().hex}"
    batches = [{name: table.to_pylist()} for name, table in aside.items()]
    batches += [_lasting_rows(intent), *_version_rows(root, intent, aside)]
    for batch_index, rows in enumerate(batches):
        lake.commit(rows, run_id=attempt, batch_index=batch_index)
    lake.purge()


# ---- what goes ----


def _conditions(intent: Intent) -> Iterator[tuple[str, str]]:
    """Tables and conditions of what is deleted in them."""
    for chunk in _chunks(intent.source_ids):
        yield from ((name, f"source_id in ({chunk})") for name in _BY_SOURCE)
        yield "failures", f"subject_id in ({chunk})"
    for chunk in _chunks(intent.lone_clip_ids):
        yield from ((name, f"{column} in ({chunk})") for name, column in _BY_CLIP)
    for chunk in _chunks(intent.clip_ids):
        yield "duplicate_pairs", f"clip_id in ({chunk}) or other_clip_id in ({chunk})"
    for chunk in _chunks([value for _, value in (*intent.plain_blocks, *intent.blocks)]):
        yield "blocks", f"value in ({chunk})"
    if intent.versions:
        versions = " or ".join(f"(dataset = {_text(name)} and version = {k})" for name, k in intent.versions)
        yield from ((name, versions) for name in ("samples", "shards", "datasets"))
    yield "forgotten", f"run_id = {_text(intent.run_id)}"


def _conditions_of(aside: Mapping[str, pa.Table]) -> Iterator[tuple[str, str]]:
    """The rows as they were of what was set aside."""
    columns = {name: column for name, (column, _) in _TEXTS.items()} | _FOUND_BY
    for name, table in aside.items():
        if name == "datasets":
            for row in table.select(["dataset", "version"]).to_pylist():
                yield name, f"dataset = {_text(row['dataset'])} and version = {row['version']}"
        else:
            for chunk in _chunks(pc.unique(table[columns[name]]).to_pylist()):
                yield name, f"{columns[name]} in ({chunk})"


def _rounds(conditions: Iterable[tuple[str, str]]) -> Iterator[dict[str, str]]:
    """The same as one condition a table, as often as there are several for one."""
    by_table: dict[str, list[str]] = {}
    for name, condition in conditions:
        by_table.setdefault(name, []).append(condition)
    for number in range(max(map(len, by_table.values()))):
        yield {name: some[number] for name, some in by_table.items() if number < len(some)}


def _chunks(values: Sequence[str]) -> Iterator[str]:
    for begin in range(0, len(values), _IDS_PER_CONDITION):
        yield ", ".join(map(_text, values[begin : begin + _IDS_PER_CONDITION]))


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


# ---- what stays, as it will be ----


def _set_aside(root: Store, intent: Intent, catalog: Catalog) -> None:
    root.delete([file.key for file in root.files(ROWS)])
    rows = {
        "listings": _listings(intent, catalog),
        "clips": _clips(root, intent, catalog),
        "duplicates": _duplicates(intent, catalog),
        "datasets": _datasets(root, intent, catalog),
        **{name: _texts(name, intent, catalog) for name in _TEXTS},
    }
    for name, table_rows in rows.items():
        if table_rows:
            sink = pa.BufferOutputStream()
            pq.write_table(pa.Table.from_pylist(table_rows, schema=table_schemas()[name]), sink)
            root.write(f"{ROWS}/{name}.parquet", sink.getvalue().to_pybytes())


def _listings(intent: Intent, catalog: Catalog) -> list[Row]:
    """Pages that named a source that goes, without it; all pages of that listing, for they are found by it."""
    rows = _rows(
        catalog,
        """select * from listings where source_id not in (select unnest($1)) and source_id in (
               select source_id from listings where list_has_any(entry_ids, $1))""",
        [list(intent.source_ids)],
    )
    gone = set(intent.source_ids)
    return [row | {"entry_ids": [one for one in row["entry_ids"] if one not in gone]} for row in rows]


def _clips(root: Store, intent: Intent, catalog: Catalog) -> list[Row]:
    """Clips of sources of which only some go; what lies in a bundle that was written anew has new places."""
    if not intent.lone_clip_ids:
        return []
    rows = _rows(
        catalog,
        """select * from raw.clips where clip_id not in (select unnest($1))
           and source_id in (select unnest($2))""",
        [list(intent.clip_ids), sorted({clip_id.rsplit("-", 2)[0] for clip_id in intent.lone_clip_ids})],
    )
    places: dict[tuple[str, str, str], int] = {}
    for key in intent.cut_keys:
        if root.size_bytes(key) is not None:
            with root.open(key) as stream:
                places |= {(key, one.key, one.ext): one.offset_bytes for one in tar_members(stream)}
    return [row | _places(row, places) for row in rows]


def _places(row: Row, places: Mapping[tuple[str, str, str], int]) -> Row:
    """Columns of a clip that lies in a bundle that was written anew."""
    changed = {}
    for column, extensions in (("bundle_key", BUNDLE_MEMBERS), ("embedding_key", EMBEDDING_MEMBERS)):
        for ext in extensions:
            offset_bytes = places.get((row[column], row["clip_id"], ext))
            if offset_bytes is not None:
                changed[member_columns(ext)[0]] = offset_bytes
    return changed


def _duplicates(intent: Intent, catalog: Catalog) -> list[Row]:
    """Members of groups that were named after a clip that goes: the smallest that stays gives the name now."""
    rows = _rows(
        catalog,
        """with renamed as (
               select recipe_id, group_id, min(clip_id) as new_id from raw.duplicates
               where group_id in (select unnest($1)) and clip_id not in (select unnest($1)) group by all
           ), clips_of as (select distinct clip_id from raw.duplicates join renamed using (recipe_id, group_id)
               where clip_id not in (select unnest($1)))
           select d.*, new_id from raw.duplicates d left join renamed using (recipe_id, group_id)
           where clip_id in (from clips_of)""",
        [list(intent.clip_ids)],
    )
    for row in rows:
        row["group_id"] = row.pop("new_id") or row["group_id"]
    return rows


def _datasets(root: Store, intent: Intent, catalog: Catalog) -> list[Row]:
    """Versions of which something went, or whose texts named it."""
    texts = ("sql", "mixture_json", "recipe_json")
    rows = []
    for row in _rows(catalog, "from datasets", []):
        is_touched = (row["dataset"], row["version"]) in intent.versions
        new = {name: row[name] and intent.redact(row[name]) for name in texts}
        if not is_touched and all(row[name] == new[name] for name in texts):
            continue
        manifest = _manifest(root, row["dataset"], row["version"])
        if manifest is not None:
            rows.append(row | new | _totals(manifest))
    return rows


def _totals(manifest: Manifest) -> Row:
    return {
        "num_samples": manifest.num_samples,
        "num_sources": manifest.num_sources,
        "num_shards": len(manifest.shards),
        "duration_s": manifest.duration_s,
        "manifest_sha256": sha256(manifest.to_bytes()).hexdigest(),
    }


def _texts(name: str, intent: Intent, catalog: Catalog) -> list[Row]:
    """Rows of a table that name what goes, without its name; all rows that its column finds together."""
    column, texts = _TEXTS[name]
    found = " union ".join(_NAMING.format(column=column, text=text, table=name) for text in texts)
    stays = "subject_id not in (select unnest($4))" if name == "failures" else "len($4) >= 0"
    sql = f"select * from {name} where {stays} and {column} in ({found})"
    parameters = [
        intent.pattern,
        TOKEN.pattern,
        sorted(intent.tokens),
        [*intent.source_ids, *intent.clip_ids],
    ]
    rows = [
        row | {text: row[text] and _redacted(row[text], intent) for text in texts}
        for row in _rows(catalog, sql, parameters)
    ]
    gone = {*intent.plain_blocks, *intent.blocks}
    return [row for row in rows if name != "blocks" or (row["kind"], row["value"]) not in gone]


def _redacted(text: str, intent: Intent) -> str:
    """The text without the words; of JSON only what its strings hold, so that it stays what it is."""
    try:
        tree = json.loads(text)
    except json.JSONDecodeError:
        return intent.redact(text)
    return canonical_json(redacted_tree(tree, intent.redact)).decode() if isinstance(tree, dict) else text


def redacted_tree(tree: Any, redact: Callable[[str], str]) -> Any:
    """A tree of JSON with its strings redacted; keys are names of settings."""
    if isinstance(tree, dict):
        return {key: redacted_tree(value, redact) for key, value in tree.items()}
    if isinstance(tree, list):
        return [redacted_tree(value, redact) for value in tree]
    return redact(tree) if isinstance(tree, str) else tree


# ---- what is new ----


def _lasting_rows(intent: Intent) -> dict[str, list[Row]]:
    """The audit, and the blocks as hashes."""
    at = datetime.fromisoformat(intent.forgotten_at)
    audit = {
        "num_files": intent.num_files,
        "num_samples": intent.num_samples,
        "run_id": intent.run_id,
        "forgotten_at": at,
    }
    blocks = [
        {"kind": kind, "value": value, "reason": "forgotten", "run_id": intent.run_id, "added_at": at}
        for kind, value in intent.blocks
    ]
    return {"forgotten": [asdict(entry) | audit for entry in intent.entries], "blocks": blocks}


def _version_rows(
    root: Store, intent: Intent, aside: Mapping[str, pa.Table]
) -> Iterator[dict[str, list[Row]]]:
    """Samples and shards of the versions that were written anew, of those that the lake knows."""
    known = aside["datasets"].select(["dataset", "version"]).to_pylist() if "datasets" in aside else []
    for name, version in intent.versions:
        manifest = _manifest(root, name, version)
        if manifest is None or {"dataset": name, "version": version} not in known:
            continue
        versions = root.below(f"datasets/{name}")
        for batch in _sample_rows(versions, manifest):
            yield {"samples": batch}
        yield {"shards": _shard_rows(versions, manifest)}


def _sample_rows(versions: Store, manifest: Manifest) -> Iterator[list[Row]]:
    columns = ["key", "shard", "split", "mp4_offset_bytes"]
    with versions.local_copy(version_key(manifest.version, INDEX_NAME)) as path:
        for batch in pq.ParquetFile(path).iter_batches(_ROWS_PER_COMMIT, columns=columns):
            key, shard, split, offset_bytes = batch.columns
            table = pa.table(
                {
                    "split": split,
                    "clip_id": key,
                    "source_id": pc.replace_substring_regex(key, _SOURCE_OF_KEY, r"\1"),
                    "shard": shard,
                    "offset_bytes": offset_bytes,
                }
            )
            origin = {"dataset": manifest.name, "version": manifest.version}
            yield [origin | row for row in table.to_pylist()]


def _shard_rows(versions: Store, manifest: Manifest) -> list[Row]:
    return [
        {
            "dataset": manifest.name,
            "version": manifest.version,
            "split": shard.split,
            "shard": shard.name,
            "home_version": shard.home_version,
            "uri": f"{versions.url}/{shard_key(shard)}",
            "sha256": shard.sha256,
            "shard_bytes": shard.shard_bytes,
            "num_samples": shard.num_samples,
        }
        for shard in manifest.shards
    ]


def _manifest(root: Store, name: str, version: int) -> Manifest | None:
    versions = root.below(f"datasets/{name}")
    return read_manifest(versions, version) if version in finished_versions(versions) else None


def _rows(catalog: Catalog, sql: str, parameters: Sequence[Any]) -> list[Row]:
    return catalog.query(sql, parameters).to_pylist()
