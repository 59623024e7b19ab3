"""The ways in which clips are compared: what is read of the lake for each, and which pairs are duplicates in
the end.

A picture shared for one moment only (a title, a logo) is a `glimpse`. It and a picture that is shared for
less than `min_similarity` count where the sound is the same as well; sound or meaning alone do not, unless
the recipe says so, but both together do.

C clips, M moments, N vectors of D numbers, P pairs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dedup.bands import Bands, as_words
from dedup.matching import CodeSets, likeness
from dedup.meaning import mean_vector, meaning_bands, meaning_codes
from dedup.picture import PARTS, picture_bands
from dedup.sound import sound_bands
from pipeline.catalog import Catalog
from pipeline.dedup_config import DedupConfig
from pipeline.fingerprint_clip import PICTURE_KIND, PICTURE_VERSION, SOUND_KIND, SOUND_VERSION

METHODS = ("exact", "picture", "glimpse", "audio", "semantic")
EXACT, PICTURE, GLIMPSE, AUDIO, SEMANTIC = range(len(METHODS))

_CODES = """
select distinct on (clip_id) clip_id, codes from fingerprints
where recipe_id = ? and kind = ? and version = ? and {} order by clip_id"""
_NAMED = "clip_id in (select unnest(?::varchar[]))"
_VECTORS = """
select distinct on (clip_id) clip_id, num_dims, vectors_f16 from embeddings
where recipe_id = ? and model_kind = 'clip' and weights != 'untrained' and {} order by clip_id"""
_MODELS = """
select count(distinct (model, weights)) filter (weights != 'untrained'), count(*) from embeddings
where recipe_id = ? and model_kind = 'clip'"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Pairs of clips, the one whose name is smaller first."""

    clips_P2: NDArray[np.int64]
    method_P: NDArray[np.int64]
    """Places in `METHODS`."""
    similarity_P: NDArray[np.float64]

    @staticmethod
    def joined(parts: Sequence["Pairs"]) -> "Pairs":
        """All pairs of several lots."""
        return Pairs(
            clips_P2=np.concatenate([np.empty((0, 2), np.int64), *(part.clips_P2 for part in parts)]),
            method_P=np.concatenate([np.empty(0, np.int64), *(part.method_P for part in parts)]),
            similarity_P=np.concatenate([np.empty(0), *(part.similarity_P for part in parts)]),
        )

    def where(self, wanted_P: NDArray[np.bool_]) -> "Pairs":
        """Some of the pairs."""
        return Pairs(
            clips_P2=self.clips_P2[wanted_P],
            method_P=self.method_P[wanted_P],
            similarity_P=self.similarity_P[wanted_P],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Codes:
    """Codes of some clips, as they are read."""

    ids: pa.ChunkedArray
    num_C: NDArray[np.int64]
    """Moments of each."""
    codes_MSW: NDArray[np.uint64]


Read = Callable[[str, Sequence[object]], Codes]
"""A condition over `clip_id` with its parameters -> the codes of those clips, by their names."""
Judge = Callable[[pa.Array, NDArray[np.int64]], Pairs]
"""Names of clips and pairs of places among them that may be alike -> the pairs that are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A way of comparing clips by codes."""

    name: str
    bands: Bands
    read: Read
    judge: Judge
    skipped: str = ""
    """Why it cannot be done; empty when it can."""


def code_methods(catalog: Catalog, recipe_id: str, config: DedupConfig) -> list[Method]:
    """The methods that the recipe enables."""
    methods = []
    if config.picture.enabled:
        methods.append(_picture_method(catalog, recipe_id, config))
    if config.audio.enabled:
        methods.append(_audio_method(catalog, recipe_id, config))
    if config.semantic.enabled:
        methods.append(_semantic_method(catalog, recipe_id, config))
    return methods


def picture_pairs(sets: CodeSets, pairs_P2: NDArray[np.int64], bands: Bands, config: DedupConfig) -> Pairs:
    """Clips that share enough of what they show."""
    like = likeness(sets, pairs_P2, bands)
    is_picture_P = (like.num_shared_P >= config.picture.min_moments) | (like.similarity_P == 1)
    pairs = Pairs(
        clips_P2=pairs_P2,
        method_P=np.where(is_picture_P, PICTURE, GLIMPSE),
        similarity_P=like.similarity_P,
    )
    return pairs.where(like.similarity_P >= config.picture.min_similarity_with_audio)


def audio_pairs(sets: CodeSets, pairs_P2: NDArray[np.int64], bands: Bands, config: DedupConfig) -> Pairs:
    """Clips that share enough of what is heard."""
    like = likeness(sets, pairs_P2, bands)
    pairs = Pairs(clips_P2=pairs_P2, method_P=np.full(len(pairs_P2), AUDIO), similarity_P=like.similarity_P)
    is_enough_P = like.num_shared_P >= config.audio.min_moments
    return pairs.where(is_enough_P & (like.similarity_P >= config.audio.min_similarity))


def linked_pairs(pairs: Pairs, config: DedupConfig) -> tuple[Pairs, NDArray[np.float64]]:
    """The pairs that make their clips duplicates, and how strong the link between the two is, by all methods."""
    unique_U2, place_P = np.unique(pairs.clips_P2, axis=0, return_inverse=True)
    best_MU = np.zeros((len(METHODS), len(unique_U2)))
    np.maximum.at(best_MU, (pairs.method_P, place_P.reshape(-1)), pairs.similarity_P)
    picture_U, audio_U, semantic_U = best_MU[PICTURE], best_MU[AUDIO], best_MU[SEMANTIC]
    has_audio_U = audio_U >= config.audio.min_similarity
    has_meaning_U = semantic_U >= config.semantic.min_cosine
    seen_U = np.maximum(picture_U, best_MU[GLIMPSE])
    linked_U = (
        (best_MU[EXACT] > 0)
        | (picture_U >= config.picture.min_similarity)
        | (has_audio_U & (seen_U >= config.picture.min_similarity_with_audio))
        | (has_audio_U & (has_meaning_U | config.audio.links))
        | (has_meaning_U & config.semantic.links)
    )
    linked_P = linked_U[place_P.reshape(-1)]
    return pairs.where(linked_P), best_MU.sum(axis=0)[place_P.reshape(-1)][linked_P]


def _picture_method(catalog: Catalog, recipe_id: str, config: DedupConfig) -> Method:
    bands = picture_bands(max_distance=config.picture.max_distance_bits)
    read = _reader(catalog, (recipe_id, PICTURE_KIND, PICTURE_VERSION), num_parts=len(PARTS))

    def judge(ids: pa.Array, pairs_P2: NDArray[np.int64]) -> Pairs:
        return picture_pairs(_sets(read, ids), pairs_P2, bands, config)

    return Method(name=METHODS[PICTURE], bands=bands, read=read, judge=judge)


def _audio_method(catalog: Catalog, recipe_id: str, config: DedupConfig) -> Method:
    bands = sound_bands(max_distance=config.audio.max_distance_bits)
    read = _reader(catalog, (recipe_id, SOUND_KIND, SOUND_VERSION), num_parts=1)

    def judge(ids: pa.Array, pairs_P2: NDArray[np.int64]) -> Pairs:
        return audio_pairs(_sets(read, ids), pairs_P2, bands, config)

    return Method(name=METHODS[AUDIO], bands=bands, read=read, judge=judge)


def _sets(read: Read, ids: pa.Array) -> CodeSets:
    """All codes of the named clips, which are in order."""
    codes = read(_NAMED, [ids.to_pylist()])
    num_C = np.zeros(len(ids), np.int64)
    num_C[np.asarray(pc.index_in(codes.ids, value_set=ids))] = codes.num_C
    return CodeSets(codes_MSW=codes.codes_MSW, num_C=num_C)


def _reader(catalog: Catalog, origin: tuple[object, ...], *, num_parts: int) -> Read:
    def read(condition: str, parameters: Sequence[object]) -> Codes:
        table = catalog.query(_CODES.format(condition), [*origin, *parameters])
        lengths, values = _bytes_of(table["codes"])
        codes_MSW = as_words(values.reshape(-1, 32)).reshape(-1, num_parts, 4)
        return Codes(ids=table["clip_id"], num_C=lengths // (32 * num_parts), codes_MSW=codes_MSW)

    return read


def _bytes_of(column: pa.ChunkedArray) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Length of every value, and all of them one after another."""
    array = pa.concat_arrays(column.cast(pa.large_binary()).chunks or [pa.array([], pa.large_binary())])
    offsets = (
        np.frombuffer(array.buffers()[1], np.int64, len(array) + 1, array.offset * 8) if len(array) else [0]
    )
    data = array.buffers()[2]
    values = np.frombuffer(data, np.uint8) if data else np.empty(0, np.uint8)
    return np.diff(offsets), values[offsets[0] : offsets[-1]]


def _semantic_method(catalog: Catalog, recipe_id: str, config: DedupConfig) -> Method:
    ((num_models, num_rows),) = catalog.rows(_MODELS, [recipe_id])
    skipped = ""
    if num_rows and not num_models:
        skipped = "the embeddings are of untrained weights, which say nothing; set embed.clip_weights"
    elif num_models > 1:
        skipped = "the embeddings come from several models, which cannot be compared"

    def vectors(condition: str, parameters: Sequence[object]) -> tuple[pa.ChunkedArray, NDArray[np.float32]]:
        table = catalog.query(_VECTORS.format(condition), [recipe_id, *parameters])
        rows = zip(table["vectors_f16"].to_pylist(), table["num_dims"].to_pylist(), strict=True)
        means = [mean_vector(np.frombuffer(data, "<f2").reshape(-1, num_dims)) for data, num_dims in rows]
        return table["clip_id"], np.stack(means) if means else np.empty((0, 1), np.float32)

    def read(condition: str, parameters: Sequence[object]) -> Codes:
        ids, vector_CD = vectors(condition, parameters)
        codes_MSW = as_words(meaning_codes(vector_CD)).reshape(-1, 1, 4)
        return Codes(ids=ids, num_C=np.ones(len(ids), np.int64), codes_MSW=codes_MSW)

    def judge(ids: pa.Array, pairs_P2: NDArray[np.int64]) -> Pairs:
        _, vector_CD = vectors(_NAMED, [ids.to_pylist()])
        cosine_P = np.einsum("pd,pd->p", *(vector_CD[side_P] for side_P in pairs_P2.T)).astype(np.float64)
        pairs = Pairs(clips_P2=pairs_P2, method_P=np.full(len(pairs_P2), SEMANTIC), similarity_P=cosine_P)
        return pairs.where(cosine_P >= config.semantic.min_cosine)

    return Method(name=METHODS[SEMANTIC], bands=meaning_bands(), read=read, judge=judge, skipped=skipped)
