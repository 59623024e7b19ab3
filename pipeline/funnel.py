"""The funnel: what became of everything that was put in, counted from the lake."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from infra.errors import IntegrityError
from pipeline.catalog import Catalog
from pipeline.verdict_sql import bounded, broken_sql


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
    missing: "Missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """Spans that the bounds of today admit as far as they were measured, and that were never encoded."""

    num_spans: int
    num_sources: int
    duration_s: float


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


# Spans are read and judged once, but counted twice: by what speaks against them, and by source. What is
# known of a span is one number: a bit for each bound that it breaks, one for a fault, one if it is staged.
_COUNTS = """
with judged as materialized (
    select source_id, {state} as state, clap_npy_bytes is not null as embedded, end_s - start_s as span_s
    from clips where recipe_id = $recipe_id
), by_source as materialized (
    select source_id, bool_or(state = {kept}) as kept, bool_or(state = 0) as missing from judged group by source_id
), failed as (
    select max_by({{stage: stage, code: code, host: coalesce(host, ''), due: next_retry_at}}, failed_at) as latest
    from failures where recipe_id = $recipe_id and subject_id not in (select source_id from listed)
    and subject_id not in (select source_id from by_source) group by subject_id
)
select 'spans' as counted, state, count(*), count_if(embedded), sum(span_s), null as failure from judged group by 2
union all
select 'sources', 0, count(*) filter (kept), count(*) filter (missing and not kept), count(*), null from by_source
union all
select 'failed', 0, count(*), count(latest.due), epoch(min(latest.due)),
       [latest.stage, latest.code, latest.host] from failed group by latest.stage, latest.code, latest.host
"""
_FAULTS = """
select unnest(faults), count(*) from clips where recipe_id = ? and faults is not null group by 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spans:
    """What was measured, and what it makes of its sources."""

    num_spans: int
    num_kept: int
    num_embedded: int
    kept_s: float
    num_missing: int
    missing_s: float
    num_sources: int
    num_kept_sources: int
    num_missing_sources: int
    """Sources with something missing and nothing kept."""
    reasons: Mapping[str, int]


def read_funnel(catalog: Catalog, recipe_id: str) -> Funnel:
    """Counts per stage; for each, inputs = kept + rejected + failed + pending."""
    spans, failed = _read_counts(catalog, recipe_id)
    failures: Counter[tuple[str, str]] = Counter()
    for stage, failure in failed:
        failures[stage, failure.code] += failure.num_sources
    return Funnel(
        recipe_id=recipe_id,
        stages=_stages(catalog, spans, failures),
        reasons=tuple(sorted(spans.reasons.items(), key=lambda item: (-item[1], item[0]))),
        failures=tuple(
            (stage, code, number)
            for (stage, code), number in sorted(failures.items(), key=lambda item: (-item[1], item[0]))
        ),
        failed_hosts=_failed_hosts([failure for _, failure in failed]),
        kept_clips=spans.num_kept,
        kept_duration_s=spans.kept_s,
        missing=Missing(
            num_spans=spans.num_missing,
            num_sources=_num_missing_sources(catalog, recipe_id, spans),
            duration_s=spans.missing_s,
        ),
    )


def _read_counts(catalog: Catalog, recipe_id: str) -> tuple[_Spans, list[tuple[str, HostFailures]]]:
    """What was measured, and what failed: the stage, and the sources by host and class."""
    bounds = catalog.bounds(recipe_id)
    names = bounded(bounds)
    tests = [
        *(broken_sql(name, bounds[name]) for name in names),
        "faults is not null",
        "mp4_bytes is not null",
    ]
    bits = " + ".join(f"if({test}, {1 << place}, 0)" for place, test in enumerate(tests))
    kept_state = 1 << len(names) + 1
    rows = catalog.rows(_COUNTS.format(state=bits, kept=kept_state), {"recipe_id": recipe_id})
    states = {state: tuple(numbers) for counted, state, *numbers, _ in rows if counted == "spans"}
    ((num_kept_sources, num_missing_sources, num_sources),) = (
        row[2:5] for row in rows if row[0] == "sources"
    )
    num_kept, num_embedded, kept_s = states.get(kept_state, (0, 0, 0.0))
    num_missing, _, missing_s = states.get(0, (0, 0, 0.0))
    reasons = Counter(dict(catalog.rows(_FAULTS, [recipe_id])))
    for state, (number, _, _) in states.items():
        reasons.update({name: number for place, name in enumerate(names) if state >> place & 1})
    spans = _Spans(
        num_spans=sum(numbers[0] for numbers in states.values()),
        num_kept=num_kept,
        num_embedded=num_embedded,
        kept_s=kept_s,
        num_missing=num_missing,
        missing_s=missing_s,
        num_sources=int(num_sources),
        num_kept_sources=num_kept_sources,
        num_missing_sources=num_missing_sources,
        reasons=reasons,
    )
    return spans, [_failure(row) for row in rows if row[0] == "failed"]


def _failure(row: tuple[Any, ...]) -> tuple[str, HostFailures]:
    _, _, num_sources, num_to_retry, due_s, (stage, code, host) = row
    next_retry_at = None if due_s is None else datetime.fromtimestamp(due_s, UTC)
    return stage, HostFailures(
        host=host, code=code, num_sources=num_sources, num_to_retry=num_to_retry, next_retry_at=next_retry_at
    )


def _num_missing_sources(catalog: Catalog, recipe_id: str, spans: _Spans) -> int:
    if not spans.num_missing:
        return 0
    sql = "select count(distinct source_id) from clips where recipe_id = ? and missing"
    return _one(catalog, sql, [recipe_id])[0]


def _failed_hosts(failed: Sequence[HostFailures]) -> tuple[HostFailures, ...]:
    """The same, whatever the stage; most sources first."""
    hosts: dict[tuple[str, str], HostFailures] = {}
    for failure in failed:
        key = (failure.host, failure.code)
        hosts[key] = _together(hosts[key], failure) if key in hosts else failure
    return tuple(sorted(hosts.values(), key=lambda found: (-found.num_sources, found.host, found.code)))


def _together(one: HostFailures, other: HostFailures) -> HostFailures:
    dues = [due for due in (one.next_retry_at, other.next_retry_at) if due]
    return replace(
        one,
        num_sources=one.num_sources + other.num_sources,
        num_to_retry=one.num_to_retry + other.num_to_retry,
        next_retry_at=min(dues, default=None),
    )


def _stages(
    catalog: Catalog, spans: _Spans, failures: Mapping[tuple[str, str], int]
) -> tuple[StageCount, ...]:
    (num_in,) = _one(
        catalog,
        """select (select count(*) from sources)
                - (select count(*) from listed where source_id in (select source_id from sources))""",
        [],
    )
    unfetched = sum(number for (stage, _), number in failures.items() if stage in ("expand", "fetch"))
    failed = sum(failures.values()) - unfetched
    num_rejected = spans.num_sources - spans.num_kept_sources - spans.num_missing_sources
    fetched = spans.num_sources + failed
    curated = (fetched, spans.num_kept_sources, num_rejected, failed, spans.num_missing_sources)
    rejected_spans = spans.num_spans - spans.num_kept - spans.num_missing
    return (
        _count("fetch", "sources", (num_in, fetched, 0, unfetched, num_in - fetched - unfetched)),
        _count("curate", "sources", curated),
        _count("measure", "spans", (spans.num_spans, spans.num_kept, rejected_spans, 0, spans.num_missing)),
        _count("embed", "clips", (spans.num_kept, spans.num_embedded, 0, 0, 0)),
    )


def _one(catalog: Catalog, sql: str, parameters: Sequence[Any]) -> tuple[Any, ...]:
    (row,) = catalog.rows(sql, parameters)
    return row


def _count(stage: str, unit: str, counts: Sequence[int]) -> StageCount:
    num_in, num_kept, num_rejected, num_failed, num_pending = counts
    return StageCount(
        stage=stage,
        unit=unit,
        num_in=num_in,
        num_kept=num_kept,
        num_rejected=num_rejected,
        num_failed=num_failed,
        num_pending=num_pending,
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
        if count.num_pending < 0:
            raise IntegrityError(
                f"what comes out of stage {count.stage} must have gone in, got {-count.num_pending} more"
                f" (recipe {funnel.recipe_id})"
            )
        total = count.num_kept + count.num_rejected + count.num_failed + count.num_pending
        if count.num_in != total:
            raise IntegrityError(
                f"inputs must equal kept + rejected + failed at stage {count.stage},"
                f" got {count.num_in} and {total} (recipe {funnel.recipe_id})"
            )
