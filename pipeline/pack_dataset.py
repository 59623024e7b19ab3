"""Stage: kept clips -> shards. A dataset is a query: the bytes are copied out of bundles, nothing is decoded."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from infra.errors import ConfigError, IntegrityError
from pipeline.catalog import Catalog
from pipeline.lake_tables import member_columns
from shards.manifest import FORMAT_VERSION, MANIFEST_NAME, Manifest, MemberRecord, ShardRecord
from shards.plan import plan_shards, shard_name
from shards.reader import read_staged_clip
from shards.schema import BUNDLE_MEMBERS, EmbeddingModels, Sample, StagedMeta
from shards.writer import ShardWriter

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_VERSION = re.compile(r"v[1-9][0-9]*")

_SELECT = """
with selected as ({selection})
select s.clip_id, s.source_id, s.end_s - s.start_s as duration_s, s.bundle_key,
       {members},
       picture.model as clip_model, picture.weights as clip_weights, picture.num_vectors, picture.num_dims,
       picture.vectors_f16 as clip_f16,
       sound.model as clap_model, sound.weights as clap_weights, sound.vectors_f16 as clap_f16
from selected s
left join embeddings picture
  on picture.clip_id = s.clip_id and picture.recipe_id = s.recipe_id and picture.model_kind = 'clip'
left join embeddings sound
  on sound.clip_id = s.clip_id and sound.recipe_id = s.recipe_id and sound.model_kind = 'clap'
order by s.clip_id
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedClip:
    """Where the members of one sample come from."""

    clip_id: str
    source_id: str
    duration_s: float
    bundle_key: str
    members: tuple[MemberRecord, ...]
    """Its files in the bundle."""
    clip_ND: NDArray[np.float16]
    clap_D: NDArray[np.float16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The clips that a query selects, with the models that embedded them."""

    sql: str
    recipe_id: str
    models: EmbeddingModels
    clips: tuple[PackedClip, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardShare:
    """One shard to be written."""

    root: Path
    path: Path
    models: EmbeddingModels
    clips: tuple[PackedClip, ...]


def check_dataset_name(name: str) -> None:
    """Raises `ConfigError` unless `name` can be a folder and a column value."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"a dataset name must be 1 to 64 letters, digits, _ and -, got {name!r}")


def selection_sql(catalog: Catalog, *, recipe_id: str, where: str) -> str:
    """The query for the kept clips of a recipe that satisfy a condition over the columns of `clips`.

    Raises:
        ConfigError: the condition is no SQL expression, would not select the same again, or selects nothing.
    """
    sql = f"select * from clips where recipe_id = '{recipe_id}' and kept and ({catalog.condition(where)})"
    if catalog.query(f"{sql} limit 1").num_rows == 0:
        raise ConfigError(
            f"a dataset must hold at least one clip, none satisfies: {where} (recipe {recipe_id}); "
            "loosen --where or look at `avgen status`"
        )
    return sql


def select_clips(catalog: Catalog, *, recipe_id: str, where: str) -> Selection:
    """The clips that `selection_sql` is the query for, with their embeddings, ordered by id.

    Raises:
        ConfigError: see `selection_sql`.
        IntegrityError: a kept clip lacks an embedding, or they come from several models.
    """
    sql = selection_sql(catalog, recipe_id=recipe_id, where=where)
    members = ", ".join(f"s.{name}" for ext in BUNDLE_MEMBERS for name in member_columns(ext))
    rows = catalog.query(_SELECT.format(selection=sql, members=members)).to_pylist()
    bare = [row["clip_id"] for row in rows if row["clip_f16"] is None or row["clap_f16"] is None]
    if bare:
        raise IntegrityError(
            f"every kept clip must have both embeddings, {len(bare)} lack one, first {bare[0]}"
        )
    models = {
        EmbeddingModels(**{key: row[key] for key in EmbeddingModels.__dataclass_fields__}) for row in rows
    }
    if len(models) > 1:
        raise IntegrityError(f"the embeddings of a recipe must come from one pair of models, got {models}")
    return Selection(sql=sql, recipe_id=recipe_id, models=models.pop(), clips=tuple(map(_packed_clip, rows)))


def plan_shares(
    selection: Selection, *, root: Path, dataset_dir: Path, seed: int, samples_per_shard: int
) -> list[ShardShare]:
    """Which clip goes into which shard."""
    by_id = {clip.clip_id: clip for clip in selection.clips}
    plan = plan_shards(list(by_id), seed=seed, samples_per_shard=samples_per_shard)
    return [
        ShardShare(
            root=root,
            path=dataset_dir / shard_name(index),
            models=selection.models,
            clips=tuple(by_id[clip_id] for clip_id in clip_ids),
        )
        for index, clip_ids in enumerate(plan)
    ]


def write_share(share: ShardShare) -> ShardRecord:
    """Write one shard; return what it holds.

    Raises:
        IntegrityError: a bundle is missing or does not hold the bytes that the lake says.
    """
    with ShardWriter(share.path) as writer:
        for clip in share.clips:
            sample = _sample(clip, share)
            writer.write(sample.key, sample.to_members())
    return writer.record


def make_manifest(
    selection: Selection,
    shards: Sequence[ShardRecord],
    *,
    name: str,
    version: int,
    seed: int,
    samples_per_shard: int,
) -> Manifest:
    """The manifest of the finished shards."""
    return Manifest(
        format_version=FORMAT_VERSION,
        name=name,
        version=version,
        recipe_id=selection.recipe_id,
        seed=seed,
        samples_per_shard=samples_per_shard,
        sql=selection.sql,
        num_samples=len(selection.clips),
        num_sources=len({clip.source_id for clip in selection.clips}),
        duration_s=sum(clip.duration_s for clip in selection.clips),
        models=selection.models,
        shards=tuple(sorted(shards, key=lambda shard: shard.name)),
    )


def finished_versions(versions_dir: Path) -> list[int]:
    """The versions whose manifest is in place, ascending."""
    folders = (path.parent.name for path in versions_dir.glob(f"v*/{MANIFEST_NAME}"))
    return sorted(int(name[1:]) for name in folders if _VERSION.fullmatch(name))


def latest_version(versions_dir: Path) -> int:
    """The highest finished version; 0 when there is none."""
    return max(finished_versions(versions_dir), default=0)


def same_content(manifest: Manifest, selection: Selection, *, seed: int, samples_per_shard: int) -> bool:
    """Whether packing the selection would write the shards that the manifest describes."""
    held = {member.key for shard in manifest.shards for member in shard.members}
    return (
        (manifest.seed, manifest.samples_per_shard) == (seed, samples_per_shard)
        and (manifest.sql, manifest.models) == (selection.sql, selection.models)
        and held == {clip.clip_id for clip in selection.clips}
    )


def _packed_clip(row: dict) -> PackedClip:
    members = (
        MemberRecord(row["clip_id"], ext, *(row[column] for column in member_columns(ext)))
        for ext in BUNDLE_MEMBERS
    )
    return PackedClip(
        clip_id=row["clip_id"],
        source_id=row["source_id"],
        duration_s=row["duration_s"],
        bundle_key=row["bundle_key"],
        members=tuple(members),
        clip_ND=np.frombuffer(row["clip_f16"], "<f2").reshape(row["num_vectors"], row["num_dims"]),
        clap_D=np.frombuffer(row["clap_f16"], "<f2"),
    )


def _sample(clip: PackedClip, share: ShardShare) -> Sample:
    payload = read_staged_clip(share.root / clip.bundle_key, clip.members)
    return Sample(
        key=clip.clip_id,
        mp4=payload["mp4"],
        flac=payload["flac"],
        meta=StagedMeta.from_json_bytes(payload["json"]).with_embeddings(share.models),
        clip_embedding_ND=clip.clip_ND,
        clap_embedding_D=clip.clap_D,
    )
