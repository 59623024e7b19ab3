"""What earlier passes over a source left behind, for a run that makes only what is missing.

The driver writes it down once; every worker looks up the sources that it is given.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from crawl.fetch import FetchedMedia, Provenance
from crawl.frontier import FetchJob
from filters.registry import all_filters
from infra.root import Root
from infra.store import Store
from pipeline.catalog import Catalog
from pipeline.records import StagedClip
from pipeline.run_record import Run
from pipeline.screen_source import Scores
from shards.manifest import MemberRecord, member_columns
from shards.schema import BUNDLE_MEMBERS, EMBEDDING_MEMBERS

_CLIPS, _FETCHES = "clips.parquet", "fetches.parquet"
_ROWS_PER_GROUP = 2048
"""A worker reads one or two groups of rows for a source."""
_ORIGIN = ("media_key", "sha256", "media_bytes", "media_start_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierClip:
    """A span of a source as the last pass over it left it."""

    scores: Scores
    faults: tuple[str, ...]
    missing: bool
    """Whether nothing speaks against it, and yet it was never encoded."""
    staged: StagedClip | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierPass:
    """All spans of a source, by clip id; none of a source that is new."""

    pass_index: int = 0
    """Of the pass that comes now."""
    clips: Mapping[str, EarlierClip] = field(default_factory=dict)

    def is_staged(self, clip_id: str) -> bool:
        """Whether the clip was encoded before."""
        return clip_id in self.clips and self.clips[clip_id].staged is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierPasses:
    """The last passes over the sources of a run, in a store that all workers see."""

    store: Store

    def of(self, source_id: str) -> EarlierPass:
        """The spans of one source."""
        rows = list(self._rows(_CLIPS, [source_id]))
        if not rows:
            return EarlierPass()
        clips = {row["clip_id"]: _earlier_clip(row) for row in rows}
        return EarlierPass(pass_index=rows[0]["pass_index"] + 1, clips=clips)

    def media(self, job: FetchJob, root: Root) -> list[FetchedMedia] | None:
        """The files that were fetched for a job, while all of them are still in the store."""
        rows = {row["source_id"]: row for row in self._rows(_FETCHES, [item.source_id for item in job.items])}
        if len(rows) < len(job.items) or not all(_is_there(row, root) for row in rows.values()):
            return None
        return [_fetched(rows[item.source_id]) for item in job.items]

    def _rows(self, name: str, source_ids: Sequence[str]) -> Iterator[dict[str, Any]]:
        with self.store.open(name) as stream:
            wanted = pc.field("source_id").isin(list(source_ids))
            yield from pq.read_table(stream, filters=wanted).to_pylist()


def write_earlier_passes(catalog: Catalog, run: Run) -> EarlierPasses:
    """Write down the last passes over all sources that something is missing of."""
    recipe_id = run.recipe_id
    wanted = f"select source_id from clips where recipe_id = '{recipe_id}' and missing"
    clips = f"""select * from clips where recipe_id = '{recipe_id}' and source_id in ({wanted})
                order by source_id, clip_id"""
    fetches = f"""select distinct on (source_id) * from fetches
                  where recipe_id = '{recipe_id}' and source_id in ({wanted})
                  order by source_id, fetched_at desc"""
    for name, sql in ((_CLIPS, clips), (_FETCHES, fetches)):
        path = run.work_dir / name
        catalog.write_parquet(sql, path, row_group_rows=_ROWS_PER_GROUP)
        run.root.publish(path, f"{run.tmp_key}/{name}")
    return EarlierPasses(store=run.root.store.below(run.tmp_key))


def _earlier_clip(row: dict[str, Any]) -> EarlierClip:
    return EarlierClip(
        scores=tuple((spec.name, row[spec.name]) for spec in all_filters() if row[spec.name] is not None),
        faults=tuple(row["faults"] or ()),
        missing=row["missing"],
        staged=_staged_clip(row) if row["bundle_key"] else None,
    )


def _staged_clip(row: dict[str, Any]) -> StagedClip:
    return StagedClip(
        clip_id=row["clip_id"],
        bundle_key=row["bundle_key"],
        members=_members(row, BUNDLE_MEMBERS),
        embedding_key=row["embedding_key"],
        embedding_members=_members(row, EMBEDDING_MEMBERS),
    )


def _members(row: dict[str, Any], extensions: Sequence[str]) -> tuple[MemberRecord, ...]:
    return tuple(
        MemberRecord(row["clip_id"], ext, *(row[column] for column in member_columns(ext)))
        for ext in extensions
    )


def _is_there(row: dict[str, Any], root: Root) -> bool:
    return root.store.size_bytes(row["media_key"]) == row["media_bytes"]


def _fetched(row: dict[str, Any]) -> FetchedMedia:
    fetched_at = row["fetched_at"].astimezone(UTC)
    names = {spec.name for spec in fields(Provenance)} - {"fetched_at"}
    provenance = Provenance(**{name: row[name] or "" for name in names}, fetched_at=_iso(fetched_at))
    return FetchedMedia(
        source_id=row["source_id"],
        **{name: row[name] for name in _ORIGIN},
        provenance=provenance,
        is_new=False,
    )


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
