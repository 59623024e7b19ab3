"""Duplicates in a real lake: what is compared, what is written, and that again does nothing new."""

import io
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from pipeline.catalog import Catalog
from pipeline.dedup_config import AudioConfig, DedupConfig
from pipeline.dedup_text import dedup_tables
from pipeline.find_duplicates import DedupSummary, find_duplicates
from pipeline.fingerprint_clip import PICTURE_KIND, PICTURE_VERSION, SOUND_KIND, SOUND_VERSION
from pipeline.lake import Lake
from pipeline.lake_rows import Row

RECIPE = "r" * 12
NOW = datetime(2026, 1, 1, tzinfo=UTC)
A, B, C, D = (f"{letter * 16}-000000000-000010000" for letter in "abcd")


class Killed(BaseException):
    """Stands for a kill: nothing of ours catches it."""


@dataclass
class Root:
    """A lake, and rows for the next commit to it."""

    path: Path
    rows: dict[str, list[Row]] = field(default_factory=dict)
    num_commits: int = 0

    def clip(self, clip_id: str, **columns: object) -> None:
        """A staged clip of the source that its name begins with."""
        row = {"clip_id": clip_id, "source_id": clip_id[:16], "recipe_id": RECIPE, "pass_index": 0}
        row |= {
            "start_s": 0.0,
            "end_s": 10.0,
            "width_px": 640,
            "height_px": 480,
            "mp4_bytes": 1,
        }
        self.rows.setdefault("clips", []).append(row | columns)

    def codes(self, clip_id: str, codes: np.ndarray, *, kind: str = PICTURE_KIND) -> None:
        """A fingerprint of a clip."""
        version = PICTURE_VERSION if kind == PICTURE_KIND else SOUND_VERSION
        row = {"clip_id": clip_id, "source_id": clip_id[:16], "recipe_id": RECIPE, "kind": kind}
        row |= {"version": version, "num_codes": codes.size // 32, "codes": codes.tobytes()}
        self.rows.setdefault("fingerprints", []).append(row)

    def vectors(self, clip_id: str, vector: np.ndarray, *, weights: str = "openai") -> None:
        """An embedding of a clip."""
        row = {"clip_id": clip_id, "source_id": clip_id[:16], "recipe_id": RECIPE, "model_kind": "clip"}
        row |= {"model": "ViT-B-32", "weights": weights, "num_vectors": 1, "num_dims": len(vector)}
        row |= {"vectors_f16": vector.astype("<f2").tobytes()}
        self.rows.setdefault("embeddings", []).append(row)

    def fetch(self, source_id: str, sha256: str) -> None:
        """A fetched file."""
        row = {"source_id": source_id, "recipe_id": RECIPE, "sha256": sha256, "media_start_s": 0.0}
        self.rows.setdefault("fetches", []).append(row)

    def commit(self, rows: dict[str, list[Row]]) -> None:
        """Append rows."""
        lake = Lake(self.path)
        lake.create()
        lake.commit(rows, run_id="test", batch_index=self.num_commits)
        self.num_commits += 1

    def dedup(self, **settings: object) -> DedupSummary:
        """What `avgen dedup` does, after the rows that were added are committed."""
        if self.rows:
            self.commit(self.rows)
            self.rows = {}
        return find_duplicates(
            Catalog(self.path),
            self.commit,
            run_id="dedup",
            recipe_id=RECIPE,
            config=DedupConfig(**settings),
            now=lambda: NOW.replace(second=self.num_commits),
        )

    def groups(self) -> dict[str, str]:
        """Clip -> group, as `avgen sql` shows it."""
        return dict(Catalog(self.path).rows("select clip_id, group_id from duplicates order by 1"))

    def pairs(self) -> list[tuple[str, str, str]]:
        """Clip, other clip, method."""
        sql = "select clip_id, other_clip_id, method from duplicate_pairs order by all"
        return Catalog(self.path).rows(sql)


@pytest.fixture
def root(tmp_path) -> Root:
    return Root(tmp_path)


def moments(seed: int, num: int = 6, parts: int = 3) -> np.ndarray:
    """Codes of a clip that is like no other."""
    return np.random.default_rng(seed).integers(0, 256, (num, parts, 32), np.uint8)


def test_find_duplicates_near_codes_of_two_sources_are_one_group(root):
    near = moments(1)
    near[:, 0, 5] ^= 0b11
    for clip, codes in ((A, moments(1)), (B, near), (C, moments(3))):
        root.clip(clip)
        root.codes(clip, codes)
    summary = root.dedup()
    assert root.groups() == {A: A, B: A, C: C}
    assert root.pairs() == [(A, B, "picture")]
    assert (summary.num_clips, summary.num_new_clips, summary.num_groups) == (3, 3, 1)
    assert (summary.largest, summary.methods[1].num_new_pairs) == (((A, 2),), 1)


def test_find_duplicates_again_writes_nothing(root):
    for clip in (A, B):
        root.clip(clip)
        root.codes(clip, moments(1))
    root.dedup()
    num_commits = root.num_commits
    summary = root.dedup()
    assert root.num_commits == num_commits
    assert (summary.num_new_clips, summary.num_groups) == (0, 1)


def test_find_duplicates_a_smaller_clip_that_comes_later_renames_the_group(root):
    for clip in (B, C):
        root.clip(clip)
        root.codes(clip, moments(1))
    root.dedup()
    assert root.groups() == {B: B, C: B}
    root.clip(A)
    root.codes(A, moments(1))
    assert root.dedup().num_new_clips == 1
    assert root.groups() == {A: A, B: A, C: A}


def test_find_duplicates_steps_find_what_one_step_finds(tmp_path):
    found = []
    for num_at_once in (1, 2, 100):
        root = Root(tmp_path / str(num_at_once))
        for index, clip in enumerate((A, B, C, D)):
            root.clip(clip)
            root.codes(clip, moments(index % 2))
        root.dedup(clips_per_step=num_at_once)
        found.append((root.groups(), root.pairs()))
    assert found[0] == found[1] == found[2]
    assert found[0][0] == {A: A, B: B, C: A, D: B}


def test_find_duplicates_goes_on_after_a_kill(root):
    for clip in (A, B, C):
        root.clip(clip)
        root.codes(clip, moments(1))
    root.commit(root.rows)
    root.rows = {}
    commit, left = root.commit, [True]

    def commit_once(rows: dict[str, list[Row]]) -> None:
        if not left:
            raise Killed
        left.pop()
        commit(rows)

    root.commit = commit_once
    with pytest.raises(Killed):
        root.dedup(clips_per_step=1)
    root.commit = commit
    assert root.groups() == {A: A}
    assert root.dedup(clips_per_step=1).num_new_clips == 2
    assert root.groups() == {A: A, B: A, C: A}


def test_find_duplicates_clips_of_one_source_are_none_however_alike(root):
    twin = A.replace("-000000000-000010000", "-000010000-000020000")
    for clip in (A, twin):
        root.clip(clip)
        root.codes(clip, moments(1))
    root.dedup()
    assert root.groups() == {A: A, twin: twin}


def test_find_duplicates_of_a_still_talk_each_clip_finds_its_twin(root):
    talk, copy = A[:16], B[:16]
    for index in range(3):
        for source in (talk, copy):
            clip = f"{source}-0000{index}0000-0000{index + 1}0000"
            root.clip(clip, start_s=10.0 * index, end_s=10.0 * index + 10)
            root.codes(clip, moments(1))
            root.codes(clip, moments(100 + index, parts=1), kind=SOUND_KIND)
    root.dedup()
    groups = root.groups()
    assert all(groups[clip] == clip.replace(copy, talk) for clip in groups)
    assert len(set(groups.values())) == 3


def test_find_duplicates_equal_sound_alone_is_a_pair_and_no_group(root):
    for index, clip in enumerate((A, B)):
        root.clip(clip)
        root.codes(clip, moments(index))
        root.codes(clip, moments(7, parts=1), kind=SOUND_KIND)
    root.dedup()
    assert (root.groups(), root.pairs()) == ({A: A, B: B}, [(A, B, "audio")])
    root.dedup(audio=AudioConfig(links=True))
    assert root.groups() == {A: A, B: A}


def test_find_duplicates_a_shared_title_needs_the_same_sound(root):
    title = moments(9, num=1)
    for index, clip in enumerate((A, B, C)):
        root.clip(clip)
        root.codes(clip, np.concatenate([title, moments(index, num=3)]))
        root.codes(clip, moments(50 + index // 2, parts=1), kind=SOUND_KIND)
    root.dedup()
    assert root.groups() == {A: A, B: A, C: C}
    assert (A, C, "glimpse") in root.pairs()


def test_find_duplicates_equal_spans_of_equal_files_are_exact(root):
    for clip in (A, B, C):
        root.clip(clip, end_s=10.0 if clip != C else 9.0)
        root.fetch(clip[:16], "5" * 64)
    root.dedup()
    assert root.pairs() == [(A, B, "exact")]
    assert root.groups() == {A: A, B: A, C: C}


def test_find_duplicates_equal_staged_bytes_are_exact_within_a_source_too(root):
    twin = A.replace("-000000000-000010000", "-000010000-000020000")
    for clip in (A, twin):
        root.clip(clip, mp4_bytes=10, mp4_crc32=7, flac_bytes=5, flac_crc32=3)
    root.dedup()
    assert root.groups() == {A: A, twin: A}


def test_find_duplicates_near_embeddings_are_a_semantic_pair(root):
    generator = np.random.default_rng(0)
    vector = generator.standard_normal(64)
    for clip, other in ((A, 0.0), (B, 0.05), (C, 5.0)):
        root.clip(clip)
        root.vectors(clip, vector + other * generator.standard_normal(64))
    root.dedup()
    assert (root.pairs(), root.groups()) == ([(A, B, "semantic")], {A: A, B: B, C: C})


def test_find_duplicates_untrained_embeddings_are_skipped_and_said_so(root):
    for clip in (A, B):
        root.clip(clip)
        root.vectors(clip, np.ones(8), weights="untrained")
    summary = root.dedup()
    assert root.pairs() == []
    assert [m.skipped for m in summary.methods if m.method == "semantic"] == [
        "the embeddings are of untrained weights, which say nothing; set embed.clip_weights"
    ]


def test_find_duplicates_empty_lake_says_zero(root):
    root.commit({})
    assert root.dedup().num_clips == 0


def test_find_duplicates_counts_what_goes_by_the_rule_of_the_recipe(root):
    for clip, width_px, end_s in ((A, 320, 10.0), (B, 640, 8.0)):
        root.clip(clip, width_px=width_px, end_s=end_s)
        root.codes(clip, moments(1))
    summary = root.dedup()
    assert (summary.num_removed, summary.removed_s) == (1, 10.0)


def test_dedup_tables_say_what_was_found_and_what_was_not_compared(root):
    for clip in (A, B):
        root.clip(clip)
        root.codes(clip, moments(1))
        root.vectors(clip, np.ones(8), weights="untrained")
    console = Console(width=200, file=io.StringIO())
    console.print(*dedup_tables(root.dedup()))
    text = console.file.getvalue()
    assert "2 clips compared (2 new): 1 groups; packing leaves out 1 clips, 0.003 h" in text
    assert "untrained weights, which say nothing; set embed.clip_weights" in text
    assert A in text
