"""Pairs of alike clips -> groups of duplicates.

Pairs are taken from the strongest down, and two groups become one unless that would put two clips of one
source into a group. Clips of one source lie beside each other and are different moments, however alike they
look: of two copies of a talk in a still room each clip finds its own twin, and the talk does not fall
together into one group. The same rule stops chains (A like B, B like C, C not like A) where they do most
harm, within long still sources; what chains remain shows in the sizes of the groups, which are reported.

The groups depend on the pairs alone, not on the order in which clips came or pairs were found.

C clips, P pairs.
"""

import numpy as np
from numpy.typing import NDArray


def group_clips(
    pairs_P2: NDArray[np.int64],
    strength_P: NDArray[np.float64],
    may_share_P: NDArray[np.bool_],
    source_C: NDArray[np.int64],
) -> NDArray[np.int64]:
    """The group of each clip: the smallest clip in it.

    Args:
        strength_P: which pairs come first; of equals the smaller clips.
        may_share_P: pairs that join groups in any case (identical bytes).
        source_C: the source of each clip.
    """
    parent = np.arange(len(source_C))
    sources: dict[int, set[int]] = {}
    order_P = np.lexsort((pairs_P2[:, 1], pairs_P2[:, 0], -strength_P, ~may_share_P))
    for first, second, may_share in zip(
        *pairs_P2[order_P].T.tolist(), may_share_P[order_P].tolist(), strict=True
    ):
        low, high = sorted((_root(parent, first), _root(parent, second)))
        if low == high:
            continue
        low_sources, high_sources = (sources.get(root) or {int(source_C[root])} for root in (low, high))
        if may_share or low_sources.isdisjoint(high_sources):
            parent[high] = low
            sources[low] = low_sources | high_sources
            sources.pop(high, None)
    return _flattened(parent)


def _root(parent: NDArray[np.int64], clip: int) -> int:
    root = clip
    while parent[root] != root:
        root = int(parent[root])
    while parent[clip] != root:
        parent[clip], clip = root, int(parent[clip])
    return root


def _flattened(parent: NDArray[np.int64]) -> NDArray[np.int64]:
    """The root of each clip; parents are smaller than their children."""
    while True:
        grandparent = parent[parent]
        if np.array_equal(grandparent, parent):
            return parent
        parent = grandparent
