"""Records of the flow -> rows of the lake's tables."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import numpy as np

from crawl.items import SourceItem
from crawl.politeness import HostPause
from pipeline.recipe import EmbedConfig
from pipeline.records import ClipEmbeddings, Curated, Failed, FinishedSource, StagedClip, Verdict
from shards.manifest import member_columns

Row = dict[str, Any]


def source_row(item: SourceItem, *, run_id: str, now: datetime) -> Row:
    """A row of `sources`."""
    return {
        "source_id": item.source_id,
        "url": item.url,
        "kind": item.kind,
        "span_start_s": item.span_start_s,
        "span_end_s": item.span_end_s,
        "run_id": run_id,
        "added_at": now,
    }


def failure_row(
    failed: Failed, *, host: str, attempt: int, next_retry_at: datetime | None, now: datetime
) -> Row:
    """A row of `failures`, without the columns of the run.

    Args:
        attempt: counts the failures of the subject from 1.
        next_retry_at: when it may be tried again; `None` when asking again does not help.
    """
    return {
        "subject_id": failed.subject_id,
        "stage": failed.stage,
        "code": failed.code,
        "message": failed.message,
        "host": host,
        "attempt": attempt,
        "failed_at": now,
        "next_retry_at": next_retry_at,
    }


def pause_row(pause: HostPause, *, run_id: str, now: datetime) -> Row:
    """A row of `hosts`."""
    return {
        "host": pause.host,
        "code": pause.code,
        "reason": pause.reason,
        "paused_until": datetime.fromtimestamp(pause.until_s, UTC),
        "run_id": run_id,
        "paused_at": now,
    }


def finished_rows(
    sources: Iterable[FinishedSource], *, recipe_id: str, run_id: str, models: EmbedConfig
) -> dict[str, list[Row]]:
    """Rows of what became of finished sources; failures have rows of their own."""
    rows: dict[str, list[Row]] = {"fetches": [], "clips": [], "embeddings": [], "fingerprints": []}
    origin = {"recipe_id": recipe_id, "run_id": run_id}
    for source in sources:
        outcome = source.outcome
        if outcome.fetched and outcome.fetched.is_new:
            rows["fetches"].append(_fetch_row(source) | origin)
        if outcome.curated:
            rows["clips"] += [row | origin for row in _clip_rows(outcome.curated)]
            own = {"source_id": outcome.item.source_id} | origin
            rows["embeddings"] += [row | own for row in _embedding_rows(source.embeddings, models)]
            rows["fingerprints"] += [row | own for row in _fingerprint_rows(outcome.curated)]
    return rows


def _fetch_row(source: FinishedSource) -> Row:
    fetched = source.outcome.fetched
    assert fetched is not None
    origin = fetched.provenance
    return {
        "source_id": fetched.source_id,
        "media_key": fetched.media_key,
        "sha256": fetched.sha256,
        "media_bytes": fetched.media_bytes,
        "url": origin.url,
        "title": origin.title,
        "uploader": origin.uploader,
        "channel_id": origin.channel_id,
        "licence": origin.licence,
        "extractor": origin.extractor,
        "format_id": origin.format_id,
        "webpage_url": origin.webpage_url,
        "upload_date": origin.upload_date,
        "video_id": origin.video_id,
        "opt_out": origin.opt_out,
        "tool_versions": origin.tool_versions,
        "problem": origin.problem,
        "media_start_s": fetched.media_start_s,
        "fetched_at": datetime.fromisoformat(origin.fetched_at),
    }


def _clip_rows(curated: Curated) -> list[Row]:
    staged = {clip.clip_id: clip for clip in curated.staged}
    return [_clip_row(verdict, curated, staged.get(verdict.clip_id)) for verdict in curated.verdicts]


def _clip_row(verdict: Verdict, curated: Curated, staged: StagedClip | None) -> Row:
    probe = curated.probe
    row: Row = {
        "clip_id": verdict.clip_id,
        "source_id": verdict.source_id,
        "stage": verdict.stage,
        "start_s": verdict.start_s,
        "end_s": verdict.end_s,
        "width_px": probe.width_px,
        "height_px": probe.height_px,
        "video_codec": probe.video_codec,
        "audio_codec": probe.audio_codec,
        "pass_index": curated.pass_index,
        "faults": list(verdict.faults) or None,
        **dict(verdict.scores),
    }
    if staged:
        row |= {"bundle_key": staged.bundle_key, "embedding_key": staged.embedding_key}
        for member in staged.members + staged.embedding_members:
            place = (member.offset_bytes, member.member_bytes, member.crc32)
            row |= zip(member_columns(member.ext), place, strict=True)
    return row


def _fingerprint_rows(curated: Curated) -> list[Row]:
    return [
        {"clip_id": clip.clip_id, **asdict(fingerprint)}
        for clip in curated.staged
        for fingerprint in clip.fingerprints
    ]


def _embedding_rows(embeddings: Sequence[ClipEmbeddings], models: EmbedConfig) -> list[Row]:
    rows = []
    for clip in embeddings:
        clap_ND = clip.clap_D[np.newaxis]
        for kind, model, weights, vectors_ND in (
            ("clip", models.clip_model, clip.clip_weights, clip.clip_ND),
            ("clap", models.clap_model, clip.clap_weights, clap_ND),
        ):
            rows.append(
                {
                    "clip_id": clip.clip_id,
                    "model_kind": kind,
                    "model": model,
                    "weights": weights,
                    "num_vectors": vectors_ND.shape[0],
                    "num_dims": vectors_ND.shape[1],
                    "vectors_f16": vectors_ND.astype("<f2").tobytes(),
                }
            )
    return rows
