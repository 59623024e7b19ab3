"""One source through probe, screen, decode, measure, split, transcode, bundle: real ffmpeg, real filters."""

import hashlib
import io
import json
import math
import tarfile
from datetime import UTC, datetime
from pathlib import Path

import av
import numpy as np
import pytest

from crawl.fetch import FetchedMedia, fetch
from crawl.items import SourceItem, file_url, source_item
from infra.errors import MediaTooLarge, TooShort, Truncated, Undecodable
from infra.media.child import find_ffmpeg
from infra.media.probe import Prober
from pipeline.curate_source import Workplace, bundle_key, curate_source
from pipeline.recipe import Recipe, load_recipe
from pipeline.records import CuratePart
from tests.media import CORPUS, SPEECH, ffmpeg, make_clip, needs_corpus

RECIPE = load_recipe("demo", ["split.clip_s=4", "embed.clips_per_batch=2"])


@pytest.fixture(scope="module")
def prober():
    prober = Prober()
    yield prober
    prober.close()


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory) -> Path:
    return make_clip(tmp_path_factory.mktemp("media") / "long.mp4", duration_s=13.5)


def fetched_item(path: Path, root: Path, **span: float) -> tuple[SourceItem, FetchedMedia]:
    item = source_item(file_url(path), kind="dir", **span)
    fetched = fetch(
        item,
        media_dir=root / "media",
        work_dir=root / "work",
        ffmpeg=find_ffmpeg(),
        config=RECIPE.fetch,
        now=lambda: datetime(2026, 1, 1, tzinfo=UTC),
    )
    return item, fetched


def curate(
    path: Path, root: Path, prober: Prober, recipe: Recipe = RECIPE, **span: float
) -> list[CuratePart]:
    root.mkdir(parents=True, exist_ok=True)
    item, fetched = fetched_item(path, root, **span)
    work_dir = root / "work"
    work_dir.mkdir(exist_ok=True)
    place = Workplace(root=root, work_dir=work_dir, ffmpeg=find_ffmpeg(), probe=prober)
    return list(curate_source(item, fetched, recipe=recipe, workplace=place))


def test_curate_source_long_clip_accounts_for_every_second(long_clip, tmp_path, prober):
    parts = curate(long_clip, tmp_path, prober)
    curated = parts[-1].outcome.curated
    spans = [(verdict.start_s, verdict.end_s, verdict.reject_reasons) for verdict in curated.verdicts]
    assert spans == [(0, 4, ()), (4, 8, ()), (8, 12, ()), (12, 13.5, ("too_short",))]
    assert [len(part.inputs) for part in parts] == [2, 1]
    assert all(math.isfinite(score) for verdict in curated.verdicts for _, score in verdict.scores)
    assert {name for name, _ in curated.verdicts[0].scores} == set(RECIPE.bounds)


def test_curate_source_kept_clips_are_exact_and_of_equal_length(long_clip, tmp_path, prober):
    outcome = curate(long_clip, tmp_path, prober)[-1].outcome
    bundle = (tmp_path / outcome.curated.bundle_key).read_bytes()
    for clip in outcome.curated.staged:
        mp4, flac, meta_json = (
            bundle[member.offset_bytes : member.offset_bytes + member.member_bytes] for member in clip.members
        )
        meta = json.loads(meta_json)
        with av.open(io.BytesIO(mp4)) as container:
            stream = container.streams.video[0]
            assert (stream.width, stream.height, stream.average_rate) == (512, 512, 8)
            num_frames = sum(1 for _ in container.decode(stream))
        with av.open(io.BytesIO(flac)) as container:
            stream = container.streams.audio[0]
            assert (stream.rate, stream.channels) == (16_000, 1)
            num_samples = sum(frame.samples for frame in container.decode(stream))
        assert (num_frames, num_samples) == (32, 64_000)
        assert (meta["clip_id"], meta["num_frames"], meta["num_samples"]) == (clip.clip_id, 32, 64_000)


def test_curate_source_embed_inputs_are_small_pictures_and_own_sound(long_clip, tmp_path, prober):
    inputs = [clip for part in curate(long_clip, tmp_path, prober) for clip in part.inputs]
    assert [clip.rgb_NHWC.shape for clip in inputs] == [(4, 224, 224, 3)] * 3
    assert [clip.mono_E.shape for clip in inputs] == [(192_000,)] * 3
    assert all(np.abs(clip.mono_E).max() > 0.05 for clip in inputs)


def test_curate_source_twice_gives_the_same_bytes_and_leaves_no_scratch(long_clip, tmp_path, prober):
    digests = set()
    for name in ("a", "b"):
        outcome = curate(long_clip, tmp_path / name, prober)[-1].outcome
        bundle = (tmp_path / name / outcome.curated.bundle_key).read_bytes()
        digests.add(hashlib.sha256(bundle).hexdigest())
        assert list((tmp_path / name / "work").iterdir()) == []
    assert len(digests) == 1
    with tarfile.open(fileobj=io.BytesIO(bundle)) as tar:
        suffixes = [name.partition(".")[2] for name in tar.getnames()]
    assert suffixes == ["mp4", "flac", "json"] * 3


def test_curate_source_header_reject_decodes_nothing_and_spans_the_source(tmp_path, prober):
    path = make_clip(tmp_path / "a.mp4", duration_s=5, video="testsrc2=size=320x240:rate=15", audio="")
    (part,) = curate(path, tmp_path / "root", prober)
    (verdict,) = part.outcome.curated.verdicts
    assert verdict.stage == "screen"
    assert verdict.reject_reasons == ("frame_rate_fps", "no_audio", "short_side_px")
    assert (verdict.start_s, verdict.end_s) == (0, pytest.approx(5, abs=0.1))
    assert (part.inputs, part.outcome.curated.bundle_key) == ((), "")
    assert not (tmp_path / "root" / "staged").exists()


def test_curate_source_all_windows_rejected_leaves_no_bundle(tmp_path, prober):
    path = make_clip(tmp_path / "a.mp4", duration_s=5, video="color=gray:size=640x480:rate=25")
    curated = curate(path, tmp_path / "root", prober)[-1].outcome.curated
    assert all("laplacian_variance" in verdict.reject_reasons for verdict in curated.verdicts[:1])
    assert (curated.staged, curated.bundle_key) == ((), "")
    assert list((tmp_path / "root").glob("staged/*/*")) == []


def test_curate_source_truncated_source_fails_and_leaves_no_bundle(long_clip, tmp_path, prober):
    whole = make_clip(tmp_path / "whole.mp4", duration_s=13.5, options=("-movflags", "+faststart"))
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    with pytest.raises(Truncated, match=r"13\.5.* s that its header promises"):
        curate(cut, tmp_path / "root", prober)
    assert list((tmp_path / "root").glob("staged/*/*")) == []


def test_curate_source_span_gives_only_that_part(long_clip, tmp_path, prober):
    outcome = curate(long_clip, tmp_path, prober, span_start_s=2.0, span_end_s=6.0)[-1].outcome
    (verdict,) = outcome.curated.verdicts
    assert (verdict.start_s, verdict.end_s, verdict.kept) == (2, 6, True)
    assert outcome.curated.bundle_key == bundle_key(outcome.item.source_id, RECIPE.recipe_id)


def test_curate_source_span_beyond_the_end_raises_too_short(long_clip, tmp_path, prober):
    with pytest.raises(TooShort, match="at least one frame"):
        curate(long_clip, tmp_path, prober, span_start_s=50.0, span_end_s=60.0)


def test_curate_source_whose_sound_changes_on_the_way_is_refused(tmp_path, prober):
    """ffmpeg would start its filters again there, and the sound would come late by what was before."""
    for name, channels in (("a", "2"), ("b", "1")):
        make_clip(tmp_path / f"{name}.ts", duration_s=6, options=("-ac", channels))
    path = tmp_path / "joined.ts"
    path.write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    with pytest.raises(Undecodable, match="Changing audio frame properties"):
        curate(path, tmp_path / "root", prober)


def test_curate_source_whose_sound_ends_early_keeps_what_both_streams_cover(tmp_path, prober):
    path = make_clip(tmp_path / "a.mp4", duration_s=14, audio=f"{SPEECH}:d=7")
    verdicts = curate(path, tmp_path / "root", prober)[-1].outcome.curated.verdicts
    spans = [(verdict.start_s, verdict.end_s, verdict.reject_reasons) for verdict in verdicts]
    assert spans == [(0, 4, ()), (4, 7, ())]


def test_curate_source_too_long_and_narrow_raises_media_too_large(tmp_path, prober):
    path = make_clip(tmp_path / "a.mp4", duration_s=4, video="testsrc2=size=4800x480:rate=25")
    with pytest.raises(MediaTooLarge, match="4800 x 480"):
        curate(path, tmp_path / "root", prober)


def test_curate_source_matroska_that_starts_late_is_whole(long_clip, tmp_path, prober):
    ffmpeg("-i", long_clip, "-c", "copy", "-output_ts_offset", "7.3", tmp_path / "late.mkv")
    verdicts = curate(tmp_path / "late.mkv", tmp_path / "root", prober)[-1].outcome.curated.verdicts
    assert [verdict.kept for verdict in verdicts] == [True, True, True, False]


@needs_corpus
@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("noaudio_480p.mp4", {"no_audio"}),
        ("nasa_180p_8khz.mp4", {"short_side_px", "sample_rate_hz"}),
        ("street_360p.mp4", {"short_side_px"}),
        ("pancake_240p_opus.mkv", {"short_side_px"}),
        ("lecture_360p.mp4", {"short_side_px"}),
        ("cockatoo_720p_20fps.mp4", {"frame_rate_fps"}),
        ("carphone_144p_sar.mp4", {"short_side_px", "no_audio"}),
        ("corrupted.mp4", {"frame_rate_fps", "no_audio"}),
    ],
)
def test_curate_source_corpus_file_is_rejected_for_all_its_reasons(name, reasons, tmp_path, prober):
    (part,) = curate(CORPUS / name, tmp_path, prober)
    assert set(part.outcome.curated.verdicts[0].reject_reasons) == reasons


@needs_corpus
@pytest.mark.parametrize("name", ["vggsound_0B4dYTMsgHA_000130.mp4", "bigbuckbunny_720p.mp4"])
def test_curate_source_corpus_file_is_measured_plausibly(name, tmp_path, prober):
    (verdict,) = curate(CORPUS / name, tmp_path, prober, load_recipe("demo", []))[-1].outcome.curated.verdicts
    scores = dict(verdict.scores)
    assert verdict.kept
    assert 100 < scores["laplacian_variance"] < 1000
    assert 10 < scores["snr_db"] < 40
    assert scores["silence_ratio"] < 0.2
    assert scores["clipped_ratio"] < 0.01
    assert scores["cuts_per_s"] < 0.5
