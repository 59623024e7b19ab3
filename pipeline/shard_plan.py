"""Selection -> plan: which sample goes into which shard of a version, and where its bytes are. All in SQL.

The order of a split is that of the sha256 of `<seed>/<clip_id>` (`shards.plan.hash_order`; its first 64 bits are
enough): clips of one source are spread over all shards, so that a reader which goes through a shard from front to
back meets unrelated clips. The sort is external, so there may be more clips than memory holds; nothing here makes
Python objects of all of them.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow.parquet as pq

from infra.errors import IntegrityError
from pipeline.catalog import Catalog
from pipeline.select_clips import Selection
from shards.manifest import Manifest, ShardEntry, member_columns
from shards.plan import PlannedShard, plan_shards
from shards.schema import SAMPLE_MEMBERS

PLAN_NAME = "plan.parquet"
PLAN_MEMORY_MIB = 1400
"""Memory of the catalog that plans: 1.6 GiB of the process. Source: tests/bench/bench_pack_plan.py, 2026-11-23."""
_SELECTED, _REUSED = "selected.parquet", "reused.parquet"
_ROWS_PER_GROUP = 20_480
"""DuckDB rounds it up to 2,048s, so that no group is a shard; a task reads the few groups that its rows are in."""

_STABLE_MEMBERS = tuple(ext for ext in SAMPLE_MEMBERS if ext != "json")
"""Members that are copied as they are; the json is written anew, but from nothing else that could change."""

# A kept clip whose bytes a shard holds already stays where it is, while all others of that shard do, too.
_REUSED_SHARDS = """
select h.shard from '{index}' h left join (
    select s.clip_id, s.split, {crcs} from '{selected}' s join clips c using (clip_id)
    where c.recipe_id = '{recipe_id}'
) now on now.clip_id = h.key and now.split = h.split and {same}
group by h.shard having bool_and(now.clip_id is not null) order by h.shard
"""
_PLAN = """
select s.split, s.clip_id, c.end_s - c.start_s as duration_s, c.bundle_key, c.embedding_key, {places}
from '{selected}' s join clips c using (clip_id) {not_reused}
where c.recipe_id = '{recipe_id}'
order by s.split, ('0x' || left(sha256('{seed}/' || s.clip_id), 16))::ubigint, s.clip_id
"""
_NOT_REUSED = """anti join (
    select key as clip_id from '{index}' semi join '{reused}' using (shard)
) held using (clip_id)"""
_NOT_STAGED = """
select count(*), min(clip_id) from '{plan}'
where bundle_key is null or coalesce(embedding_key, '') = '' or clap_npy_crc32 is null
"""
_TWICE = """
select count(*), min(clip_id) from (select clip_id, lag(clip_id) over () as previous from '{plan}')
where clip_id = previous
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackSettings:
    """What decides which sample goes into which shard, beside the samples."""

    seed: int
    samples_per_shard: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Previous:
    """The latest finished version of a dataset."""

    manifest: Manifest
    index: Path
    """Its index, as a local file."""

    def can_grow(self, selection: Selection, settings: PackSettings) -> bool:
        """Whether shards of it may be part of a version that is made so."""
        held = self.manifest
        return (held.seed, held.samples_per_shard, held.recipe_id, held.models) == (
            settings.seed,
            settings.samples_per_shard,
            selection.recipe_id,
            selection.models,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionPlan:
    """What a version will consist of."""

    path: Path
    """One row a sample that is to be written, in order: split, clip_id, duration_s, and where its members are."""
    selected: Path
    """All samples of the version: clip_id, split."""
    shards: tuple[PlannedShard, ...]
    """Those that are to be written."""
    reused: tuple[ShardEntry, ...]
    """Those of the previous version that stay as they are."""


def plan_version(
    catalog: Catalog,
    selection: Selection,
    settings: PackSettings,
    *,
    previous: Previous | None,
    next_index: Mapping[str, int],
    work_dir: Path,
) -> VersionPlan:
    """Plan a version; its file is in `work_dir`.

    Args:
        previous: a version whose shards may be used as they are.
        next_index: of the first new shard of a split.

    Raises:
        IntegrityError: a selected clip is not staged, or is selected twice.
    """
    plan_path = work_dir / PLAN_NAME
    names = {"recipe_id": selection.recipe_id, "seed": str(settings.seed)}
    names |= {"plan": _quoted(plan_path), "selected": _quoted(work_dir / _SELECTED)}
    catalog.write_parquet(selection.sql, work_dir / _SELECTED, row_group_rows=_ROWS_PER_GROUP)
    reused: tuple[ShardEntry, ...] = ()
    not_reused = ""
    if previous:
        names |= {"index": _quoted(previous.index), "reused": _quoted(work_dir / _REUSED)}
        catalog.write_parquet(_reused_sql(names), work_dir / _REUSED, row_group_rows=_ROWS_PER_GROUP)
        kept = {name for (name,) in catalog.rows(f"from '{names['reused']}'")}
        reused = tuple(shard for shard in previous.manifest.shards if shard.name in kept)
        not_reused = _NOT_REUSED.format(**names)
    places = ", ".join(f"c.{column}" for ext in SAMPLE_MEMBERS for column in member_columns(ext))
    sql = _PLAN.format(**names, places=places, not_reused=not_reused)
    catalog.write_parquet(sql, plan_path, row_group_rows=_ROWS_PER_GROUP)
    counts = _checked_counts(catalog, selection, reused, names=names)
    shards = plan_shards(counts, samples_per_shard=settings.samples_per_shard, next_index=next_index)
    return VersionPlan(path=plan_path, selected=work_dir / _SELECTED, shards=tuple(shards), reused=reused)


def read_plan(stream: BinaryIO, shard: PlannedShard) -> list[dict[str, Any]]:
    """The rows of one shard, out of the plan's file."""
    file = pq.ParquetFile(stream)
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    ends = list(accumulate(sizes))
    first_group = bisect_right(ends, shard.first_row)
    last_group = bisect_left(ends, shard.first_row + shard.num_samples)
    skipped = shard.first_row - (ends[first_group] - sizes[first_group])
    table = file.read_row_groups(range(first_group, last_group + 1))
    return table.slice(skipped, shard.num_samples).to_pylist()


def _reused_sql(names: Mapping[str, str]) -> str:
    crcs = [member_columns(ext)[2] for ext in _STABLE_MEMBERS]
    same = " and ".join(f"now.{crc} = h.{crc}" for crc in crcs)
    return _REUSED_SHARDS.format(**names, crcs=", ".join(f"c.{crc}" for crc in crcs), same=same)


def _checked_counts(
    catalog: Catalog, selection: Selection, reused: Sequence[ShardEntry], *, names: Mapping[str, str]
) -> dict[str, int]:
    """Samples of every split that are to be written. Raises `IntegrityError` unless they are what was selected."""
    for sql, what in ((_NOT_STAGED, "be staged and embedded"), (_TWICE, "be selected once")):
        ((count, first),) = catalog.rows(sql.format(**names))
        if count:
            raise IntegrityError(f"every selected clip must {what}, {count} are not, first {first}")
    planned = dict(catalog.rows(f"select split, count(*) from '{names['plan']}' group by split"))
    found = Counter(planned)
    for shard in reused:
        found[shard.split] += shard.num_samples
    selected = {count.split: count.num_clips for count in selection.counts}
    if found != selected:
        raise IntegrityError(f"the plan must hold the selected clips, {selected}, got {dict(found)}")
    return planned


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
