"""The funnel: what became of everything that was put in, counted from the lake."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from infra.errors import IntegrityError
from pipeline.catalog import Catalog


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCount:
    """One line of the funnel; `num_in` is the sum of the others."""

    stage: str
    unit: str
    num_in: int
    num_kept: int
    num_rejected: int
    num_failed: int
    num_pending: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Funnel:
    """What became of everything that was put in, under one recipe."""

    recipe_id: str
    stages: tuple[StageCount, ...]
    reasons: tuple[tuple[str, int], ...]
    """Reject reason -> spans that have it, most frequent first; a span may have several."""
    failures: tuple[tuple[str, str, int], ...]
    """Stage, code -> sources."""
    failed_hosts: tuple["HostFailures", ...]
    """Most sources first."""
    kept_clips: int
    kept_duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFailures:
    """Sources of one host that failed in one way."""

    host: str
    code: str
    num_sources: int
    num_to_retry: int
    """Those that `avgen run` will try again."""
    next_retry_at: datetime | None
    """When the first of them may be."""


def read_funnel(catalog: Catalog, recipe_id: str) -> Funnel:
    """Counts per stage; for each, inputs = kept + rejected + failed + pending."""
    stages = (_fetch_count(catalog, recipe_id), *_later_counts(catalog, recipe_id))
    rows = catalog.rows(
        "select unnest(reject_reasons) as reason, count(*) from clips where recipe_id = ? group by 1"
        " order by 2 desc, 1",
        [recipe_id],
    )
    failures = catalog.rows(
        "select stage, code, count(*) from outcomes where recipe_id = ? and outcome = 'failed'"
        " group by 1, 2 order by 3 desc, 1, 2",
        [recipe_id],
    )
    kept_clips, kept_s = _one(
        catalog,
        "select count(*), coalesce(sum(end_s - start_s), 0) from clips where recipe_id = ? and kept",
        [recipe_id],
    )
    return Funnel(
        recipe_id=recipe_id,
        stages=stages,
        reasons=tuple(rows),
        failures=tuple(failures),
        failed_hosts=_failed_hosts(catalog, recipe_id),
        kept_clips=kept_clips,
        kept_duration_s=kept_s,
    )


def _failed_hosts(catalog: Catalog, recipe_id: str) -> tuple[HostFailures, ...]:
    rows = catalog.rows(
        """select coalesce(host, ''), code, count(*), count(next_retry_at), min(next_retry_at) from outcomes
           where recipe_id = ? and outcome = 'failed' group by 1, 2 order by 3 desc, 1, 2""",
        [recipe_id],
    )
    names = ("host", "code", "num_sources", "num_to_retry", "next_retry_at")
    return tuple(HostFailures(**dict(zip(names, row, strict=True))) for row in rows)


def _fetch_count(catalog: Catalog, recipe_id: str) -> StageCount:
    num_in, num_failed, num_pending = _one(
        catalog,
        """select count(*), count(*) filter (stage in ('expand', 'fetch')),
                  count(*) filter (outcome is null)
           from (select source_id from sources except select source_id from listed)
           left join (from outcomes where recipe_id = ?) using (source_id)""",
        [recipe_id],
    )
    return StageCount(
        stage="fetch",
        unit="sources",
        num_in=num_in,
        num_kept=num_in - num_failed - num_pending,
        num_rejected=0,
        num_failed=num_failed,
        num_pending=num_pending,
    )


def _later_counts(catalog: Catalog, recipe_id: str) -> tuple[StageCount, ...]:
    curated, kept, rejected, failed = _one(
        catalog,
        """select count(*), count(*) filter (outcome = 'kept'), count(*) filter (outcome = 'rejected'),
                  count(*) filter (outcome = 'failed')
           from outcomes where recipe_id = ? and coalesce(stage, '') not in ('expand', 'fetch')""",
        [recipe_id],
    )
    spans, kept_spans, rejected_spans = _one(
        catalog,
        """select count(*), count(*) filter (kept), count(*) filter (not kept)
           from clips where recipe_id = ?""",
        [recipe_id],
    )
    (embedded,) = _one(
        catalog,
        """select count(*) from (select clip_id from embeddings where recipe_id = ?
           group by 1 having count(distinct model_kind) = 2)""",
        [recipe_id],
    )
    return (
        _count("curate", "sources", curated, kept, rejected, failed),
        _count("measure", "spans", spans, kept_spans, rejected_spans, 0),
        _count("embed", "clips", kept_spans, embedded, 0, 0),
    )


def _one(catalog: Catalog, sql: str, parameters: Sequence[Any]) -> tuple[Any, ...]:
    (row,) = catalog.rows(sql, parameters)
    return row


def _count(
    stage: str, unit: str, num_in: int, num_kept: int, num_rejected: int, num_failed: int
) -> StageCount:
    return StageCount(
        stage=stage,
        unit=unit,
        num_in=num_in,
        num_kept=num_kept,
        num_rejected=num_rejected,
        num_failed=num_failed,
        num_pending=0,
    )


def require_complete(funnel: Funnel) -> None:
    """Check the promise that nothing is unaccounted for.

    Raises:
        IntegrityError: a stage lost or invented something.
    """
    fetch, curate, measure, embed = funnel.stages
    if (fetch.num_kept, measure.num_kept) != (curate.num_in, embed.num_in):
        raise IntegrityError(
            f"what one stage keeps must enter the next, got {fetch.num_kept} fetched and {curate.num_in} curated"
            f" sources, {measure.num_kept} kept and {embed.num_in} embedded clips (recipe {funnel.recipe_id})"
        )
    for count in funnel.stages:
        total = count.num_kept + count.num_rejected + count.num_failed + count.num_pending
        if count.num_in != total:
            raise IntegrityError(
                f"inputs must equal kept + rejected + failed at stage {count.stage},"
                f" got {count.num_in} and {total} (recipe {funnel.recipe_id})"
            )
