"""Reading shards: the shuffled, proven stream against plain webdataset and against reading the bare bytes.

All read from the page cache, in one process. Then random access, and how long a reader of ten million samples
takes to its first sample and to resume (their shards are hard links to one, their index is a whole one).
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa

from infra.store import LocalStore
from infra.units import BYTES_PER_MIB
from shards.manifest import (
    FORMAT_VERSION,
    Manifest,
    ShardEntry,
    ShardRecord,
    SplitEntry,
    index_table,
    shard_name,
    version_key,
)
from shards.read_state import ReadState
from shards.reader import ShardReader
from shards.schema import EmbeddingModels, Sample, StagedMeta, sample_key
from shards.writer import ShardWriter, write_index, write_manifest
from tests.bench.report import NUM_ROUNDS, Figure, Report, say

# A ten-second clip; see bench_pack.py.
_MP4_BYTES, _FLAC_BYTES = 350_000, 150_000
_NUM_SHARDS, _SAMPLES_PER_SHARD = 8, 100
_LARGE_NUM_SHARDS, _LARGE_SAMPLES_PER_SHARD = 10_000, 1000
_NUM_RANDOM = 300
_FIRST_ITEMS = 64
_READ_BYTES = 1 << 20
_CLIP_S, _NUM_DIMS = 10, 512
_MODELS = EmbeddingModels(clip_model="m", clip_weights="untrained", clap_model="m", clap_weights="untrained")
_START = ReadState.start(seed=0)


def main() -> None:
    """Measure and report."""
    settings = {
        "num_shards": _NUM_SHARDS,
        "samples_per_shard": _SAMPLES_PER_SHARD,
        "mp4_bytes": _MP4_BYTES,
        "flac_bytes": _FLAC_BYTES,
        "large_num_shards": _LARGE_NUM_SHARDS,
        "large_samples_per_shard": _LARGE_SAMPLES_PER_SHARD,
    }
    report = Report(
        "reader",
        settings=settings,
        num_warm_ups=1,
        ceiling="reading the same shards' bytes one after the other; plain webdataset over the same shards",
    )
    with tempfile.TemporaryDirectory(prefix="avgen-bench-") as folder:
        versions = LocalStore(Path(folder))
        say("writing shards")
        _make_version(versions, 1)
        _add_streams(report, versions)
        _add_random_access(report, versions)
        say("writing an index of ten million samples")
        _make_large_version(versions, 2)
        _add_large(report, Path(folder))
    report.save()


def _add_streams(report: Report, versions: LocalStore) -> None:
    import webdataset  # Not at the top: it imports torch, whose memory would hide that of the reader.

    reader = ShardReader(versions, 1)
    paths = sorted((versions.folder / "v1").glob("*.tar"))
    mib = sum(path.stat().st_size for path in paths) / BYTES_PER_MIB
    ways: dict[str, Callable[[], int]] = {
        "stream": lambda: sum(isinstance(item, Sample) for item in reader.stream(_START)),
        "webdataset": lambda: sum(
            1 for _ in webdataset.WebDataset(list(map(str, paths)), shardshuffle=False)
        ),
        "bare bytes": partial(_read_bytes, paths),
    }
    times_s: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for round_index in range(NUM_ROUNDS + 1):
        say(f"round {round_index} of {NUM_ROUNDS}")
        for name, work in ways.items():
            cpu_s, wall_s = time.process_time(), _wall_s(work)
            if round_index:
                times_s[name].append((wall_s, time.process_time() - cpu_s))
    for name, times in times_s.items():
        values = tuple(mib / wall_s for wall_s, _ in times)
        report.add(Figure(case=name, metric="mib_per_s", unit="MiB/s", values=values, more_is_better=True))
    for name in ("webdataset", "bare bytes"):
        pairs = list(zip(times_s["stream"], times_s[name], strict=True))
        case = f"stream to {name}"
        for metric, which in (("throughput_ratio", 0), ("throughput_per_cpu_s_ratio", 1)):
            values = tuple(other[which] / ours[which] for ours, other in pairs)
            report.add(Figure(case=case, metric=metric, unit="ratio", values=values, more_is_better=True))


def _add_random_access(report: Report, versions: LocalStore) -> None:
    reader = ShardReader(versions, 1)
    indices = np.random.default_rng(0).integers(reader.num_samples, size=_NUM_RANDOM).tolist()
    keys = list(reader.keys())
    ways: dict[str, Callable[[], object]] = {
        "sample_at": lambda: [reader.sample_at(index) for index in indices],
        "sample": lambda: [reader.sample(keys[index]) for index in indices],
    }
    for name, work in ways.items():
        work()
        values = tuple(_NUM_RANDOM / _wall_s(work) for _ in range(NUM_ROUNDS))
        report.add(Figure(case=name, metric="samples_per_s", unit="1/s", values=values, more_is_better=True))


def _add_large(report: Report, folder: Path) -> None:
    """Every repetition in a process of its own, as a training starts."""
    half = _LARGE_NUM_SHARDS * _LARGE_SAMPLES_PER_SHARD // 2 + 7
    for case, position in (("ten million, start", 0), ("ten million, resume", half)):
        runs = []
        for round_index in range(NUM_ROUNDS):
            say(f"{case}: round {round_index + 1} of {NUM_ROUNDS}")
            command = [sys.executable, "-m", "tests.bench.bench_reader", str(folder), str(position)]
            runs.append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
        for metric, unit in (
            ("first_sample_s", "s"),
            (f"first_{_FIRST_ITEMS}_samples_s", "s"),
            ("added_mib", "MiB"),
        ):
            values = tuple(run[metric] for run in runs)
            report.add(Figure(case=case, metric=metric, unit=unit, values=values))


def _measure_first(folder: Path, position: int) -> None:
    """Print how long a new reader takes to its first samples, and the memory that it adds."""
    before_bytes = psutil.Process().memory_info().rss
    begin_s = time.perf_counter()
    reader = ShardReader(LocalStore(folder), 2)
    with closing(reader.stream(_START.advanced(position), rank=3, num_ranks=8)) as items:
        assert isinstance(next(items), Sample)
        first_s = time.perf_counter() - begin_s
        assert all(isinstance(item, Sample) for item in islice(items, _FIRST_ITEMS - 1))
        all_s = time.perf_counter() - begin_s
        added_bytes = psutil.Process().memory_info().rss - before_bytes
    print(
        json.dumps(
            {
                "first_sample_s": first_s,
                f"first_{_FIRST_ITEMS}_samples_s": all_s,
                "added_mib": added_bytes / BYTES_PER_MIB,
            }
        )
    )


def _wall_s(work: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    work()
    return time.perf_counter() - start_s


def _read_bytes(paths: list[Path]) -> int:
    total = 0
    for path in paths:
        with path.open("rb", buffering=0) as stream:
            while data := stream.read(_READ_BYTES):
                total += len(data)
    return total


def _make_version(versions: LocalStore, version: int) -> None:
    """Shards of samples of random bytes."""
    rng = np.random.default_rng(0)
    records = []
    for index in range(_NUM_SHARDS):
        with ShardWriter(versions, version_key(version, shard_name("train", index))) as writer:
            for place in range(_SAMPLES_PER_SHARD):
                number = index * _SAMPLES_PER_SHARD + place
                sample = _sample(number, rng, mp4_bytes=_MP4_BYTES, flac_bytes=_FLAC_BYTES)
                writer.write(sample.key, sample.to_members())
        records.append(writer.record)
    durations_s = [float(_CLIP_S)] * _SAMPLES_PER_SHARD
    tables = (index_table(record, split="train", durations_s=durations_s) for record in records)
    index_sha256 = write_index(versions, version, tables)
    entries = [_entry(version, record.name, record) for record in records]
    write_manifest(versions, _manifest(version, entries, index_sha256))


def _make_large_version(versions: LocalStore, version: int) -> None:
    """Ten thousand names of one shard, and an index with rows for each."""
    rng = np.random.default_rng(0)
    first = versions.folder / version_key(version, shard_name("train", 0))
    with ShardWriter(versions, version_key(version, first.name)) as writer:
        for number in range(_LARGE_SAMPLES_PER_SHARD):
            sample = _sample(number, rng, mp4_bytes=2000, flac_bytes=1000)
            writer.write(sample.key, sample.to_members())
    names = [shard_name("train", index) for index in range(_LARGE_NUM_SHARDS)]
    for name in names[1:]:
        first.with_name(name).hardlink_to(first)
    durations_s = [float(_CLIP_S)] * _LARGE_SAMPLES_PER_SHARD
    table = index_table(writer.record, split="train", durations_s=durations_s)
    place = table.column_names.index("shard")
    tables = (table.set_column(place, "shard", pa.array([name] * len(table))) for name in names)
    index_sha256 = write_index(versions, version, tables)
    entries = [_entry(version, name, writer.record) for name in names]
    write_manifest(versions, _manifest(version, entries, index_sha256))


def _entry(version: int, name: str, record: ShardRecord) -> ShardEntry:
    return ShardEntry(
        name=name,
        split="train",
        home_version=version,
        sha256=record.sha256,
        shard_bytes=record.shard_bytes,
        num_samples=record.num_samples,
    )


def _manifest(version: int, entries: list[ShardEntry], index_sha256: str) -> Manifest:
    num_samples = sum(entry.num_samples for entry in entries)
    duration_s = float(num_samples * _CLIP_S)
    return Manifest(
        format_version=FORMAT_VERSION,
        name="bench",
        version=version,
        recipe_id="0" * 12,
        recipe_sha256="0" * 64,
        seed=0,
        samples_per_shard=entries[0].num_samples,
        sql="",
        mixture_json="{}",
        num_samples=num_samples,
        num_sources=num_samples,
        duration_s=duration_s,
        num_forgotten=0,
        models=_MODELS,
        lake_version={},
        index_sha256=index_sha256,
        splits=(
            SplitEntry(
                split="train", num_samples=num_samples, num_shards=len(entries), duration_s=duration_s
            ),
        ),
        shards=tuple(entries),
    )


def _sample(number: int, rng: np.random.Generator, *, mp4_bytes: int, flac_bytes: int) -> Sample:
    source_id = f"{number:016x}"
    key = sample_key(source_id, start_ms=0, end_ms=_CLIP_S * 1000)
    meta = StagedMeta(
        clip_id=key,
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
        start_s=0.0,
        end_s=float(_CLIP_S),
        num_frames=8 * _CLIP_S,
        frame_rate_fps=8.0,
        width_px=512,
        height_px=512,
        num_samples=16_000 * _CLIP_S,
        sample_rate_hz=16_000,
        scores={"snr_db": 20.0, "silence_ratio": 0.1, "cuts_per_s": 0.0},
    )
    return Sample(
        key=key,
        mp4=rng.bytes(mp4_bytes),
        flac=rng.bytes(flac_bytes),
        meta=meta.with_embeddings(_MODELS),
        clip_embedding_ND=rng.standard_normal((_CLIP_S, _NUM_DIMS)).astype(np.float16),
        clap_embedding_D=rng.standard_normal(_NUM_DIMS).astype(np.float16),
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _measure_first(Path(sys.argv[1]), int(sys.argv[2]))
    else:
        main()
