"""A small real dataset: clips made by ffmpeg, packed by the project's own writer."""

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from infra.store import LocalStore
from shards.schema import ClipMeta, EmbeddingModels, Sample, sample_key
from tests.shards.made_versions import make_version
from train.config import TrainConfig, load_train_config

FRAME_RATE_FPS = 8
SAMPLE_RATE_HZ = 16_000

# Small enough for two shared cores; overrides of the tiny recipe, so that the tests read the real file.
SMALL_MODEL = (
    "data.frame_px=32",
    "model.width=64",
    "model.depth=1",
    "model.num_heads=2",
    "model.ffn_width=128",
    "model.audio_decoder_width=64",
    "model.audio_decoder_depth=1",
    "model.audio_decoder_num_heads=2",
    "model.audio_decoder_ffn_width=64",
    "model.video_decoder_width=32",
    "model.video_decoder_depth=1",
    "model.num_registers=2",
)

UNTRAINED = EmbeddingModels(
    clip_model="ViT-B-32", clip_weights="untrained", clap_model="HTSAT-tiny", clap_weights="untrained"
)


def ffmpeg(*arguments: str) -> None:
    """Make the media file named last."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-nostdin", *arguments]
    subprocess.run(command, check=True, capture_output=True)


def make_sample(folder: Path, *, index: int, duration_s: int) -> Sample:
    """A moving test picture, and a tone with noise, that no other index has."""
    mp4 = folder / f"{index}.mp4"
    picture = f"testsrc2=size=128x128:rate={FRAME_RATE_FPS}:duration={duration_s},hue=h={40 * index}"
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        picture,
        "-pix_fmt",
        "yuv420p",
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        str(mp4),
    )
    tone = f"sine=frequency={200 + 60 * index}:sample_rate={SAMPLE_RATE_HZ}:duration={duration_s}"
    # A sine alone has mel bins at the floor of the logarithm, which no recording has.
    noise = f"anoisesrc=amplitude=0.05:sample_rate={SAMPLE_RATE_HZ}:duration={duration_s}:seed={index}"
    inputs = ("-f", "lavfi", "-i", tone, "-f", "lavfi", "-i", noise)
    mixed = ("-filter_complex", "amix=inputs=2:normalize=0", "-ac", "1", "-sample_fmt", "s16")
    flac = folder / f"{index}.flac"
    ffmpeg(*inputs, *mixed, str(flac))
    key = sample_key(f"source{index}", start_ms=0, end_ms=1000 * duration_s)
    meta = ClipMeta(
        clip_id=key,
        source_id=f"source{index}",
        recipe_id="test",
        url="",
        title="",
        uploader="",
        channel_id="UC1",
        video_id="youtube:v",
        licence="",
        webpage_url="https://example.org/v",
        upload_date="2026-01-01",
        opt_out="",
        tool_versions="avgen 0",
        start_s=0.0,
        end_s=float(duration_s),
        num_frames=duration_s * FRAME_RATE_FPS,
        frame_rate_fps=float(FRAME_RATE_FPS),
        width_px=128,
        height_px=128,
        num_samples=duration_s * SAMPLE_RATE_HZ,
        sample_rate_hz=SAMPLE_RATE_HZ,
        scores={},
        clip_model=UNTRAINED.clip_model,
        clip_weights=UNTRAINED.clip_weights,
        clap_model=UNTRAINED.clap_model,
        clap_weights=UNTRAINED.clap_weights,
    )
    rng = np.random.default_rng(index)
    return Sample(
        key=key,
        mp4=mp4.read_bytes(),
        flac=flac.read_bytes(),
        meta=meta,
        clip_embedding_ND=rng.standard_normal((duration_s, 768)).astype(np.float16),
        clap_embedding_D=rng.standard_normal(512).astype(np.float16),
    )


def write_dataset(versions_dir: Path, samples: list[Sample]) -> Path:
    """One shard and its manifest; the folder of the version."""
    make_version(LocalStore(versions_dir), 1, {"train-000000.tar": samples}, models=UNTRAINED)
    return versions_dir / "v1"


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Seven clips of 3 s and, last, one of 1 s."""
    folder = tmp_path_factory.mktemp("media")
    return [make_sample(folder, index=index, duration_s=3 if index < 7 else 1) for index in range(8)]


@pytest.fixture(scope="session")
def dataset_dir(samples: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The eight samples as a finished dataset version."""
    return write_dataset(tmp_path_factory.mktemp("dataset"), samples)


@pytest.fixture(scope="session")
def small_config() -> TrainConfig:
    """The tiny recipe with a still smaller model."""
    return load_train_config("tiny", overrides=SMALL_MODEL)
