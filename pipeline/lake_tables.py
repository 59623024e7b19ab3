"""The tables of the lake: their names, their columns, what one row is.

`clips` holds what was measured, not what follows from it: which clips are kept is computed from the scores and the
bounds of the day (`verdict_sql.py`). A source that is curated once more has rows with a higher `pass_index`, which
stand for all that it had before.
"""

import pyarrow as pa

from filters.registry import all_filters
from shards.manifest import member_columns
from shards.schema import SAMPLE_MEMBERS

_TIME = pa.timestamp("us", "UTC")


def _schema(**columns: pa.DataType | str) -> pa.Schema:
    return pa.schema(
        [(name, pa.type_for_alias(t) if isinstance(t, str) else t) for name, t in columns.items()]
    )


def table_schemas() -> dict[str, pa.Schema]:
    """Columns of every table. `clips` has one for each registered filter, by the filter's name."""
    scores = {spec.name: "double" for spec in all_filters()}
    members = {column: "int64" for ext in SAMPLE_MEMBERS for column in member_columns(ext)}
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
            pass_index="int32", start_s="double", end_s="double", width_px="int32", height_px="int32", **scores,
            faults=pa.list_(pa.string()), video_codec="string", audio_codec="string", bundle_key="string",
            embedding_key="string", **members,
        ),
        "embeddings": _schema(
            clip_id="string", source_id="string", recipe_id="string", run_id="string", model_kind="string",
            model="string", weights="string", num_vectors="int32", num_dims="int32", vectors_f16="binary",
        ),
        "fingerprints": _schema(
            clip_id="string", source_id="string", recipe_id="string", run_id="string", kind="string",
            version="int32", num_codes="int32", codes="binary",
        ),
        "duplicate_pairs": _schema(
            clip_id="string", other_clip_id="string", recipe_id="string", method="string", similarity="double",
            run_id="string", found_at=_TIME,
        ),
        "duplicates": _schema(
            clip_id="string", source_id="string", recipe_id="string", group_id="string",
            methods=pa.list_(pa.string()), run_id="string", found_at=_TIME,
        ),
        "failures": _schema(
            subject_id="string", recipe_id="string", run_id="string", stage="string", code="string",
            message="string", host="string", attempt="int32", failed_at=_TIME, next_retry_at=_TIME,
        ),
        "hosts": _schema(
            host="string", code="string", reason="string", paused_until=_TIME, run_id="string", paused_at=_TIME,
        ),
        "blocks": _schema(kind="string", value="string", reason="string", run_id="string", added_at=_TIME),
        "forgotten": _schema(
            kind="string", sha256="string", num_sources="int64", num_clips="int64", num_files="int64",
            num_samples="int64", run_id="string", forgotten_at=_TIME,
        ),
        "datasets": _schema(
            dataset="string", version="int32", recipe_id="string", run_id="string", sql="string", seed="int64",
            samples_per_shard="int32", num_samples="int64", num_sources="int64", num_shards="int32",
            duration_s="double", mixture_json="string", recipe_json="string", lake_version="string",
            manifest_sha256="string", packed_at=_TIME,
        ),
        "samples": _schema(
            dataset="string", version="int32", split="string", clip_id="string", source_id="string",
            shard="string", offset_bytes="int64",
        ),
        "shards": _schema(
            dataset="string", version="int32", split="string", shard="string", home_version="int32", uri="string",
            sha256="string", shard_bytes="int64", num_samples="int32",
        ),
        "runs": _schema(
            run_id="string", command="string", state="string", recipe_id="string", recipe_json="string",
            git_commit="string", lock_sha256="string", recorded_at=_TIME,
        ),
    }  # fmt: skip
