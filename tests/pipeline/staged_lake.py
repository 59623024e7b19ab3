"""A lake whose clips are staged already: bundles of made-up bytes, as ingest would leave them, in no time."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from filters.registry import Bounds, all_filters
from infra.store import LocalStore, Store
from pipeline.lake import Lake
from pipeline.recipe import Recipe, load_recipe
from shards.manifest import ShardRecord, member_columns
from shards.schema import npy_bytes
from shards.writer import ShardWriter
from tests.shards.made_samples import MODELS, make_staged_meta

CLIPS_PER_SOURCE = 3
_NOW = datetime(2026, 11, 23, tzinfo=UTC)


def stage_sources(root: Path, numbers: Iterable[int], *, run_id: str, store: Store | None = None) -> Recipe:
    """Add sources to a root: each has a channel of its own, three kept clips, and one rejected by its sound."""
    recipe = load_recipe("demo", [])
    lake = Lake(root)
    lake.create()
    rows: dict[str, list[dict]] = {"sources": [], "fetches": [], "clips": [], "embeddings": []}
    for number in numbers:
        for table, of_source in _source(number, recipe, store or LocalStore(root)).items():
            rows[table] += of_source
    run = {
        "command": "ingest",
        "state": "done",
        "recipe_json": recipe.with_all_bounds().model_dump_json(),
        "recorded_at": _NOW,
    }
    rows["runs"] = [run]
    for one in (row for table in rows.values() for row in table):
        one |= {"run_id": run_id, "recipe_id": recipe.recipe_id}
    for one in rows["sources"]:
        del one["recipe_id"]
    lake.commit(rows, run_id=run_id, batch_index=0)
    return recipe


def source_id_of(number: int) -> str:
    return f"{number:016x}"


def _source(number: int, recipe: Recipe, store: Store) -> dict[str, list[dict]]:
    source_id = source_id_of(number)
    rng = np.random.default_rng(number)
    stem = f"staged/{source_id[:2]}/{source_id}-{recipe.recipe_id}"
    metas = [_meta(source_id, place, recipe) for place in range(CLIPS_PER_SOURCE)]
    with ShardWriter(store, f"{stem}.tar") as media, ShardWriter(store, f"{stem}.npy.tar") as embeddings:
        for meta in metas:
            members = {"mp4": rng.bytes(2000 + number), "flac": rng.bytes(1000), "json": meta.to_json_bytes()}
            media.write(meta.clip_id, members)
            clip_ND, clap_D = rng.random((10, 4)), rng.random(6)
            arrays = {"clip.npy": clip_ND.astype(np.float16), "clap.npy": clap_D.astype(np.float16)}
            embeddings.write(meta.clip_id, {ext: npy_bytes(array) for ext, array in arrays.items()})
    keys = {"bundle_key": f"{stem}.tar", "embedding_key": f"{stem}.npy.tar"}
    clips = [
        _clip_row(source_id, place, snr_db=20.0 + place)
        | keys
        | _places(meta.clip_id, [media.record, embeddings.record])
        for place, meta in enumerate(metas)
    ]
    clips.append(_clip_row(source_id, CLIPS_PER_SOURCE, snr_db=-20.0))
    return {
        "sources": [
            _with_origin({"source_id": source_id, "kind": "dir", "added_at": _NOW, "span_start_s": 0.0})
        ],
        "fetches": [
            _with_origin(
                {"source_id": source_id, "licence": ["CC-BY-4.0", ""][number % 2], "fetched_at": _NOW}
            )
            | {"channel_id": f"UC{number}", "uploader": f"uploader {number}"}
        ],
        "clips": clips,
        "embeddings": [
            {
                "clip_id": meta.clip_id,
                "source_id": source_id,
                "model_kind": kind,
                "model": model,
                "weights": weights,
            }
            for meta in metas
            for kind, model, weights in (
                ("clip", MODELS.clip_model, MODELS.clip_weights),
                ("clap", MODELS.clap_model, MODELS.clap_weights),
            )
        ],
    }


def _with_origin(row: dict) -> dict:
    return row | {"url": f"https://example.org/{row['source_id']}"}


def _meta(source_id: str, place: int, recipe: Recipe):
    meta = make_staged_meta(_clip_id(source_id, place), source_id=source_id, start_s=10.0 * place)
    return replace(meta, recipe_id=recipe.recipe_id)


def _clip_id(source_id: str, place: int) -> str:
    return f"{source_id}-{10_000 * place:08d}-{10_000 * (place + 1):08d}"


def _clip_row(source_id: str, place: int, *, snr_db: float) -> dict:
    """Scores that every bound lets pass, but for one."""
    scores = {spec.name: _inside(spec.keep) for spec in all_filters() if spec.keep != Bounds()}
    return {
        "clip_id": _clip_id(source_id, place),
        "source_id": source_id,
        "stage": "measure",
        "pass_index": 0,
        "start_s": 10.0 * place,
        "end_s": 10.0 * (place + 1),
        "width_px": 640,
        "height_px": 480,
        **scores,
        "snr_db": snr_db,
    }


def _inside(bounds: Bounds) -> float:
    low = bounds.min if math.isfinite(bounds.min) else min(bounds.max, 1.0) - 1
    return (low + min(bounds.max, low + 1)) / 2


def _places(clip_id: str, records: Sequence[ShardRecord]) -> dict[str, int]:
    members = [member for record in records for member in record.by_key()[clip_id]]
    return {
        column: value
        for member in members
        for column, value in zip(member_columns(member.ext), member[2:], strict=True)
    }
