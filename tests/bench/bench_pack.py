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
import pyarrow as pa
import pyarrow.parquet as pq

from infra.store import LocalStore, Store
from infra.units import BYTES_PER_MIB
from pipeline.pack_dataset import ShardTask, write_shard
from pipeline.shard_plan import PLAN_NAME
from shards.manifest import member_columns
from shards.plan import PlannedShard
from shards.schema import EmbeddingModels, StagedMeta, npy_bytes, sample_key
from shards.writer import ShardWriter
from tests.bench.report import NUM_ROUNDS, Figure, Report, say

# A ten-second clip of the accepted corpus files. Source: their bundles under the recipe `default` hold 0.08 to
# 0.56 MB of mp4 and 0.19 to 0.27 MB of flac for each.
_MP4_BYTES, _FLAC_BYTES = 400_000, 200_000
_NUM_SOURCES, _CLIPS_PER_SOURCE = 100, 4
_CLIP_S, _NUM_DIMS = 10, 512
_BAR_RATIO = 0.6
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
        task = _task(LocalStore(place))
        shard = place / "v1" / task.shard.name
        shard_bytes = write_shard(task).shard_bytes
        members = place / "members"
        members.mkdir()
        subprocess.run(["tar", "-xf", shard, "-C", members], check=True)
        pack, bare = partial(write_shard, task), partial(_tar_and_hash, members, place / "bare.tar")
        bare()
        pack_s, bare_s = [], []
        for round_index in range(NUM_ROUNDS):
            say(f"round {round_index + 1} of {NUM_ROUNDS}")
            pack_s.append(_wall_s(pack, shard))
            bare_s.append(_wall_s(bare, place / "bare.tar"))
    shard_mib = shard_bytes / BYTES_PER_MIB
    ratios = tuple(bare / ours for ours, bare in zip(pack_s, bare_s, strict=True))
    report.add(_rate("pack", shard_mib, pack_s))
    report.add(_rate("tar and sha256sum", shard_mib, bare_s))
    report.add(
        Figure(
            case="pack",
            metric="throughput_ratio",
            unit="ratio",
            values=ratios,
            bar=_BAR_RATIO,
            more_is_better=True,
        )
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


def _task(store: LocalStore) -> ShardTask:
    """One shard's worth of clips, staged in bundles of random bytes, and the plan for it."""
    rng = np.random.default_rng(0)
    rows = [row for index in range(_NUM_SOURCES) for row in _staged_source(store, f"{index:016x}", rng)]
    # In the order of a pack, which leaves no two clips of a source together.
    plan = pa.Table.from_pylist([rows[index] for index in rng.permutation(len(rows))])
    pq.write_table(plan, store.folder / PLAN_NAME)
    shard = PlannedShard(name="train-000000.tar", split="train", first_row=0, num_samples=len(rows))
    return ShardTask(root=store, versions=store, version=1, plan_key=PLAN_NAME, models=_MODELS, shard=shard)


def _staged_source(store: Store, source_id: str, rng: np.random.Generator) -> Iterator[dict[str, object]]:
    """Write the bundles of one source; what the plan says of its clips."""
    stem = f"staged/{source_id[:2]}/{source_id}"
    with ShardWriter(store, f"{stem}.tar") as bundle, ShardWriter(store, f"{stem}.npy.tar") as embeddings:
        for index in range(_CLIPS_PER_SOURCE):
            meta = _meta(source_id, index)
            media = {"mp4": rng.bytes(_MP4_BYTES), "flac": rng.bytes(_FLAC_BYTES)}
            bundle.write(meta.clip_id, {**media, "json": meta.to_json_bytes()})
            arrays = {"clip.npy": rng.random((_CLIP_S, _NUM_DIMS)), "clap.npy": rng.random(_NUM_DIMS)}
            members = {ext: npy_bytes(array.astype(np.float16)) for ext, array in arrays.items()}
            embeddings.write(meta.clip_id, members)
    clips, vectors = bundle.record.by_key(), embeddings.record.by_key()
    for key in clips:
        places = {
            column: value
            for member in (*clips[key], *vectors[key])
            for column, value in zip(member_columns(member.ext), member[2:], strict=True)
        }
        keys = {"bundle_key": f"{stem}.tar", "embedding_key": f"{stem}.npy.tar"}
        yield {"clip_id": key, "split": "train", "duration_s": float(_CLIP_S)} | keys | places


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
