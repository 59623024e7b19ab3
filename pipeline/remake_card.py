"""The card and the lists of a dataset version that exists, from its manifest, its index and the lake."""

import json
from pathlib import Path

from filters.registry import Bounds
from infra.units import MS_PER_S
from pipeline.catalog import Catalog
from pipeline.dataset_card import card_files
from pipeline.dataset_plots import read_histograms
from pipeline.recipe import recorded_bounds
from pipeline.select_clips import Selection, ShareCount, SplitCount
from shards.manifest import Manifest
from shards.wids import list_name, shard_list, wids_index, wids_name

_COUNTS = """
with clips_of as (
    select clip_id, split, source_id, round({ms_per_s} * duration_s)::bigint as duration_ms
    from (select key as clip_id, split, duration_s, regexp_extract(key, '^(.*)-[^-]*-[^-]*$', 1) as source_id
          from read_parquet('{index}'))
), kinds as (select source_id, any_value(kind) as kind from sources group by 1
), licences as (select source_id, max_by(licence, fetched_at) as licence from fetches group by 1)
select {name} as name, count(*), count(distinct source_id), sum(duration_ms)
from clips_of left join kinds using (source_id) left join licences using (source_id)
group by 1 order by 4 desc, 1
"""
_NAMES = {
    "splits": "split",
    "kinds": "coalesce(kind, 'unknown')",
    "licences": "coalesce(nullif(licence, ''), 'not stated')",
}


def list_files(manifest: Manifest) -> dict[str, bytes]:
    """The lists of every split's shards, by their names in the version's folder."""
    files = {}
    for entry in manifest.splits:
        files[wids_name(entry.split)] = wids_index(manifest, entry.split)
        files[list_name(entry.split)] = shard_list(manifest, entry.split)
    return files


def remade_card(catalog: Catalog, manifest: Manifest, *, index: Path, work_dir: Path) -> dict[str, bytes]:
    """The files of the card. What each rule took out when the version was packed is not known any more.

    Args:
        index: of the version.
        work_dir: scratch.
    """
    selected = work_dir / "selected.parquet"
    keys = f"select key as clip_id from read_parquet('{_quoted(index)}')"
    catalog.write_parquet(keys, selected, row_group_rows=122_880)
    bounds = _bounds(catalog, manifest)
    counts = {what: _counts(catalog, name, index) for what, name in _NAMES.items()}
    selection = Selection(
        recipe_id=manifest.recipe_id,
        sql=manifest.sql,
        models=manifest.models,
        counts=tuple(
            SplitCount(split=name, num_clips=clips, num_sources=sources, duration_s=duration_s)
            for name, clips, sources, duration_s in counts["splits"]
        ),
        steps=(),
        kinds=_shares(counts["kinds"]),
        channels=(),
        licences=_shares(counts["licences"]),
    )
    histograms = read_histograms(catalog, recipe_id=manifest.recipe_id, selected=selected, bounds=bounds)
    return card_files(manifest, selection, bounds=bounds, histograms=histograms)


def _bounds(catalog: Catalog, manifest: Manifest) -> dict[str, Bounds]:
    """The bounds that the version was packed with; those of the latest run where the lake does not say."""
    rows = catalog.rows(
        "select recipe_json from datasets where dataset = ? and version = ? and recipe_json is not null",
        [manifest.name, manifest.version],
    )
    if rows and json.loads(rows[0][0]):
        return dict(recorded_bounds(rows[0][0]))
    return dict(catalog.bounds(manifest.recipe_id))


def _counts(catalog: Catalog, name: str, index: Path) -> list[tuple[str, int, int, float]]:
    rows = catalog.rows(_COUNTS.format(ms_per_s=MS_PER_S, index=_quoted(index), name=name))
    return [(what, clips, sources, int(ms) / MS_PER_S) for what, clips, sources, ms in rows]


def _shares(rows: list[tuple[str, int, int, float]]) -> tuple[ShareCount, ...]:
    return tuple(
        ShareCount(name=name, num_clips=clips, num_sources=sources, duration_s=duration_s)
        for name, clips, sources, duration_s in rows
    )


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
