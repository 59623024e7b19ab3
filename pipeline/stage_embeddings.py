"""Stage: embeddings of a finished source -> a bundle beside that of its media, to be packed like them."""

from dataclasses import replace

from infra.store import Store
from pipeline.curate_source import bundle_stem
from pipeline.records import Curated, FinishedSource
from shards.manifest import MemberRecord
from shards.schema import npy_bytes
from shards.writer import ShardWriter


def stage_embeddings(source: FinishedSource, *, store: Store, recipe_id: str) -> FinishedSource:
    """The source with the places of its new clips' embeddings, which lie in their bundle then."""
    curated = source.outcome.curated
    if curated is None or not source.embeddings:
        return source
    stem = bundle_stem(source.outcome.item.source_id, recipe_id, curated.pass_index)
    key = f"{stem}.npy.tar"
    with ShardWriter(store, key) as bundle:
        for clip in source.embeddings:
            arrays = {"clip.npy": clip.clip_ND, "clap.npy": clip.clap_D}
            bundle.write(clip.clip_id, {ext: npy_bytes(array) for ext, array in arrays.items()})
    placed = _placed(curated, key, bundle.record.by_key())
    return replace(source, outcome=replace(source.outcome, curated=placed))


def _placed(curated: Curated, key: str, places: dict[str, tuple[MemberRecord, ...]]) -> Curated:
    staged = tuple(
        replace(clip, embedding_key=key, embedding_members=places[clip.clip_id])
        if clip.clip_id in places
        else clip
        for clip in curated.staged
    )
    return replace(curated, staged=staged)
