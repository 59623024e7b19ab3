"""Dataset versions of made-up samples, written as the packer writes them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import sha256
from math import fsum

from infra.store import Store
from shards.manifest import (
    FORMAT_VERSION,
    Manifest,
    ShardEntry,
    SplitEntry,
    index_table,
    shard_name,
    version_key,
)
from shards.schema import EmbeddingModels, Sample
from shards.writer import ShardWriter, write_index, write_manifest
from tests.shards.made_samples import MODELS, make_sample


def make_version(
    versions: Store, version: int, shards: Mapping[str, Sequence[Sample]], *, models: EmbeddingModels = MODELS
) -> Manifest:
    """A finished version of these shards. Those that an earlier version has are used from there.

    Args:
        shards: samples by shard name, in the order of the names.
    """
    homes = {name: _home_version(versions, version, name) for name in shards}
    records = {name: _record(versions, homes[name], name, samples) for name, samples in shards.items()}
    tables = (
        index_table(
            record,
            split=name.partition("-")[0],
            durations_s=[sample.meta.end_s - sample.meta.start_s for sample in shards[name]],
        )
        for name, record in records.items()
    )
    index_sha256 = write_index(versions, version, tables)
    entries = [
        ShardEntry(
            name=name,
            split=name.partition("-")[0],
            home_version=homes[name],
            sha256=record.sha256,
            shard_bytes=record.shard_bytes,
            num_samples=record.num_samples,
        )
        for name, record in records.items()
    ]
    samples = [sample for one in shards.values() for sample in one]
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        name="demo",
        version=version,
        recipe_id="r0",
        recipe_sha256=sha256(b"").hexdigest(),
        seed=0,
        samples_per_shard=max(entry.num_samples for entry in entries),
        sql="select clip_id from clips",
        mixture_json="{}",
        num_samples=len(samples),
        num_sources=len({sample.meta.source_id for sample in samples}),
        duration_s=_duration_s(samples),
        num_forgotten=0,
        models=models,
        lake_version={"clips": 1},
        index_sha256=index_sha256,
        splits=tuple(
            SplitEntry(
                split=split,
                num_samples=sum(entry.num_samples for entry in entries if entry.split == split),
                num_shards=count,
                duration_s=_duration_s(
                    [sample for name, one in shards.items() if name.startswith(f"{split}-") for sample in one]
                ),
            )
            for split, count in sorted(Counter(entry.split for entry in entries).items())
        ),
        shards=tuple(entries),
    )
    write_manifest(versions, manifest)
    return manifest


def train_shards(num_samples: int, *, samples_per_shard: int) -> dict[str, list[Sample]]:
    """The made samples 0 to `num_samples` in shards of the training split."""
    samples = [make_sample(index) for index in range(num_samples)]
    firsts = range(0, num_samples, samples_per_shard)
    return {
        shard_name("train", index): samples[first : first + samples_per_shard]
        for index, first in enumerate(firsts)
    }


def _home_version(versions: Store, version: int, name: str) -> int:
    """The first version that has a shard of that name, or the one that is being made."""
    return next(k for k in range(1, version + 1) if k == version or versions.size_bytes(version_key(k, name)))


def _record(versions: Store, home_version: int, name: str, samples: Sequence[Sample]):
    """Write the shard; the same bytes again where it is there already."""
    with ShardWriter(versions, version_key(home_version, name)) as writer:
        for sample in samples:
            writer.write(sample.key, sample.to_members())
    return writer.record


def _duration_s(samples: Sequence[Sample]) -> float:
    return fsum(sample.meta.end_s - sample.meta.start_s for sample in samples)
