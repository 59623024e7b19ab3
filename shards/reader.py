"""Tar -> samples, for training and for checking: a sample comes out whole and proven, or not at all."""

import io
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from hashlib import file_digest
from math import fsum, isclose
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from infra.errors import ConfigError, IntegrityError
from shards.manifest import INDEX_NAME, MANIFEST_NAME, Manifest, MemberRecord, ShardRecord, index_table
from shards.order import Run, rank_runs, samples_per_rank
from shards.schema import SAMPLE_MEMBERS, ClipMeta, Sample


def read_manifest(dataset_dir: Path) -> Manifest:
    """The manifest of a finished dataset version.

    Raises:
        ConfigError: there is none, so the version does not exist or was not finished.
        IntegrityError: it contradicts itself.
    """
    path = dataset_dir / MANIFEST_NAME
    try:
        with _open(path) as stream:
            data = stream.read()
    except FileNotFoundError as err:
        raise ConfigError(f"a dataset version must have {path}, got none; run `avgen pack` (again)") from err
    return Manifest.from_bytes(data)


class ShardReader:
    """The samples of one finished dataset version. Holds the manifest; opens shards when they are needed."""

    def __init__(self, dataset_dir: Path) -> None:
        self._dataset_dir = dataset_dir
        self.manifest = read_manifest(dataset_dir)
        self._samples_by_shard = [list(shard.by_key().values()) for shard in self.manifest.shards]

    @property
    def num_samples(self) -> int:
        """Samples of the version."""
        return self.manifest.num_samples

    def samples_per_rank(self, num_ranks: int) -> int:
        """Samples that `samples` yields to every rank in an epoch: `num_samples // num_ranks`."""
        return samples_per_rank(self.num_samples, num_ranks=num_ranks)

    def samples(
        self, *, rank: int, num_ranks: int, seed: int, epoch: int, start_index: int = 0
    ) -> Iterator[Sample]:
        """The samples of one rank in one epoch, from its `start_index`-th on (`shards/order.py` says which).

        All ranks get equally many, no sample goes to two of them, and at most `num_ranks - 1` samples sit out
        the epoch. What `start_index` skips is not read.

        Raises:
            ConfigError: at once, if there are fewer samples than ranks or an argument is out of range.
            IntegrityError: on the way, if a shard is missing, truncated or altered.
        """
        runs = rank_runs(
            [len(samples) for samples in self._samples_by_shard],
            rank=rank,
            num_ranks=num_ranks,
            seed=seed,
            epoch=epoch,
            start_index=start_index,
        )
        return self._read_runs(runs)

    def sample(self, key: str) -> Sample:
        """The sample of that key, by one seek.

        Raises:
            ConfigError: the version has no such sample.
        """
        for shard, samples in zip(self.manifest.shards, self._samples_by_shard, strict=True):
            for members in samples:
                if members[0].key == key:
                    with _open_shard(self._dataset_dir, shard) as stream:
                        return _read_sample(stream, shard.name, members)
        raise ConfigError(f"a sample of {self._dataset_dir} must be named, got {key}")

    def _read_runs(self, runs: Iterator[Run]) -> Iterator[Sample]:
        for run in runs:
            shard, samples = self.manifest.shards[run.shard_index], self._samples_by_shard[run.shard_index]
            with _open_shard(self._dataset_dir, shard) as stream:
                for index in run.sample_indices:
                    yield _read_sample(stream, shard.name, samples[index])


def num_samples(dataset_dir: Path) -> int:
    """Samples of a finished dataset version."""
    return read_manifest(dataset_dir).num_samples


def read_samples(
    dataset_dir: Path, *, rank: int, num_ranks: int, seed: int, epoch: int, start_index: int = 0
) -> Iterator[Sample]:
    """The samples of one rank in one epoch: `ShardReader.samples` of that folder."""
    reader = ShardReader(dataset_dir)
    return reader.samples(rank=rank, num_ranks=num_ranks, seed=seed, epoch=epoch, start_index=start_index)


def read_sample(dataset_dir: Path, key: str) -> Sample:
    """One sample by its key. To read many, keep a `ShardReader`."""
    return ShardReader(dataset_dir).sample(key)


def read_staged_clip(bundle: Path, members: Sequence[MemberRecord]) -> dict[str, bytes]:
    """One staged clip out of its source's bundle, as bytes by extension, each proven by its crc32.

    Raises:
        IntegrityError: the bundle is missing, truncated or altered.
    """
    try:
        with _open(bundle) as stream:
            return _read_members(stream, members)
    except FileNotFoundError as err:
        raise IntegrityError(
            f"clip {members[0].key} must lie in {bundle}, which is missing; restore it"
        ) from err
    except IntegrityError as err:
        raise IntegrityError(
            f"clip {members[0].key} of bundle {bundle} is damaged: {err}; restore it"
        ) from err


def verify_dataset(dataset_dir: Path) -> list[str]:
    """What does not hold in a dataset version: one line a problem, none for a sound version.

    Checked: manifest, index, every shard (`verify_shard`), totals, and that no other tar lies there.
    """
    try:
        manifest = read_manifest(dataset_dir)
    except (ConfigError, IntegrityError) as err:
        return [str(err)]
    known = {shard.name for shard in manifest.shards}
    strays = sorted(path.name for path in dataset_dir.glob("*.tar") if path.name not in known)
    problems = [f"{name} must be in the manifest or not be there" for name in strays]
    problems += _index_problems(dataset_dir, manifest)
    shard_problems = [line for shard in manifest.shards for line in verify_shard(dataset_dir, shard)]
    return problems + (shard_problems or _total_problems(dataset_dir, manifest))


def verify_shard(dataset_dir: Path, shard: ShardRecord) -> list[str]:
    """What does not hold in one shard: its presence, size, sha256, and every member of every sample.

    A shard whose sha256 is right is also walked with webdataset, so that what other programs will read
    from it is what the manifest says.
    """
    try:
        with _open(dataset_dir / shard.name) as stream:
            size_bytes = stream.seek(0, io.SEEK_END)
            stream.seek(0)
            digest = file_digest(stream, "sha256").hexdigest()
            if (size_bytes, digest) == (shard.shard_bytes, shard.sha256):
                stream.seek(0)
                return _walk_problems(stream, shard)
            return [
                f"{shard.name} must have {shard.shard_bytes} bytes and sha256 {shard.sha256}, "
                f"got {size_bytes} bytes and {digest}",
                *_damaged_samples(stream, shard),
            ]
    except FileNotFoundError:
        return [f"{shard.name} must be there, got no file"]


def _open(path: Path) -> io.BufferedIOBase:
    """A seekable binary stream. The one place that opens for reading."""
    return path.open("rb")


def _open_shard(dataset_dir: Path, shard: ShardRecord) -> io.BufferedIOBase:
    """A shard of the right size, opened. Raises `IntegrityError` if it is missing or of another size."""
    try:
        stream = _open(dataset_dir / shard.name)
    except FileNotFoundError as err:
        raise IntegrityError(
            f"{shard.name} must be in {dataset_dir}; remove the version and pack again"
        ) from err
    size_bytes = stream.seek(0, io.SEEK_END)
    if size_bytes != shard.shard_bytes:
        stream.close()
        cut = [m.key for m in shard.members if m.offset_bytes + m.member_bytes > size_bytes]
        extent = f"cut from sample {cut[0]} on" if cut else "no sample is cut"
        raise IntegrityError(
            f"{shard.name} must have {shard.shard_bytes} bytes, got {size_bytes} ({extent});"
            " remove the version and pack again"
        )
    return stream


def _read_sample(stream: io.BufferedIOBase, shard_name: str, members: Sequence[MemberRecord]) -> Sample:
    key = members[0].key
    try:
        return Sample.from_members(key, _read_members(stream, members))
    except IntegrityError as err:
        raise IntegrityError(f"sample {key} of {shard_name} is damaged: {err}") from err


def _read_members(stream: io.BufferedIOBase, members: Sequence[MemberRecord]) -> dict[str, bytes]:
    """Bytes of every member of one sample, in one pass forward, each proven by its crc32."""
    return {member.ext: _read_member(stream, member) for member in members}


def _read_member(stream: io.BufferedIOBase, member: MemberRecord) -> bytes:
    stream.seek(member.offset_bytes)
    data = stream.read(member.member_bytes)
    if len(data) != member.member_bytes:
        raise IntegrityError(f"{member.ext} must have {member.member_bytes} bytes, got the first {len(data)}")
    crc32 = zlib.crc32(data)
    if crc32 != member.crc32:
        raise IntegrityError(f"{member.ext} must have the crc32 {member.crc32}, got {crc32}")
    return data


def _index_problems(dataset_dir: Path, manifest: Manifest) -> list[str]:
    try:
        with _open(dataset_dir / INDEX_NAME) as stream:
            table = pq.read_table(stream)
    except (FileNotFoundError, pa.ArrowException) as err:
        return [f"{INDEX_NAME} must be a Parquet file, got {err}"]
    return (
        [] if table.equals(index_table(manifest)) else [f"{INDEX_NAME} must hold what {MANIFEST_NAME} says"]
    )


def _damaged_samples(stream: io.BufferedIOBase, shard: ShardRecord) -> list[str]:
    problems = []
    for members in shard.by_key().values():
        try:
            _read_sample(stream, shard.name, members)
        except IntegrityError as err:
            problems.append(str(err))
    return problems


def _walk_problems(stream: io.BufferedIOBase, shard: ShardRecord) -> list[str]:
    from webdataset.tariterators import tar_file_iterator

    expected = [(f"{m.key}.{m.ext}", m.member_bytes, m.crc32) for m in shard.members]
    try:
        found = [(m["fname"], len(m["data"]), zlib.crc32(m["data"])) for m in tar_file_iterator(stream)]
    except tarfile.TarError as err:
        return [f"{shard.name} must read as a tar, got {err}"]
    if found != expected:
        return [
            f"{shard.name} must hold the {len(expected)} members of the manifest, got others ({len(found)})"
        ]
    return _damaged_samples(stream, shard)


def _total_problems(dataset_dir: Path, manifest: Manifest) -> list[str]:
    """Totals of the manifest that the samples' own metadata contradict."""
    metas = list(_metas(dataset_dir, manifest))
    num_sources = len({meta.source_id for meta in metas})
    duration_s = fsum(meta.end_s - meta.start_s for meta in metas)
    others = sum(meta.models != manifest.models for meta in metas)
    problems = []
    if num_sources != manifest.num_sources:
        problems.append(f"num_sources must be the {num_sources} of the samples, got {manifest.num_sources}")
    if not isclose(duration_s, manifest.duration_s, rel_tol=1e-9):
        problems.append(f"duration_s must be the {duration_s} of the samples, got {manifest.duration_s}")
    if others:
        problems.append(f"all samples must be embedded by {manifest.models}, got {others} by others")
    return problems


def _metas(dataset_dir: Path, manifest: Manifest) -> Iterator[ClipMeta]:
    json_index = SAMPLE_MEMBERS.index("json")
    for shard in manifest.shards:
        with _open_shard(dataset_dir, shard) as stream:
            for members in shard.by_key().values():
                yield ClipMeta.from_json_bytes(_read_member(stream, members[json_index]))
