"""Samples whose media are made-up bytes, which is all that this folder ever sees of media."""

import numpy as np

from shards.schema import EmbeddingModels, Sample, StagedMeta, sample_key

MODELS = EmbeddingModels(
    clip_model="ViT-B-32", clip_weights="untrained", clap_model="HTSAT-tiny", clap_weights="untrained"
)


def make_staged_meta(clip_id: str, *, source_id: str = "s0", start_s: float = 0.0) -> StagedMeta:
    return StagedMeta(
        clip_id=clip_id,
        source_id=source_id,
        recipe_id="r0",
        url="https://example.org/v",
        title="A caf\u00e9, filmed",
        uploader="",
        channel_id="UC1",
        video_id="youtube:v",
        licence="CC-BY-4.0",
        webpage_url="https://example.org/v",
        upload_date="2026-01-01",
        opt_out="",
        tool_versions="avgen 0",
        start_s=start_s,
        end_s=start_s + 10.0,
        num_frames=80,
        frame_rate_fps=8.0,
        width_px=512,
        height_px=512,
        num_samples=160_000,
        sample_rate_hz=16_000,
        scores={"snr_db": 21.5, "cuts_per_s": 0.1},
    )


def make_sample(index: int) -> Sample:
    """Sample number `index`; two clips a source."""
    source_id, start_ms = f"source{index // 2:03d}", 10_000 * (index % 2)
    key = sample_key(source_id, start_ms=start_ms, end_ms=start_ms + 10_000)
    rng = np.random.default_rng(index)
    meta = make_staged_meta(key, source_id=source_id, start_s=start_ms / 1000)
    return Sample(
        key=key,
        mp4=rng.bytes(300 + 7 * index),
        flac=rng.bytes(512),
        meta=meta.with_embeddings(MODELS),
        clip_embedding_ND=rng.standard_normal((10, 4)).astype(np.float16),
        clap_embedding_D=rng.standard_normal(6).astype(np.float16),
    )
