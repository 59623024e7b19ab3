"""Fingerprints of real clips and their copies: found by what they keep, and by nothing else."""

from pathlib import Path

import numpy as np
import pytest

from dedup.sound import SOUND_RATE_HZ
from infra.media.reader import MediaReader
from infra.root import Root
from pipeline.curate_source import Workplace, curate_source
from pipeline.dedup_config import DedupConfig
from pipeline.fingerprint_clip import PICTURE_KIND, SOUND_KIND, Fingerprint, fingerprint_clip
from pipeline.recipe import load_recipe
from tests.dedup_copies import CHANGES, RATE_FPS, Original, decoded, make_copy
from tests.dedup_quality import Known, Quality, quality
from tests.media import CORPUS, ffmpeg, needs_corpus
from tests.stored import store

CLIPS = (
    Original(file="vggsound_0B4dYTMsgHA_000130.mp4", start_s=0, end_s=6),
    Original(file="street_360p.mp4", start_s=0, end_s=6),
)
MADE = ("crop_0.1", "mirror", "shift_1.3", "speed_1.25", "dub")


def test_fingerprint_clip_says_what_it_holds():
    luma_NHW = np.random.default_rng(0).integers(16, 236, (16, 96, 128), np.uint8)
    picture, sound = fingerprint_clip(luma_NHW, np.zeros(2 * SOUND_RATE_HZ, np.float32), rate_fps=RATE_FPS)
    assert (picture.kind, sound.kind) == (PICTURE_KIND, SOUND_KIND)
    assert picture.num_codes % 3 == 0
    assert len(picture.codes) == 32 * picture.num_codes > 0
    assert (sound.num_codes, sound.codes) == (0, b"")


def test_fingerprint_clip_does_not_see_black_bars():
    generator = np.random.default_rng(1)
    blocks = generator.integers(60, 236, (16, 12, 16), np.uint8)
    luma_NHW = np.kron(blocks, np.ones((1, 16, 16), np.uint8))
    with_bars = np.pad(luma_NHW, ((0, 0), (32, 32), (0, 0)), constant_values=16)
    silence = np.zeros(SOUND_RATE_HZ, np.float32)
    assert fingerprint_clip(luma_NHW, silence, rate_fps=RATE_FPS) == fingerprint_clip(
        with_bars, silence, rate_fps=RATE_FPS
    )


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Quality:
    folder = tmp_path_factory.mktemp("copies")
    clips = []
    for clip, dub in (CLIPS, CLIPS[::-1]):
        luma_NHW, mono_T = decoded(CORPUS / clip.file, length_s=clip.end_s)
        prints = fingerprint_clip(luma_NHW, mono_T, rate_fps=RATE_FPS)
        clips.append(Known(original=clip, change="", fingerprints=prints))
        for change in (change for change in CHANGES if change.name in MADE):
            path = make_copy(folder / f"{change.name}.mp4", clip, change, dub=dub)
            prints = fingerprint_clip(*decoded(path), rate_fps=RATE_FPS)
            clips.append(Known(original=clip, change=change.name, fingerprints=prints))
    return quality(clips, DedupConfig())


@needs_corpus
def test_every_copy_is_found_by_its_picture_and_nothing_else_is(found):
    assert found.recall["picture"] == dict.fromkeys(MADE, (2, 2))
    assert found.recall["group"] == dict.fromkeys(MADE, (2, 2))
    assert (found.false_pairs["picture"], found.false_pairs["group"]) == ((), ())


@needs_corpus
def test_every_copy_with_the_sound_of_the_clip_is_found_by_it_and_nothing_else_is(found):
    assert found.recall["audio"] == dict.fromkeys(MADE, (2, 2)) | {"dub": (0, 2)}
    assert found.false_pairs["audio"] == ()


def _no_speech(mono_T: np.ndarray) -> np.ndarray:
    return np.zeros(len(mono_T) // 512, np.float32)


def staged_prints(path: Path, root: Path, reader: MediaReader) -> list[tuple[Fingerprint, ...]]:
    """Fingerprints of the clips that the pipeline keeps of a file, with bounds that keep all."""
    open_bounds = ("laplacian_variance.min=0", "keyframe_laplacian_variance.min=0", "snr_db.min=-99")
    recipe = load_recipe("demo", [f"filters.{bound}" for bound in open_bounds])
    root.mkdir()
    source = store(path, recipe=recipe, root=root)
    place = Workplace(root=Root.of(root), work_dir=root, reader=reader, speech=_no_speech)
    *_, last = curate_source(source.item, source.fetched, recipe=recipe, workplace=place)
    return [clip.fingerprints for clip in last.outcome.curated.staged]


@needs_corpus
def test_what_the_pipeline_stores_of_a_mirrored_smaller_copy_is_found(tmp_path, reader):
    file = "bigbuckbunny_720p.mp4"
    copy = tmp_path / "copy.mp4"
    ffmpeg("-i", CORPUS / file, "-vf", "hflip,scale=-2:480", "-preset", "ultrafast", "-crf", "30", copy)
    (own,) = staged_prints(CORPUS / file, tmp_path / "own", reader)
    (other,) = staged_prints(copy, tmp_path / "other", reader)
    original = Original(file=file, start_s=0, end_s=5)
    clips = [
        Known(original=original, change=change, fingerprints=prints)
        for change, prints in (("", own), ("mirror", other))
    ]
    found = quality(clips, DedupConfig())
    assert found.recall == {way: {"mirror": (1, 1)} for way in ("picture", "audio", "link", "group")}
