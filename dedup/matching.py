"""How alike two clips are, each known by a set of codes: the share of their moments that the other shows as
well.

A moment has one code or several (the picture and its middle parts); moments are near when any of their codes
are. Order and spacing do not count, so that a copy may be cut, shifted, slowed down or sped up.

C clips, M moments, S codes of a moment, W words of 64 bits, P pairs of clips, Q pairs of moments.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dedup.bands import Bands, Words, Work, distances, near_codes

_CODE_PAIRS_AT_ONCE = 1 << 21


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeSets:
    """Codes of clips, one clip after another."""

    codes_MSW: Words
    num_C: NDArray[np.int64]
    """Moments of each clip."""

    @property
    def first_C(self) -> NDArray[np.int64]:
        """Where each clip's moments begin."""
        return np.cumsum(self.num_C) - self.num_C

    def only(self, wanted_M: NDArray[np.bool_]) -> "CodeSets":
        """The same clips with some of their moments."""
        owner_M = np.repeat(np.arange(len(self.num_C)), self.num_C)
        num_C = np.bincount(owner_M[wanted_M], minlength=len(self.num_C))
        return CodeSets(codes_MSW=self.codes_MSW[wanted_M], num_C=num_C)


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """How alike the clips of each pair are."""

    similarity_P: NDArray[np.float64]
    """Share of the moments of both that the other has as well, in [0, 1]."""
    num_shared_P: NDArray[np.int64]
    """Moments of the clip that shares fewer."""


def candidate_pairs(
    sets: CodeSets, is_new_C: NDArray[np.bool_], bands: Bands
) -> tuple[NDArray[np.int64], Work]:
    """Pairs of clips that have a near code in common, one of them new; the smaller first, sorted, each once."""
    num_codes_C = sets.num_C * sets.codes_MSW.shape[1]
    owner_N = np.repeat(np.arange(len(num_codes_C)), num_codes_C)
    codes_NW = sets.codes_MSW.reshape(-1, sets.codes_MSW.shape[-1])
    work = Work()
    found = [np.empty(0, np.int64)]
    for left_P, right_P in near_codes(codes_NW, owner_N, is_new_C[owner_N], bands, work):
        clips_2P = np.sort(np.stack([owner_N[left_P], owner_N[right_P]]), axis=0)
        found.append(np.unique(clips_2P[0] * len(num_codes_C) + clips_2P[1]))
    first_P, second_P = np.divmod(np.unique(np.concatenate(found)), max(1, len(num_codes_C)))
    differ_P = first_P != second_P
    return np.stack([first_P, second_P], axis=1)[differ_P], work


def likeness(sets: CodeSets, pairs_P2: NDArray[np.int64], bands: Bands) -> Likeness:
    """How alike the clips of each pair are: as they are or, if that is more, one of them mirrored."""
    mirrors = [None] if bands.mirror_W is None else [None, bands.mirror_W]
    similarity_P, num_shared_P = np.zeros(len(pairs_P2)), np.zeros(len(pairs_P2), np.int64)
    for chunk in _chunks(sets, pairs_P2):
        for mirror_W in mirrors:
            similarity_K, num_shared_K = _likeness(sets, pairs_P2[chunk], bands.max_distance, mirror_W)
            num_shared_P[chunk] = np.where(
                similarity_K > similarity_P[chunk], num_shared_K, num_shared_P[chunk]
            )
            similarity_P[chunk] = np.maximum(similarity_P[chunk], similarity_K)
    return Likeness(similarity_P=similarity_P, num_shared_P=num_shared_P)


def _chunks(sets: CodeSets, pairs_P2: NDArray[np.int64]) -> list[slice]:
    """Stretches of pairs that fit in memory together."""
    cost_P = sets.num_C[pairs_P2].prod(axis=1) * sets.codes_MSW.shape[1] ** 2
    chunk_P = np.cumsum(cost_P) // _CODE_PAIRS_AT_ONCE
    edges = [0, *(np.flatnonzero(np.diff(chunk_P)) + 1).tolist(), len(pairs_P2)]
    return [slice(start, end) for start, end in pairwise(edges)]


def _likeness(
    sets: CodeSets, pairs_P2: NDArray[np.int64], max_distance: int, mirror_W: Words | None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    num_P2 = sets.num_C[pairs_P2]
    first_P2 = sets.first_C[pairs_P2]
    total_P = num_P2.prod(axis=1)
    pair_Q = np.repeat(np.arange(len(pairs_P2)), total_P)
    place_Q = np.arange(len(pair_Q)) - np.repeat(np.cumsum(total_P) - total_P, total_P)
    moment_2Q = np.stack(np.divmod(place_Q, num_P2[pair_Q, 1]))
    left_QSW, right_QSW = (
        sets.codes_MSW[first_P2[pair_Q, side] + moment_Q] for side, moment_Q in enumerate(moment_2Q)
    )
    if mirror_W is not None:
        left_QSW = left_QSW ^ mirror_W
    near_Q = np.zeros(len(pair_Q), np.bool_)
    for left_QW in left_QSW.swapaxes(0, 1):
        for right_QW in right_QSW.swapaxes(0, 1):
            near_Q |= distances(left_QW, right_QW) <= max_distance
    shared_2P = [_num_shared(pair_Q, moment_2Q[side], near_Q, num_P2[:, side]) for side in (0, 1)]
    similarity_P = np.sum(shared_2P, axis=0) / np.maximum(num_P2.sum(axis=1), 1)
    return similarity_P, np.minimum(*shared_2P)


def _num_shared(
    pair_Q: NDArray[np.int64],
    moment_Q: NDArray[np.int64],
    near_Q: NDArray[np.bool_],
    num_P: NDArray[np.int64],
) -> NDArray[np.int64]:
    """How many moments of one side of each pair are near some moment of the other."""
    first_P = np.cumsum(num_P) - num_P
    is_shared = np.zeros(int(num_P.sum()), np.bool_)
    is_shared[(first_P[pair_Q] + moment_Q)[near_Q]] = True
    return np.bincount(np.repeat(np.arange(len(num_P)), num_P)[is_shared], minlength=len(num_P))
