"""The files of a dataset version: shards, index, card, lists and, last, the manifest."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

import pyarrow as pa
import pyarrow.parquet as pq

from infra.config import canonical_json
from infra.errors import IntegrityError
from infra.root import Root
from infra.store import LocalStore, Store
from infra.telemetry import progress
from pipeline.catalog import Catalog
from pipeline.dataset_card import card_files
from pipeline.dataset_plots import read_histograms
from pipeline.pack_dataset import ShardTask, adopt_plan, drop_parts, finished_shards, read_part
from pipeline.recipe import Recipe
from pipeline.select_clips import Selection
from pipeline.shard_plan import PackSettings, Previous, VersionPlan
from shards.manifest import FORMAT_VERSION, Manifest, ShardEntry, SplitEntry, shard_key, version_key
from shards.wids import list_name, shard_list, wids_index, wids_name
from shards.writer import write_index, write_manifest

WriteShards = Callable[[Sequence[ShardTask]], Iterable[ShardEntry]]
"""Works off tasks with `write_shard`, in any order, in this process or others."""

_SELECTED_TABLES = ("clips", "duplicates", "embeddings", "fetches", "sources")
"""Tables that a selection reads. Others change while a version is made, as `runs` does."""
_NUM_DECIMALS = 3
"""Durations are sums of whole milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetRequest:
    """A checked request to pack."""

    name: str
    root: Root
    recipe: Recipe
    where: str
    settings: PackSettings
    fresh: bool

    @property
    def store(self) -> Store:
        """What the root holds."""
        return self.root.store

    @property
    def versions(self) -> Store:
        """The versions of the dataset."""
        return self.store.below(f"datasets/{self.name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionMaking:
    """A version that is being made."""

    request: DatasetRequest
    catalog: Catalog
    selection: Selection
    plan: VersionPlan
    previous: Previous | None
    version: int
    check_lock: Callable[[], None]
    """Raises unless we still hold the root."""

    def manifest(self, write_shards: WriteShards) -> Manifest:
        """Write all files of the version, the manifest last."""
        versions, version = self.request.versions, self.version
        self._write_shards(write_shards)
        entries: list[ShardEntry] = []

        def tables() -> Iterator[pa.Table]:
            for entry, table in self._shards():
                entries.append(entry)
                yield table

        index_sha256 = write_index(versions, version, tables())
        manifest = self._manifest(entries, index_sha256)
        files = self._card(manifest)
        for split in manifest.splits:
            files[wids_name(split.split)] = wids_index(manifest, split.split)
            files[list_name(split.split)] = shard_list(manifest, split.split)
        for name, content in files.items():
            versions.write(version_key(version, name), content)
        self.check_lock()
        write_manifest(versions, manifest)
        drop_parts(versions, version)
        return manifest

    def _write_shards(self, write_shards: WriteShards) -> None:
        versions = self.request.versions
        for shard in self.plan.reused:
            if versions.size_bytes(shard_key(shard)) != shard.shard_bytes:
                raise IntegrityError(
                    f"{shard_key(shard)} of {versions.url} must have {shard.shard_bytes} bytes to be used again;"
                    " run `avgen repair`, or pack with --fresh"
                )
        plan_key = adopt_plan(versions, self.version, LocalStore(self.plan.path.parent))
        done = finished_shards(versions, self.version)
        tasks = [
            ShardTask(
                root=self.request.store,
                versions=versions,
                version=self.version,
                plan_key=plan_key,
                models=self.selection.models,
                shard=shard,
            )
            for shard in self.plan.shards
            if shard.name not in done
        ]
        num_bytes = 0
        with progress("shards", total=len(tasks)) as advance:
            for num_done, entry in enumerate(write_shards(tasks), 1):
                num_bytes += entry.shard_bytes
                advance(num_done, f"{num_bytes:,} bytes")

    def _shards(self) -> Iterator[tuple[ShardEntry, pa.Table]]:
        """Entry and index rows of every shard, by name; one at a time is in memory."""
        reused = {shard.name: shard for shard in self.plan.reused}
        groups: dict[str, int] = {}
        if self.previous:
            groups = {shard.name: group for group, shard in enumerate(self.previous.manifest.shards)}
            old_index = pq.ParquetFile(self.previous.index)
        for name in sorted([*reused, *(shard.name for shard in self.plan.shards)]):
            if name in reused:
                yield reused[name], old_index.read_row_group(groups[name])
            else:
                yield read_part(self.request.versions, self.version, name)

    def _card(self, manifest: Manifest) -> dict[str, bytes]:
        bounds = self.request.recipe.bounds
        histograms = read_histograms(
            self.catalog,
            recipe_id=self.selection.recipe_id,
            selected=self.plan.selected,
            bounds=bounds,
        )
        return card_files(manifest, self.selection, bounds=bounds, histograms=histograms)

    def _manifest(self, entries: Sequence[ShardEntry], index_sha256: str) -> Manifest:
        request, counts = self.request, sorted(self.selection.counts, key=lambda count: count.split)
        num_shards = Counter(entry.split for entry in entries)
        return Manifest(
            format_version=FORMAT_VERSION,
            name=request.name,
            version=self.version,
            recipe_id=self.selection.recipe_id,
            recipe_sha256=sha256(recipe_json(request.recipe).encode()).hexdigest(),
            seed=request.settings.seed,
            samples_per_shard=request.settings.samples_per_shard,
            sql=self.selection.sql,
            mixture_json=_mixture_json(request),
            num_samples=sum(count.num_clips for count in counts),
            num_sources=sum(count.num_sources for count in counts),  # A source is in one split.
            duration_s=round(sum(count.duration_s for count in counts), _NUM_DECIMALS),
            num_forgotten=0,
            models=self.selection.models,
            lake_version={table: self.catalog.versions[table] for table in _SELECTED_TABLES},
            index_sha256=index_sha256,
            splits=tuple(
                SplitEntry(
                    split=count.split,
                    num_samples=count.num_clips,
                    num_shards=num_shards[count.split],
                    duration_s=count.duration_s,
                )
                for count in counts
            ),
            shards=tuple(entries),
        )


def recipe_json(recipe: Recipe) -> str:
    """The whole recipe, bounds written out, as canonical JSON."""
    return canonical_json(recipe.with_all_bounds().model_dump(mode="json")).decode()


def _mixture_json(request: DatasetRequest) -> str:
    sections = {name: getattr(request.recipe, name).model_dump(mode="json") for name in ("dataset", "dedup")}
    return canonical_json({"where": request.where, **sections}).decode()
