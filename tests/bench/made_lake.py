"""A lake of any size, made of random rows: what questions cost does not depend on where the scores come from.

Five spans a source in the mean; about three in ten are rejected, half of them by their sound, so that they have no
scores of their pictures; one source in ten failed to be fetched.
"""

from pathlib import Path

import duckdb
from deltalake import write_deltalake

from pipeline.lake import Lake
from pipeline.lake_tables import table_schemas
from pipeline.recipe import Recipe, load_recipe

CLIPS_PER_SOURCE = 5
_KINDS = "['youtube', 'shorts', 'films', 'vggsound', 'games']"


_CLIPS = """
with numbered as (
    select n, n // {per_source} as source, n % {per_source} as place,
           (hash(n, 'snr') % 100000) / 2000.0 as snr_db, (hash(n, 'silence') % 100000) / 166666.0 as silence_ratio
    from range({num_clips}) numbers(n)
), heard as (
    select *, snr_db > 10 and silence_ratio < 0.5 as sounds from numbered
), seen as (
    select *, if(sounds, (hash(n, 'laplacian') % 100000) / 100.0, null) as laplacian_variance,
           if(sounds, (hash(n, 'cuts') % 100000) / 49000.0, null) as cuts_per_s
    from heard
), judged as (
    select *, sounds and laplacian_variance > 100 and cuts_per_s < 2 as kept from seen
)
select printf('%016x', hash(source)) as source_id,
       printf('%s-%08d-%08d', source_id, 10000 * place, 10000 * (place + 1)) as clip_id,
       '{recipe_id}' as recipe_id, 'run' as run_id, 'measure' as stage, 0::integer as pass_index,
       10.0::double * place as start_s, 10.0::double * (place + 1) as end_s,
       1280::integer as width_px, 720::integer as height_px, 'h264' as video_codec, 'aac' as audio_codec,
       720.0::double as short_side_px, 25.0::double as frame_rate_fps, 48000.0::double as sample_rate_hz,
       snr_db, silence_ratio, (hash(n, 'clipped') % 1000) / 250000.0 as clipped_ratio,
       -14.0 - (hash(n, 'loudness') % 1000) / 50.0 as loudness_lufs,
       8000.0 + hash(n, 'bandwidth') % 8000 as bandwidth_hz,
       if(sounds, (hash(n, 'speech') % 1000) / 1000.0, null) as speech_ratio,
       if(sounds, 60.0 + (hash(n, 'key') % 100000) / 100.0, null) as keyframe_laplacian_variance,
       laplacian_variance, cuts_per_s, if(sounds, (hash(n, 'motion') % 1000) / 100.0, null) as motion_score,
       if(kept, printf('staged/%s/%s-{recipe_id}.tar', source_id[:2], source_id), null) as bundle_key,
       if(kept, replace(bundle_key, '.tar', '.npy.tar'), null) as embedding_key,
       if(kept, 512 + 610000 * place, null) as mp4_offset_bytes,
       if(kept, 400000 + (hash(n, 'mp4') % 9999)::bigint, null) as mp4_bytes,
       if(kept, (hash(n, 'mp4') % 4294967296)::bigint, null) as mp4_crc32,
       mp4_offset_bytes + mp4_bytes + 1024 as flac_offset_bytes,
       if(kept, 180000 + (hash(n, 'flac') % 9999)::bigint, null) as flac_bytes,
       if(kept, (hash(n, 'flac') % 4294967296)::bigint, null) as flac_crc32,
       flac_offset_bytes + flac_bytes + 1024 as json_offset_bytes, if(kept, 800 + n % 100, null) as json_bytes,
       if(kept, (hash(n, 'json') % 4294967296)::bigint, null) as json_crc32,
       if(kept, 512 + 13824 * place, null) as clip_npy_offset_bytes,
       if(kept, 10368::bigint, null) as clip_npy_bytes,
       if(kept, (hash(n, 'clip') % 4294967296)::bigint, null) as clip_npy_crc32,
       if(kept, 11776 + 13824 * place, null) as clap_npy_offset_bytes,
       if(kept, 1152::bigint, null) as clap_npy_bytes,
       if(kept, (hash(n, 'clap') % 4294967296)::bigint, null) as clap_npy_crc32
from judged
"""
_SOURCES = f"""
select printf('%016x', hash(source)) as source_id, printf('https://example.org/v/%d', source) as url,
       {_KINDS}[1 + (hash(source, 'kind') % 5)::bigint] as kind,
       0.0::double as span_start_s, 'inf'::double as span_end_s,
       'run' as run_id, now() as added_at
from range({{num_sources}} * 10 // 9) numbers(source)
"""
_FETCHES = """
select printf('%016x', hash(source)) as source_id, '{recipe_id}' as recipe_id, 'run' as run_id,
       printf('https://example.org/v/%d', source) as url,
       printf('UC%d', hash(source, 'channel') % 200000) as channel_id,
       printf('uploader %d', hash(source, 'channel') % 200000) as uploader, 'cc-by' as licence,
       sha256(source::varchar) as sha256, printf('media/%s/%s.mp4', sha256[:2], sha256) as media_key,
       5000000::bigint as media_bytes, 0.0::double as media_start_s, now() as fetched_at
from range({num_sources}) numbers(source)
"""
_EMBEDDINGS = """
select clip_id, source_id, recipe_id, run_id, model_kind, 'tiny' as model, 'untrained' as weights,
       1::integer as num_vectors, 4::integer as num_dims, '\\x00\\x00'::blob as vectors_f16
from ({clips}), (select unnest(['clip', 'clap']) as model_kind) where bundle_key is not null
"""
_FAILURES = """
select printf('%016x', hash(source)) as subject_id, '{recipe_id}' as recipe_id, 'run' as run_id, 'fetch' as stage,
       ['gone', 'private', 'network', 'geo_blocked'][1 + (hash(source, 'code') % 4)::bigint] as code,
       'message' as message,
       'example.org' as host, 1::integer as attempt, now() as failed_at
from range({num_sources}, {num_sources} * 10 // 9) numbers(source)
"""
_RUNS = """
select 'run' as run_id, 'ingest' as command, 'done' as state, '{recipe_id}' as recipe_id,
       '{recipe_json}' as recipe_json, now() as recorded_at
"""


def make_lake(root: Path, *, num_clips: int) -> Recipe:
    """A lake of spans under the default recipe."""
    recipe = load_recipe("default", [])
    facts = {
        "recipe_id": recipe.recipe_id,
        "recipe_json": recipe.with_all_bounds().model_dump_json(),
        "per_source": CLIPS_PER_SOURCE,
        "num_clips": num_clips,
        "num_sources": num_clips // CLIPS_PER_SOURCE,
    }
    clips = _CLIPS.format(**facts)
    queries = {
        "clips": clips,
        "sources": _SOURCES.format(**facts),
        "fetches": _FETCHES.format(**facts),
        "embeddings": _EMBEDDINGS.format(clips=clips, **facts),
        "failures": _FAILURES.format(**facts),
        "runs": _RUNS.format(**facts),
    }
    Lake(root).create()
    connection = duckdb.connect(config={"memory_limit": "2GiB"})
    for name, sql in queries.items():
        names = [row[0] for row in connection.sql(f"describe {sql}").fetchall()]
        columns = ", ".join(column for column in table_schemas()[name].names if column in names)
        rows = connection.sql(f"select {columns} from ({sql})").to_arrow_reader(100_000)
        write_deltalake(str(root / "lake" / name), rows, mode="append", schema_mode="merge")
    return recipe
