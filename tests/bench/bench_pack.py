"""Packing staged clips into a shard against `tar` and `sha256sum` over the same bytes.

Both read from the page cache and end with the tar on disk (fsync) and its sha256 known.
"""

import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from infra.units import BYTES_PER_MIB
from pipeline.pack_dataset import PackedClip, ShardShare, write_share
from shards.schema import EmbeddingModels, StagedMeta, sample_key
from shards.writer import ShardWriter
from tests.bench.report import NUM_ROUNDS, Figure, Report, say

# A ten-second clip of the accepted corpus files. Source: their bundles under the recipe `default` hold 0.08 to
# 0.56 MB of mp4 and 0.19 to 0.27 MB of flac for each.
_MP4_BYTES, _FLAC_BYTES = 400_000, 200_000
_NUM_SOURCES, _CLIPS_PER_SOURCE = 100, 4
_CLIP_S, _NUM_DIMS = 10, 512
_MODELS = EmbeddingModels(clip_model="m", clip_weights="untrained", clap_model="m", clap_weights="untrained")


def main() -> None:
    """Measure and report."""
    settings = {
        "num_clips": _NUM_SOURCES * _CLIPS_PER_SOURCE,
        "mp4_bytes": _MP4_BYTES,
        "flac_bytes": _FLAC_BYTES,
    }
    report = Report(
        "pack",
        settings=settings,
        num_warm_ups=1,
        ceiling="tar of the shard's members as loose files, sha256sum and sync of the result",
    )
    with tempfile.TemporaryDirectory(prefix="avgen-bench-") as folder:
        place = Path(folder)
        say("staging bundles")
        share = _share(place)
        shard_bytes = write_share(share).shard_bytes
        members = place / "members"
        members.mkdir()
        subprocess.run(["tar", "-xf", share.path, "-C", members], check=True)
        pack, bare = partial(write_share, share), partial(_tar_and_hash, members, place / "bare.tar")
        bare()
        pack_s, bare_s = [], []
        for round_index in range(NUM_ROUNDS):
            say(f"round {round_index + 1} of {NUM_ROUNDS}")
            pack_s.append(_wall_s(pack, share.path))
            bare_s.append(_wall_s(bare, place / "bare.tar"))
    shard_mib = shard_bytes / BYTES_PER_MIB
    ratios = tuple(bare / ours for ours, bare in zip(pack_s, bare_s, strict=True))
    report.add(_rate("pack", shard_mib, pack_s))
    report.add(_rate("tar and sha256sum", shard_mib, bare_s))
    report.add(
        Figure(case="pack", metric="throughput_ratio", unit="ratio", values=ratios, more_is_better=True)
    )
    report.save()


def _rate(case: str, shard_mib: float, times_s: list[float]) -> Figure:
    values = tuple(shard_mib / time_s for time_s in times_s)
    return Figure(case=case, metric="mib_per_s", unit="MiB/s", values=values, more_is_better=True)


def _wall_s(work: Callable[[], object], result: Path) -> float:
    """Wall time of writing `result` anew."""
    result.unlink()
    start_s = time.perf_counter()
    work()
    return time.perf_counter() - start_s


def _tar_and_hash(members: Path, tar: Path) -> None:
    subprocess.run(["tar", "-cf", tar, "-C", members, "."], check=True)
    subprocess.run(["sha256sum", tar], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["sync", tar], check=True)


def _share(root: Path) -> ShardShare:
    """One shard's worth of clips, staged in bundles of random bytes."""
    rng = np.random.default_rng(0)
    clips = [clip for index in range(_NUM_SOURCES) for clip in _staged_source(root, f"{index:016x}", rng)]
    # In the order of a pack, which leaves no two clips of a source together.
    shuffled = tuple(clips[index] for index in rng.permutation(len(clips)))
    return ShardShare(root=root, path=root / "shard-000000.tar", models=_MODELS, clips=shuffled)


def _staged_source(root: Path, source_id: str, rng: np.random.Generator) -> Iterator[PackedClip]:
    """Write the bundle of one source; what the lake would say of its clips."""
    bundle_key = f"staged/{source_id[:2]}/{source_id}.tar"
    with ShardWriter(root / bundle_key) as bundle:
        for index in range(_CLIPS_PER_SOURCE):
            meta = _meta(source_id, index)
            media = {"mp4": rng.bytes(_MP4_BYTES), "flac": rng.bytes(_FLAC_BYTES)}
            bundle.write(meta.clip_id, {**media, "json": meta.to_json_bytes()})
    for key, members in bundle.record.by_key().items():
        yield PackedClip(
            clip_id=key,
            source_id=source_id,
            duration_s=_CLIP_S,
            bundle_key=bundle_key,
            members=members,
            clip_ND=rng.standard_normal((_CLIP_S, _NUM_DIMS)).astype(np.float16),
            clap_D=rng.standard_normal(_NUM_DIMS).astype(np.float16),
        )


def _meta(source_id: str, index: int) -> StagedMeta:
    start_s, end_s = float(index * _CLIP_S), float((index + 1) * _CLIP_S)
    return StagedMeta(
        clip_id=sample_key(source_id, start_ms=round(start_s * 1000), end_ms=round(end_s * 1000)),
        source_id=source_id,
        recipe_id="0" * 12,
        url=f"https://example.org/{source_id}",
        title="t" * 40,
        uploader="u" * 20,
        channel_id="UC1",
        video_id="youtube:v",
        licence="",
        webpage_url="https://example.org/v",
        upload_date="2026-01-01",
        opt_out="",
        tool_versions="avgen 0",
        start_s=start_s,
        end_s=end_s,
        num_frames=8 * _CLIP_S,
        frame_rate_fps=8.0,
        width_px=512,
        height_px=512,
        num_samples=16_000 * _CLIP_S,
        sample_rate_hz=16_000,
        scores={"snr_db": 20.0, "silence_ratio": 0.1, "cuts_per_s": 0.0},
    )


if __name__ == "__main__":
    main()
