"""The demo's media: each sound and picture is what its name says, and breaks what it is meant to break."""

import os
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from filters.registry import all_filters
from infra.errors import ConfigError
from infra.media import Probe
from infra.media.child import find_ffmpeg
from infra.media.reader import MediaReader, ReadPlan
from model.encoders.speech import load_speech
from pipeline.candidate import Candidate
from pipeline.demo import sounds
from pipeline.demo.clips import (
    BAD_CLIPS,
    BUNNY_FILE,
    GOOD_CLIPS,
    HLS_FOLDER,
    HLS_PLAYLIST,
    TRUNCATED_FILE,
    DemoClip,
)
from pipeline.demo.media import make_demo_media
from pipeline.demo.verdicts import BUNNY_BREAKS
from pipeline.measure_clip import measure_clip
from pipeline.screen_source import Scores, screen_source

_ALL_CLIPS = (*GOOD_CLIPS, *BAD_CLIPS)
_RATE_FPS = Fraction(8)
_WINDOW_FRAMES = 80
_BREAKS_BY_FILE = {clip.file_name: clip.breaks for clip in _ALL_CLIPS} | {BUNNY_FILE: BUNNY_BREAKS}
_BOUNDS = {spec.name: spec.keep for spec in all_filters()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("demo")
    make_demo_media(made, ffmpeg=find_ffmpeg())
    return made


# ---- sounds ----


@pytest.mark.parametrize(
    "sound",
    [
        sounds.speech_like,
        sounds.pings,
        sounds.plucks,
        sounds.silence,
        sounds.noisy_speech,
        sounds.clipped_speech,
    ],
)
@pytest.mark.parametrize("sample_rate_hz", [8_000, 44_100])
def test_every_sound_has_its_length_range_and_same_bytes_again(sound: object, sample_rate_hz: int) -> None:
    assert callable(sound)
    samples_T = sound(2.5, sample_rate_hz, 3)
    assert samples_T.dtype == np.float32
    assert samples_T.shape == (2.5 * sample_rate_hz,)
    assert np.abs(samples_T).max() <= 1
    assert samples_T.tobytes() == sound(2.5, sample_rate_hz, 3).tobytes()


def test_silence_is_digital_zero() -> None:
    assert not sounds.silence(1.0, 48_000, 1).any()


def test_noisy_speech_has_noise_of_twice_the_power_of_its_speech() -> None:
    speech_T = 0.5 * sounds.speech_like(8.0, 48_000, 2).astype(np.float64)
    noise_T = sounds.noisy_speech(8.0, 48_000, 2) - speech_T
    snr_db = 10 * np.log10(np.mean(speech_T**2) / np.mean(noise_T**2))
    assert snr_db == pytest.approx(-3.0, abs=0.1)


def test_clipped_speech_is_at_full_scale_a_third_of_the_time() -> None:
    samples_T = np.abs(sounds.clipped_speech(8.0, 48_000, 2))
    assert np.mean(samples_T == 1.0) > 0.33


# ---- files ----


@pytest.mark.parametrize("clip", _ALL_CLIPS, ids=lambda clip: clip.name)
def test_make_demo_media_header_says_what_the_clip_promises(folder: Path, clip: DemoClip) -> None:
    with av.open(str(folder / clip.file_name)) as container:
        video = container.streams.video[0]
        short_side_px = min(video.width, video.height)
        assert video.average_rate is not None
        assert (480 <= short_side_px <= 1080) == ("short_side_px" not in clip.breaks)
        assert (video.average_rate >= Fraction(24)) == ("frame_rate_fps" not in clip.breaks)
        assert float(video.duration * video.time_base) == pytest.approx(clip.duration_s, abs=0.1)
        rates_hz = [audio.rate for audio in container.streams.audio]
    assert rates_hz == ([] if clip.sound is None else [clip.sample_rate_hz])


def test_make_demo_media_bunny_has_picture_and_sound(folder: Path) -> None:
    with av.open(str(folder / BUNNY_FILE)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.width, video.height, audio.rate) == (1280, 720, 48_000)


def test_make_demo_media_playlist_names_segments_that_are_there(folder: Path) -> None:
    lines = (folder / HLS_FOLDER / HLS_PLAYLIST).read_text().splitlines()
    segments = [line for line in lines if not line.startswith("#")]
    assert len(segments) >= 4
    assert all((folder / HLS_FOLDER / segment).stat().st_size > 0 for segment in segments)
    assert lines[-1] == "#EXT-X-ENDLIST"


def test_make_demo_media_truncated_file_does_not_open(folder: Path) -> None:
    with pytest.raises(av.error.InvalidDataError):
        av.open(str(folder / TRUNCATED_FILE))


def test_make_demo_media_again_does_nothing(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    make_demo_media(folder, ffmpeg=Path("/no/such/ffmpeg"))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_make_demo_media_file_lost_starts_again_and_says_when_it_cannot(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, copy_function=os.link)
    (copy / "noisy.mp4").unlink()
    with pytest.raises(ConfigError, match="/no/such/ffmpeg must be able to make the demo's media"):
        make_demo_media(copy, ffmpeg=Path("/no/such/ffmpeg"))
    assert not (copy / "complete.json").exists()


def test_good_clips_give_enough_to_train_on() -> None:
    assert len(GOOD_CLIPS) >= 8
    num_windows = sum(int(clip.duration_s // 10) for clip in GOOD_CLIPS)
    assert num_windows + 1 >= 16  # and the five seconds of the bunny


# ---- standards, by the real filters at their default bounds ----


def _windows(path: Path, reader: MediaReader, probe: Probe) -> list[tuple[Scores, tuple[str, ...]]]:
    """Scores and reasons of every ten-second window, decoded as the pipeline decodes."""
    plan = ReadPlan(frame_rate_fps=_RATE_FPS, short_side_px=512, window_frames=_WINDOW_FRAMES)
    measured = []
    with reader.open(path, probe, plan) as source:
        while (sound := source.sound()).num_frames:
            clip = Candidate(
                source=source,
                probe=probe,
                frame_rate_fps=_RATE_FPS,
                speech=load_speech().probabilities,
                first_frame=0,
                num_frames=sound.num_frames,
                window_CT=sound.native_CT,
            )
            measured.append(
                measure_clip(clip.signal, filters=all_filters(), bounds=_BOUNDS, measure_rejected=True)
            )
            source.advance(_WINDOW_FRAMES)
    return measured


@pytest.mark.parametrize("file_name", sorted(_BREAKS_BY_FILE))
def test_all_filters_demo_clip_breaks_exactly_its_own_standards(
    folder: Path, reader: MediaReader, file_name: str
) -> None:
    """Every standard is measured, also those that the pipeline would not reach after a rejection."""
    probe = reader.probe(folder / file_name)
    header_scores, header_reasons = screen_source(
        probe, filters=all_filters(), bounds=_BOUNDS, min_duration_s=3.0
    )
    windows = _windows(folder / file_name, reader, probe) if probe.has_audio else [((), ())]
    assert len(windows) == max(1, round(probe.duration_s / 10)) or not probe.has_audio
    found = [set(header_reasons) | set(reasons) for _, reasons in windows]
    told = [dict(header_scores) | dict(scores) for scores, _ in windows]
    expected = set(_BREAKS_BY_FILE[file_name])
    if "keyframe_laplacian_variance" in expected:  # Key frames only reject early what all frames would.
        expected.add("laplacian_variance")
    assert found == [expected] * len(windows), told
