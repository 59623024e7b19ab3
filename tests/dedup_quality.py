"""Precision and recall of finding copies: clips with their fingerprints in, shares out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dedup.bands import as_words
from dedup.groups import group_clips
from dedup.matching import CodeSets, candidate_pairs
from dedup.picture import PARTS, picture_bands
from dedup.sound import sound_bands
from pipeline.dedup_config import DedupConfig
from pipeline.duplicate_methods import Pairs, audio_pairs, linked_pairs, picture_pairs
from pipeline.fingerprint_clip import Fingerprint
from tests.dedup_copies import Original

WAYS = ("picture", "audio", "link", "group")
"""Found by either alone, linked by the rule of both, and in one group in the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A clip: an original or a copy of one."""

    original: Original
    change: str
    """Empty for the original itself."""
    fingerprints: tuple[Fingerprint, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """What was found of what is there."""

    recall: dict[str, dict[str, tuple[int, int]]]
    """Way -> change -> copies found beside their originals, and all copies."""
    true_pairs: dict[str, int]
    false_pairs: dict[str, tuple[tuple[str, str], ...]]
    """Way -> pairs of clips that show nothing in common."""
    num_negatives: int

    def precision(self, way: str) -> float:
        """Share of the pairs found that are of one original."""
        return self.true_pairs[way] / max(1, self.true_pairs[way] + len(self.false_pairs[way]))

    def total(self, way: str) -> float:
        """Recall over all changes."""
        found, there = np.sum(list(self.recall[way].values()), axis=0)
        return float(found / max(1, there))


def quality(clips: Sequence[Known], config: DedupConfig) -> Quality:
    """Compare all clips with all."""
    found = _found(clips, config)
    recall: dict[str, dict[str, tuple[int, int]]] = {way: {} for way in WAYS}
    true_pairs, false_pairs = dict.fromkeys(WAYS, 0), {}
    names = [f"{clip.original.name} {clip.change}".strip() for clip in clips]
    place = {clip.original.name: index for index, clip in enumerate(clips) if not clip.change}
    for way, pairs in found.items():
        for index, clip in enumerate(clips):
            if clip.change:
                pair = tuple(sorted((index, place[clip.original.name])))
                num_found, num_there = recall[way].get(clip.change, (0, 0))
                recall[way][clip.change] = (num_found + (pair in pairs), num_there + 1)
        true_pairs[way] = sum(clips[a].original == clips[b].original for a, b in pairs)
        false_pairs[way] = tuple(
            (names[a], names[b]) for a, b in sorted(pairs) if not _related(clips[a], clips[b], way)
        )
    num_negatives = sum(not _related(a, b, "picture") for i, a in enumerate(clips) for b in clips[:i])
    return Quality(recall=recall, true_pairs=true_pairs, false_pairs=false_pairs, num_negatives=num_negatives)


def _related(one: Known, other: Known, way: str) -> bool:
    """Whether the pair may be found: it shows the same moments, or has a sound that was put there."""
    if way == "audio" and "dub" in (one.change, other.change):
        return True
    if "shift_3.7" in (one.change, other.change) or "shift_1.3" in (one.change, other.change):
        return one.original.file == other.original.file
    return one.original.overlaps(other.original)


def _found(clips: Sequence[Known], config: DedupConfig) -> dict[str, set[tuple[int, ...]]]:
    is_new_C = np.ones(len(clips), np.bool_)
    lots = []
    for kind, (num_parts, bands, judge) in enumerate(
        (
            (len(PARTS), picture_bands(max_distance=config.picture.max_distance_bits), picture_pairs),
            (1, sound_bands(max_distance=config.audio.max_distance_bits), audio_pairs),
        )
    ):
        sets = code_sets([clip.fingerprints[kind] for clip in clips], num_parts)
        lots.append(judge(sets, candidate_pairs(sets, is_new_C, bands)[0], bands, config))
    linked, strength_P = linked_pairs(Pairs.joined(lots), config)
    # A copy of several clips of a file is one source, as it would be when the file was put up again.
    sources = [f"{clip.original.file} {clip.change}" for clip in clips]
    source_C = np.unique(sources, return_inverse=True)[1].reshape(-1)
    group_C = group_clips(linked.clips_P2, strength_P, np.zeros(len(strength_P), np.bool_), source_C)
    grouped_P2 = np.argwhere(np.triu(group_C[:, np.newaxis] == group_C, k=1))
    ways = zip(WAYS, (*(lot.clips_P2 for lot in (*lots, linked)), grouped_P2), strict=True)
    return {way: {tuple(pair) for pair in pairs_P2.tolist()} for way, pairs_P2 in ways}


def code_sets(fingerprints: Sequence[Fingerprint], num_parts: int) -> CodeSets:
    """Codes of one kind of all clips."""
    codes: NDArray[np.uint8] = np.frombuffer(b"".join(print_.codes for print_ in fingerprints), np.uint8)
    num_C = np.array([print_.num_codes // num_parts for print_ in fingerprints])
    return CodeSets(codes_MSW=as_words(codes.reshape(-1, 32)).reshape(-1, num_parts, 4), num_C=num_C)
