"""One source through probe, screen, decode, measure, split, transcode, bundle: real ffmpeg, real filters."""

import hashlib
import io
import json
import math
import tarfile
from contextlib import closing
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest

from infra.errors import MediaTooLarge, TooShort, Truncated, Undecodable
from infra.media.reader import MediaReader
from infra.root import Root
from model.encoders.speech import SpeechDetector, load_speech
from pipeline.curate_source import Workplace, bundle_stem, curate_source
from pipeline.recipe import Recipe, load_recipe
from pipeline.records import CuratePart
from tests.media import CORPUS, SPEECH, ffmpeg, make_clip, needs_corpus
from tests.stored import store

RECIPE = load_recipe("demo", ["split.clip_s=4", "embed.clips_per_batch=2"])


@cache
def speech() -> SpeechDetector:
    return load_speech()


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory) -> Path:
    return make_clip(tmp_path_factory.mktemp("media") / "long.mp4", duration_s=13.5)


def curate(
    path: Path, root: Path, reader: MediaReader, recipe: Recipe = RECIPE, **span: float
) -> list[CuratePart]:
    root.mkdir(parents=True, exist_ok=True)
    source = store(path, recipe=RECIPE, root=root, **span)
    work_dir = root / "work"
    work_dir.mkdir(exist_ok=True)
    place = Workplace(root=Root.of(root), work_dir=work_dir, reader=reader, speech=speech().probabilities)
    return list(curate_source(source.item, source.fetched, recipe=recipe, workplace=place))


def test_curate_source_long_clip_accounts_for_every_second(long_clip, tmp_path, reader):
    parts = curate(long_clip, tmp_path, reader)
    curated = parts[-1].outcome.curated
    spans = [(verdict.start_s, verdict.end_s, verdict.reject_reasons) for verdict in curated.verdicts]
    assert spans == [(0, 4, ()), (4, 8, ()), (8, 12, ()), (12, 13.5, ("too_short",))]
    assert [len(part.inputs) for part in parts] == [2, 1]
    assert all(math.isfinite(score) for verdict in curated.verdicts for _, score in verdict.scores)
    assert {name for name, _ in curated.verdicts[0].scores} == set(RECIPE.bounds)


def test_curate_source_kept_clips_are_exact_and_of_equal_length(long_clip, tmp_path, reader):
    outcome = curate(long_clip, tmp_path, reader)[-1].outcome
    bundle = (tmp_path / outcome.curated.staged[0].bundle_key).read_bytes()
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


def test_curate_source_embed_inputs_are_small_pictures_and_own_sound(long_clip, tmp_path, reader):
    inputs = [clip for part in curate(long_clip, tmp_path, reader) for clip in part.inputs]
    assert [clip.rgb_NHWC.shape for clip in inputs] == [(4, 224, 224, 3)] * 3
    assert [clip.mono_E.shape for clip in inputs] == [(192_000,)] * 3
    assert all(np.abs(clip.mono_E).max() > 0.05 for clip in inputs)


def test_curate_source_twice_gives_the_same_bytes_and_leaves_no_scratch(long_clip, tmp_path, reader):
    digests = set()
    for name in ("a", "b"):
        outcome = curate(long_clip, tmp_path / name, reader)[-1].outcome
        bundle = (tmp_path / name / outcome.curated.staged[0].bundle_key).read_bytes()
        digests.add(hashlib.sha256(bundle).hexdigest())
        assert list((tmp_path / name / "work").iterdir()) == []
    assert len(digests) == 1
    with tarfile.open(fileobj=io.BytesIO(bundle)) as tar:
        suffixes = [name.partition(".")[2] for name in tar.getnames()]
    assert suffixes == ["mp4", "flac", "json"] * 3


def test_curate_source_header_reject_decodes_nothing_and_spans_the_source(tmp_path, reader):
    path = make_clip(tmp_path / "a.mp4", duration_s=5, video="testsrc2=size=320x240:rate=15", audio="")
    (part,) = curate(path, tmp_path / "root", reader)
    (verdict,) = part.outcome.curated.verdicts
    assert verdict.stage == "screen"
    assert verdict.reject_reasons == ("frame_rate_fps", "no_audio", "short_side_px")
    assert (verdict.start_s, verdict.end_s) == (0, pytest.approx(5, abs=0.1))
    assert (part.inputs, part.outcome.curated.staged) == ((), ())
    assert not (tmp_path / "root" / "staged").exists()


def test_curate_source_gives_the_same_bytes_whatever_its_worker_did_before(long_clip, tmp_path):
    """So it does not matter how many workers share a run, and which of them gets a source."""
    other = make_clip(
        tmp_path / "other.mkv",
        duration_s=5,
        video="mandelbrot=size=1280x720:rate=30",
        audio=f"{SPEECH},aformat=channel_layouts=5.1",
        options=("-bf", "3"),
    )
    digests = set()
    for name, before in (("fresh", []), ("used", [other, long_clip, other])):
        with closing(MediaReader()) as reader:
            for path in before:
                curate(path, tmp_path / f"{name}-before", reader)
            outcome = curate(long_clip, tmp_path / name, reader)[-1].outcome
        digests.add(
            hashlib.sha256((tmp_path / name / outcome.curated.staged[0].bundle_key).read_bytes()).hexdigest()
        )
    assert len(digests) == 1


def test_curate_source_all_windows_rejected_leaves_no_bundle(tmp_path, reader):
    path = make_clip(tmp_path / "a.mp4", duration_s=5, video="color=gray:size=640x480:rate=25")
    curated = curate(path, tmp_path / "root", reader)[-1].outcome.curated
    assert curated.verdicts[0].reject_reasons == ("keyframe_laplacian_variance",)
    assert "laplacian_variance" not in dict(curated.verdicts[0].scores)
    assert (curated.staged, curated.staged) == ((), ())
    assert list((tmp_path / "root").glob("staged/*/*")) == []


def test_curate_source_truncated_source_fails_and_leaves_no_bundle(long_clip, tmp_path, reader):
    whole = make_clip(tmp_path / "whole.mp4", duration_s=13.5, options=("-movflags", "+faststart"))
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    with pytest.raises(Truncated, match=r"13\.5.* s that its header promises"):
        curate(cut, tmp_path / "root", reader)
    assert list((tmp_path / "root").glob("staged/*/*")) == []


def test_curate_source_span_gives_only_that_part(long_clip, tmp_path, reader):
    outcome = curate(long_clip, tmp_path, reader, span_start_s=2.0, span_end_s=6.0)[-1].outcome
    (verdict,) = outcome.curated.verdicts
    assert (verdict.start_s, verdict.end_s, verdict.kept) == (2, 6, True)
    assert (
        outcome.curated.staged[0].bundle_key
        == f"{bundle_stem(outcome.item.source_id, RECIPE.recipe_id, 0)}.tar"
    )


def test_curate_source_span_beyond_the_end_raises_too_short(long_clip, tmp_path, reader):
    with pytest.raises(TooShort, match="at least one frame"):
        curate(long_clip, tmp_path, reader, span_start_s=50.0, span_end_s=60.0)


def test_curate_source_whose_sound_changes_on_the_way_is_refused(tmp_path, reader):
    """ffmpeg would start its filters again there, and the sound would come late by what was before."""
    for name, channels in (("a", "2"), ("b", "1")):
        make_clip(tmp_path / f"{name}.ts", duration_s=6, options=("-ac", channels))
    path = tmp_path / "joined.ts"
    path.write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    with pytest.raises(Undecodable, match="all sound must be"):
        curate(path, tmp_path / "root", reader)


def test_curate_source_whose_sound_ends_early_keeps_what_both_streams_cover(tmp_path, reader):
    path = make_clip(tmp_path / "a.mp4", duration_s=14, audio=f"{SPEECH}:d=7")
    verdicts = curate(path, tmp_path / "root", reader)[-1].outcome.curated.verdicts
    spans = [(verdict.start_s, verdict.end_s, verdict.reject_reasons) for verdict in verdicts]
    assert spans == [(0, 4, ()), (4, 7, ())]


def test_curate_source_too_long_and_narrow_raises_media_too_large(tmp_path, reader):
    path = make_clip(tmp_path / "a.mp4", duration_s=4, video="testsrc2=size=4800x480:rate=25")
    with pytest.raises(MediaTooLarge, match="4800 x 480"):
        curate(path, tmp_path / "root", reader)


def test_curate_source_matroska_that_starts_late_is_whole(long_clip, tmp_path, reader):
    ffmpeg("-i", long_clip, "-c", "copy", "-output_ts_offset", "7.3", tmp_path / "late.mkv")
    verdicts = curate(tmp_path / "late.mkv", tmp_path / "root", reader)[-1].outcome.curated.verdicts
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
def test_curate_source_corpus_file_is_rejected_for_all_its_reasons(name, reasons, tmp_path, reader):
    (part,) = curate(CORPUS / name, tmp_path, reader)
    assert set(part.outcome.curated.verdicts[0].reject_reasons) == reasons


@needs_corpus
@pytest.mark.parametrize("name", ["vggsound_0B4dYTMsgHA_000130.mp4", "bigbuckbunny_720p.mp4"])
def test_curate_source_corpus_file_is_measured_plausibly(name, tmp_path, reader):
    (verdict,) = curate(CORPUS / name, tmp_path, reader, load_recipe("demo", []))[-1].outcome.curated.verdicts
    scores = dict(verdict.scores)
    assert verdict.kept
    assert 100 < scores["laplacian_variance"] < 1000
    assert 10 < scores["snr_db"] < 40
    assert scores["silence_ratio"] < 0.2
    assert scores["clipped_ratio"] < 0.01
    assert scores["cuts_per_s"] < 0.5


def spans(parts: list[CuratePart]) -> list[tuple[float, float, tuple[str, ...]]]:
    verdicts = parts[-1].outcome.curated.verdicts
    return [(verdict.start_s, verdict.end_s, verdict.reject_reasons) for verdict in verdicts]


def with_settings(*overrides: str) -> Recipe:
    return load_recipe("demo", ["split.clip_s=4", *overrides])


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["split.stride_ratio=0.5", "split.min_clip_s=2"],
            [(0, 4), (2, 6), (4, 8), (6, 10), (8, 12), (10, 13.5), (12, 13.5, "too_short")],
        ),
        (["split.stride_ratio=2"], [(0, 4), (8, 12)]),
        (["split.max_clips_per_source=2"], [(0, 4), (4, 8), (8, 13.5, "max_clips")]),
    ],
    ids=["overlap", "gaps", "enough"],
)
def test_curate_source_stride_and_most_clips_are_as_the_recipe_says(
    long_clip, tmp_path, reader, overrides, expected
):
    found = spans(curate(long_clip, tmp_path, reader, with_settings(*overrides)))
    assert [(start_s, round(end_s, 1), *reasons) for start_s, end_s, reasons in found] == expected


@pytest.fixture(scope="module")
def two_shots(tmp_path_factory) -> Path:
    """The picture changes at 5.3 s; before it stands on the left half, after it on the right."""
    left, right = (
        f"{scene}=size=640x480:rate=25,trim=end={end_s},drawbox=x={x}:w=320:h=480:color=black:t=fill"
        for scene, end_s, x in (("testsrc2", 5.3, 320), ("mandelbrot", 6.2, 0))
    )
    video = f"{left}[a];{right}[b];[a][b]concat=n=2:v=1"
    return make_clip(tmp_path_factory.mktemp("shots") / "a.mp4", duration_s=11.5, video=video)


def right_half_is_lit(mp4: bytes) -> list[bool]:
    with av.open(io.BytesIO(mp4)) as video:
        grays = [frame.to_ndarray(format="gray") for frame in video.decode(video=0)]
    return [bool(gray_HW[:, 256:].mean() > gray_HW[:, :256].mean()) for gray_HW in grays]


def test_curate_source_in_shots_mode_no_clip_holds_the_frame_after_a_cut(two_shots, tmp_path, reader):
    """Row 43, at 5.375 s, is the first of the second shot."""
    recipe = with_settings("split.mode=shots", "split.min_clip_s=1")
    parts = curate(two_shots, tmp_path, reader, recipe)
    assert spans(parts) == [(0, 4, ()), (4, 5.375, ()), (5.375, 9.375, ()), (9.375, 11.5, ())]
    curated = parts[-1].outcome.curated
    with tarfile.open(tmp_path / curated.staged[0].bundle_key) as bundle:
        mp4s = [
            bundle.extractfile(member).read() for member in bundle.getmembers() if member.name.endswith("mp4")
        ]
    assert [set(right_half_is_lit(mp4)) for mp4 in mp4s] == [{False}, {False}, {True}, {True}]


def test_curate_source_in_window_mode_a_clip_may_hold_a_cut(two_shots, tmp_path, reader):
    parts = curate(two_shots, tmp_path, reader, with_settings())
    assert [span[:2] for span in spans(parts)] == [(0, 4), (4, 8), (8, 11.5)]


def test_curate_source_rejected_by_its_sound_is_not_looked_at(tmp_path, reader):
    """Unless the recipe says so; then every score is there and the reasons are all."""
    path = make_clip(
        tmp_path / "a.mp4", duration_s=4, video="color=gray:size=640x480:rate=25", audio="anullsrc=r=48000"
    )
    (quick,) = curate(path, tmp_path / "a", reader, with_settings())[-1].outcome.curated.verdicts
    recipe = with_settings("split.measure_rejected=true")
    (whole,) = curate(path, tmp_path / "b", reader, recipe)[-1].outcome.curated.verdicts
    assert quick.reject_reasons == ("silence_ratio", "snr_db")
    assert {"speech_ratio", "keyframe_laplacian_variance", "motion_score"}.isdisjoint(dict(quick.scores))
    assert set(whole.reject_reasons) == {
        "silence_ratio", "snr_db", "keyframe_laplacian_variance", "laplacian_variance"
    }  # fmt: skip
    assert dict(whole.scores).keys() == RECIPE.bounds.keys()
    assert whole.scores[: len(quick.scores)] == quick.scores


@pytest.mark.parametrize(
    ("crop", "expected"), [("center", (130, 130)), ("smart", (130, 130)), ("pad", (16, 130))]
)
def test_curate_source_crop_is_as_the_recipe_says(tmp_path, reader, crop, expected):
    """Luma of the written top edge and middle."""
    path = make_clip(
        tmp_path / "a.mp4", duration_s=4, video="color=0x868686:size=1280x480:rate=25,noise=alls=60"
    )
    parts = curate(path, tmp_path, reader, with_settings(f"transcode.crop={crop}"))
    with tarfile.open(tmp_path / parts[-1].outcome.curated.staged[0].bundle_key) as bundle:
        mp4 = bundle.extractfile(bundle.getmembers()[0]).read()
    with av.open(io.BytesIO(mp4)) as video:
        luma_HW = np.frombuffer(next(video.decode(video=0)).planes[0], np.uint8).reshape(512, 512)
    assert (luma_HW[:32].mean(), luma_HW[240:272].mean()) == pytest.approx(expected, abs=4)
