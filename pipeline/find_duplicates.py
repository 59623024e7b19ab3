"""Stage: Lake -> pairs of alike clips, and the group of duplicates of every clip.

    clips without a row of `duplicates` -> exact, picture, audio, semantic pairs with all clips -> groups ->
    lake

Clips are compared in steps, and a step is written whole: pairs, and a row for each clip that was compared or
that changed its group. After a kill the next run goes on with the steps that are missing; with nothing new it
does nothing. Groups follow from all pairs in the lake, so that they do not depend on when the clips came.

C clips in the order of their names (a clip is its place there), P pairs, K new clips, D numbers of an
embedding.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dedup.bands import Sieve, Work
from dedup.groups import group_clips
from dedup.matching import CodeSets, candidate_pairs
from pipeline.catalog import Catalog
from pipeline.dedup_config import DedupConfig
from pipeline.duplicate_methods import EXACT, METHODS, Method, Pairs, code_methods, linked_pairs
from pipeline.lake_rows import Row

Commit = Callable[[dict[str, list[Row]]], None]
"""Appends rows to tables of the lake, all or nothing."""

_CLIPS_PER_BATCH = 250_000
_PAIRS_AT_ONCE = 200_000
_NUM_LARGEST = 5
_METHODS_BY_MASK = pa.array(
    [[name for bit, name in enumerate(METHODS) if mask >> bit & 1] for mask in range(1 << len(METHODS))]
)

_CLIPS = """
select c.clip_id, c.source_id, d.group_id, d.methods
from (select distinct clip_id, source_id from clips where recipe_id = ? and mp4_bytes is not null) c
left join (from duplicates where recipe_id = ?) d using (clip_id) order by c.clip_id"""

# Spans of equal files, and staged files of equal length and checksum.
_EXACT = """
with staged as (
    select distinct clip_id, source_id, start_s, end_s, mp4_bytes, mp4_crc32, flac_bytes, flac_crc32
    from clips where recipe_id = ? and mp4_bytes is not null
), files as (
    select distinct source_id, sha256, media_start_s from fetches where recipe_id = ? and sha256 is not null
), named as (
    select clip_id, concat_ws('/', 'file', sha256, media_start_s, start_s, end_s) as name
    from staged join files using (source_id)
    union select clip_id, concat_ws('/', 'staged', mp4_bytes, mp4_crc32, flac_bytes, flac_crc32)
    from staged where mp4_crc32 is not null and flac_crc32 is not null
)
select clip_id, name from named
where name in (select name from named group by 1 having count(*) > 1) order by name, clip_id"""

_PAIRS = """
select clip_id, other_clip_id, method, max(similarity) as similarity
from duplicate_pairs where recipe_id = ? group by all order by all"""

_KEPT = """
select clip_id, end_s - start_s as duration_s from clips
where recipe_id = ? and kept and mp4_bytes is not null order by {order}"""


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodCount:
    """What one way of comparing found."""

    method: str
    num_pairs: int
    num_new_pairs: int
    num_compared: int
    """Pairs of codes whose distance was taken in this run."""
    num_left_out: int
    """Pairs of codes that were not compared in this run, because too many clips have such a code."""
    skipped: str = ""
    """Why nothing was compared; empty when it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DedupSummary:
    """The duplicates of a recipe's clips after a run."""

    num_clips: int
    """Clips that were ever compared."""
    num_new_clips: int
    """Clips that were compared in this run."""
    num_groups: int
    """Groups of two clips or more."""
    num_removed: int
    """Clips kept by the filters that are not the one that stays of their group."""
    removed_s: float
    """Their length in all."""
    methods: tuple[MethodCount, ...]
    largest: tuple[tuple[str, int], ...]
    """Groups with most clips: name and number of clips."""


def find_duplicates(
    catalog: Catalog,
    commit: Commit,
    *,
    run_id: str,
    recipe_id: str,
    config: DedupConfig,
    now: Callable[[], datetime],
) -> DedupSummary:
    """Compare all clips that were not compared yet with all others, and write what was found.

    Groups are formed anew from all pairs with the thresholds of `config`, so that stricter ones apply to what
    was found before; pairs that only looser ones would have found are not sought again.
    """
    search = _Search(catalog, recipe_id, config)
    for step in range(search.num_steps + 1):  # Step 0 compares nothing; a change of the recipe may regroup.
        rows = search.rows(step)
        if any(map(len, rows.values())):
            origin = {"recipe_id": recipe_id, "run_id": run_id, "found_at": now()}
            commit({name: [row | origin for row in table.to_pylist()] for name, table in rows.items()})
    return search.summary()


class _Search:
    """Pairs and groups of the clips of a recipe, as far as they are known."""

    def __init__(self, catalog: Catalog, recipe_id: str, config: DedupConfig) -> None:
        self._catalog, self._recipe_id, self._config = catalog, recipe_id, config
        table = catalog.query(_CLIPS, [recipe_id, recipe_id])
        self._ids = pa.concat_arrays(table["clip_id"].cast(pa.string()).chunks or [pa.array([], pa.string())])
        self._source_ids = table["source_id"]
        self._source_C = _numbers(self._source_ids)
        self._told_C2 = np.stack([self._places(table["group_id"]), _masks(table["methods"])], axis=1)
        """Group of each clip and by what methods, as the lake has it."""
        is_new_C = np.asarray(table["group_id"].is_null())
        self._step_C = np.where(is_new_C, (np.cumsum(is_new_C) - 1) // config.clips_per_step + 1, 0)
        self.num_steps = int(self._step_C.max(initial=0))
        self._methods = code_methods(catalog, recipe_id, config)
        self._work = {method.name: Work() for method in self._methods}
        self._num_new_pairs = dict.fromkeys(METHODS, 0)
        self._pairs = self._known_pairs()
        self._exact = self._exact_pairs()
        self._group_C = np.arange(len(self._ids))

    def rows(self, step: int) -> dict[str, pa.Table]:
        """Rows of a step: the pairs that it finds, and the clips that it compares or that change their group."""
        found = self._compare(step) if step else Pairs.joined([])
        self._pairs = Pairs.joined([self._pairs, found])
        linked, strength_P = linked_pairs(self._pairs, self._config)
        self._group_C = group_clips(
            linked.clips_P2, strength_P, linked.method_P == EXACT, source_C=self._source_C
        )
        is_inside_P = self._group_C[linked.clips_P2[:, 0]] == self._group_C[linked.clips_P2[:, 1]]
        inside = linked.where(is_inside_P)
        mask_C = np.zeros(len(self._ids), np.int64)
        for side_P in inside.clips_P2.T:
            np.bitwise_or.at(mask_C, side_P, 1 << inside.method_P)
        now_C2 = np.stack([self._group_C, mask_C], axis=1)
        changed_C = (self._step_C <= step) & (now_C2 != self._told_C2).any(axis=1)
        self._told_C2[changed_C] = now_C2[changed_C]
        return {
            "duplicate_pairs": self._pair_rows(found),
            "duplicates": self._clip_rows(np.flatnonzero(changed_C)),
        }

    def _clip_rows(self, clip_K: NDArray[np.int64]) -> pa.Table:
        group_K, mask_K = self._told_C2[clip_K].T
        return pa.table(
            {
                "clip_id": self._ids.take(pa.array(clip_K)),
                "source_id": self._source_ids.take(pa.array(clip_K)),
                "group_id": self._ids.take(pa.array(group_K)),
                "methods": _METHODS_BY_MASK.take(pa.array(mask_K)),
            }
        )

    def _pair_rows(self, pairs: Pairs) -> pa.Table:
        first_P, second_P = pairs.clips_P2.T
        return pa.table(
            {
                "clip_id": self._ids.take(pa.array(first_P)),
                "other_clip_id": self._ids.take(pa.array(second_P)),
                "method": pa.array(METHODS).take(pa.array(pairs.method_P)),
                "similarity": pairs.similarity_P,
            }
        )

    def _places(self, ids: pa.ChunkedArray) -> NDArray[np.int64]:
        """Where clips are in the order of all; -1 for those that are not there."""
        return np.asarray(pc.fill_null(pc.index_in(ids.cast(pa.string()), value_set=self._ids), -1), np.int64)

    def _known_pairs(self) -> Pairs:
        table = self._catalog.query(_PAIRS, [self._recipe_id])
        clips_2P = np.stack([self._places(table[name]) for name in ("clip_id", "other_clip_id")])
        method_P = np.asarray(pc.index_in(table["method"], value_set=pa.array(METHODS)), np.int64)
        pairs = Pairs(
            clips_P2=clips_2P.T, method_P=method_P, similarity_P=np.asarray(table["similarity"], np.float64)
        )
        return pairs.where(np.logical_and.reduce(clips_2P >= 0))

    def _exact_pairs(self) -> Pairs:
        """Each clip with the first to be compared of those that equal it."""
        table = self._catalog.query(_EXACT, [self._recipe_id, self._recipe_id])
        clip_P = self._places(table["clip_id"])
        name_P = _numbers(table["name"])
        order_P = np.lexsort((clip_P, self._step_C[clip_P], name_P))
        clip_P, name_P = clip_P[order_P], name_P[order_P]
        first_P = np.flatnonzero(np.diff(name_P, prepend=-1))
        head_P = np.repeat(clip_P[first_P], np.diff(first_P, append=len(clip_P)))
        clips_P2 = np.sort(np.stack([head_P, clip_P], axis=1)[head_P != clip_P], axis=1)
        clips_P2 = np.unique(clips_P2, axis=0)
        return Pairs(
            clips_P2=clips_P2,
            method_P=np.full(len(clips_P2), EXACT),
            similarity_P=np.ones(len(clips_P2)),
        )

    def _compare(self, step: int) -> Pairs:
        """The pairs of the clips of a step with each other and with those of earlier steps."""
        last_step_P: NDArray[np.int64] = self._step_C[self._exact.clips_P2].max(axis=1, initial=0)
        lots = [self._exact.where(last_step_P == step)]
        lots += [self._alike(method, step) for method in self._methods if not method.skipped]
        found = Pairs.joined(lots)
        for method, num in enumerate(np.bincount(found.method_P, minlength=len(METHODS)).tolist()):
            self._num_new_pairs[METHODS[method]] += num
        return found

    def _alike(self, method: Method, step: int) -> Pairs:
        sets = self._read(method, self._step_C == step, sieve=None)
        if (self._step_C < step).any():
            sieve = Sieve(sets.codes_MSW.reshape(-1, 4), method.bands)
            sets = _merged(self._read(method, self._step_C < step, sieve=sieve), sets)
        pairs_P2, work = candidate_pairs(sets, self._step_C == step, method.bands)
        self._work[method.name].add(work)
        lots = []
        for first in range(0, len(pairs_P2), _PAIRS_AT_ONCE):
            clips, places = np.unique(pairs_P2[first : first + _PAIRS_AT_ONCE], return_inverse=True)
            lot = method.judge(self._ids.take(pa.array(clips)), places.reshape(-1, 2))
            lots.append(replace(lot, clips_P2=clips[lot.clips_P2]))
        return Pairs.joined(lots)

    def _read(self, method: Method, wanted_C: NDArray[np.bool_], *, sieve: Sieve | None) -> CodeSets:
        """Codes of the wanted clips, batch by batch, each a moment; with a sieve only those that may matter."""
        num_C = np.zeros(len(self._ids), np.int64)
        lots = [np.empty((0, 4), np.uint64)]
        for first in range(0, len(self._ids), _CLIPS_PER_BATCH):
            span = self._ids[first : first + _CLIPS_PER_BATCH]
            if not wanted_C[first : first + _CLIPS_PER_BATCH].any():
                continue
            codes = method.read("clip_id between ? and ?", [span[0].as_py(), span[-1].as_py()])
            place_K = np.asarray(pc.fill_null(pc.index_in(codes.ids, value_set=self._ids), -1))
            place_N = np.repeat(place_K, codes.num_C * codes.codes_MSW.shape[1])
            codes_NW = codes.codes_MSW.reshape(-1, 4)
            wanted_N = (place_N >= 0) & wanted_C[place_N]
            if sieve is not None:
                wanted_N &= sieve.passes(codes_NW)
            num_C += np.bincount(place_N[wanted_N], minlength=len(num_C))
            lots.append(codes_NW[wanted_N])
        return CodeSets(codes_MSW=np.concatenate(lots)[:, np.newaxis], num_C=num_C)

    def summary(self) -> DedupSummary:
        """What is known now."""
        num_G = np.bincount(self._group_C, minlength=1)
        largest = np.lexsort((np.arange(len(num_G)), -num_G))[:_NUM_LARGEST]
        num_removed, removed_s = self._removed()
        num_pairs_M = np.bincount(self._pairs.method_P, minlength=len(METHODS)).tolist()
        skipped = {method.name: method.skipped for method in self._methods}
        return DedupSummary(
            num_clips=len(self._ids),
            num_new_clips=int((self._step_C > 0).sum()),
            num_groups=int((num_G > 1).sum()),
            num_removed=num_removed,
            removed_s=removed_s,
            methods=tuple(
                MethodCount(
                    method=name,
                    num_pairs=num_pairs,
                    num_new_pairs=self._num_new_pairs[name],
                    num_compared=self._work.get(name, Work()).num_compared,
                    num_left_out=self._work.get(name, Work()).num_left_out,
                    skipped=skipped.get(name, ""),
                )
                for name, num_pairs in zip(METHODS, num_pairs_M, strict=True)
            ),
            largest=tuple(
                (self._ids[group].as_py(), int(num_G[group]))
                for group in largest.tolist()
                if num_G[group] > 1
            ),
        )

    def _removed(self) -> tuple[int, float]:
        """Clips and seconds that go when one clip that the filters keep stays of each group."""
        order = ", ".join(self._config.keep)
        table = self._catalog.query(_KEPT.format(order=order), [self._recipe_id])
        group_K = self._group_C[self._places(table["clip_id"])]
        goes_K = np.ones(len(group_K), np.bool_)
        goes_K[np.unique(group_K, return_index=True)[1]] = False
        return int(goes_K.sum()), float(np.asarray(table["duration_s"], np.float64)[goes_K].sum())


def _numbers(values: pa.ChunkedArray) -> NDArray[np.int64]:
    """A number for each value, the same for equal ones."""
    return np.asarray(pc.index_in(values, value_set=pc.unique(values)), np.int64)


def _masks(methods: pa.ChunkedArray) -> NDArray[np.int64]:
    """Lists of names as bits; 0 where there is no list."""
    bit_N = 1 << np.asarray(pc.index_in(pc.list_flatten(methods), value_set=pa.array(METHODS)), np.int64)
    mask_C = np.zeros(len(methods), np.int64)
    np.bitwise_or.at(mask_C, np.asarray(pc.list_parent_indices(methods)), bit_N)
    return mask_C


def _merged(one: CodeSets, other: CodeSets) -> CodeSets:
    """Codes of both; no clip has codes in both."""
    owner_M = np.concatenate([np.repeat(np.arange(len(sets.num_C)), sets.num_C) for sets in (one, other)])
    codes_MSW = np.concatenate([one.codes_MSW, other.codes_MSW])
    return CodeSets(codes_MSW=codes_MSW[np.argsort(owner_M, kind="stable")], num_C=one.num_C + other.num_C)
