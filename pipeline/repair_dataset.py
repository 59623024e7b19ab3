"""Makes again what is broken of a dataset version: shards from bundles, the index from shards, lists and card.

What is made must have the sha256 that the manifest says, or nothing is changed. Sound files are not touched, and a
file is replaced whole: after a kill the same command goes on with what is still broken.
"""

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra.config import canonical_json
from infra.errors import IntegrityError
from infra.store import LocalStore, Store
from infra.store_lock import exclusive_store
from infra.telemetry import progress
from pipeline.catalog import Catalog
from pipeline.forget_bundles import tar_members
from pipeline.pack_dataset import ShardTask, write_shard
from pipeline.remake_card import list_files, remade_card
from pipeline.run_record import start_run
from pipeline.shard_plan import PLAN_NAME
from pipeline.verify_dataset import VerifyPlan, plan_verify
from shards.index import Index
from shards.manifest import (
    INDEX_NAME,
    Manifest,
    MemberRecord,
    ShardEntry,
    ShardRecord,
    index_table,
    member_columns,
    shard_key,
    version_key,
)
from shards.plan import PlannedShard
from shards.reader import read_manifest
from shards.schema import SAMPLE_MEMBERS, ClipMeta
from shards.writer import write_index

_COPY_BYTES = 8 << 20
_CARD = "README.md"
_NUM_NAMED = 5
_ORDER = """
select shard, clip_id from samples where dataset = ? and version = ? and shard in (select unnest(?))
order by shard, offset_bytes
"""
# Of all passes the rows whose bytes the index knows come first, then the latest.
_PLACES = """
select distinct on (clip_id) clip_id, end_s - start_s as duration_s, bundle_key, embedding_key, {places}
from raw.clips where recipe_id = ? and clip_id in (select unnest(?)) and bundle_key is not null
order by clip_id, list_contains(?, mp4_crc32) desc, pass_index desc
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairPlan:
    """What is broken now."""

    version: VerifyPlan
    shards: tuple[str, ...]
    """Shards that are to be made again."""
    files: tuple[str, ...]
    """Index, lists and card that are, too."""
    num_bytes: int
    """Of the shards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairSummary:
    """What was made again."""

    name: str
    version: int
    shards: tuple[str, ...]
    files: tuple[str, ...]
    num_bytes: int


def plan_repair(dataset: str, root: str) -> RepairPlan:
    """Find what is broken; every byte of the shards is read.

    Raises:
        ConfigError: there is no such version.
        IntegrityError: its manifest cannot be read: pack the dataset again.
    """
    plan = plan_verify(dataset, root)
    manifest = read_manifest(plan.versions, plan.version)
    shards = _broken_shards(plan.versions, manifest)
    return RepairPlan(
        version=plan,
        shards=tuple(shard.name for shard in shards),
        files=tuple(_broken_files(plan.versions, manifest)),
        num_bytes=sum(shard.shard_bytes for shard in shards),
    )


def repair(plan: RepairPlan) -> RepairSummary:
    """Make again what is broken.

    Raises:
        ConfigError: another process writes to the root.
        IntegrityError: a bundle is gone or holds other bytes; what could be made again before stays so.
    """
    version = plan.version
    with exclusive_store(version.root.store) as lock:
        settings = canonical_json({"dataset": version.name, "version": version.version}).decode()
        run = start_run(version.root, "repair", recipe_id="", settings_json=settings, lock=lock)
        with run.marked_at_its_end():
            manifest = read_manifest(version.versions, version.version)
            broken = [shard for shard in manifest.shards if shard.name in plan.shards]
            files = list(plan.files)
            repairing = _Repair(version, manifest, Catalog(version.root), run.work_dir)
            repairing.make_shards(broken)
            repairing.make_files(files)
    return RepairSummary(
        name=version.name,
        version=version.version,
        shards=plan.shards,
        files=tuple(files),
        num_bytes=sum(shard.shard_bytes for shard in broken),
    )


def _broken_shards(versions: Store, manifest: Manifest) -> list[ShardEntry]:
    broken = []
    with progress("check", total=len(manifest.shards)) as advance:
        for num_done, shard in enumerate(manifest.shards, 1):
            if _sha256(versions, shard_key(shard)) != shard.sha256:
                broken.append(shard)
            advance(num_done, shard.name)
    return broken


def _broken_files(versions: Store, manifest: Manifest) -> Iterator[str]:
    version = manifest.version
    if _sha256(versions, version_key(version, INDEX_NAME)) != manifest.index_sha256:
        yield INDEX_NAME
    for name, content in list_files(manifest).items():
        try:
            is_sound = versions.read(version_key(version, name)) == content
        except FileNotFoundError:
            is_sound = False
        if not is_sound:
            yield name
    if not versions.size_bytes(version_key(version, _CARD)):
        yield _CARD


def _sha256(versions: Store, key: str) -> str:
    """Of a file; empty when it cannot be read."""
    try:
        with versions.open(key) as stream:
            return file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class _Repair:
    version: VerifyPlan
    manifest: Manifest
    catalog: Catalog
    work_dir: Path

    def make_shards(self, broken: Sequence[ShardEntry]) -> None:
        """Make shards again, one after the other, when all that they need is there."""
        if not broken:
            return
        plans = self._plans(broken)
        self._require_bundles([row for rows in plans.values() for row in rows])
        with progress("repair", total=len(broken)) as advance:
            for num_done, shard in enumerate(broken, 1):
                self._make_shard(shard, plans[shard.name])
                advance(num_done, shard.name)

    def make_files(self, names: Iterable[str]) -> None:
        """Make index, lists and card again, in this order."""
        versions, version = self.version.versions, self.version.version
        wanted = set(names)
        if INDEX_NAME in wanted:
            self._make_index()
        files = list_files(self.manifest)
        if _CARD in wanted:
            with versions.local_copy(version_key(version, INDEX_NAME)) as index:
                card = remade_card(self.catalog, self.manifest, index=index, work_dir=self.work_dir)
            files |= card
            wanted |= card.keys()
        for name in wanted & files.keys():
            versions.write(version_key(version, name), files[name])

    def _plans(self, broken: Sequence[ShardEntry]) -> dict[str, list[dict[str, Any]]]:
        """For each shard the places of its samples in bundles, in their order."""
        known = self._known(broken)
        keys = [key for shard in broken for key in known[shard.name]]
        crcs = [crc for shard in broken for crc in known[shard.name].values() if crc]
        places = ", ".join(column for ext in SAMPLE_MEMBERS for column in member_columns(ext))
        sql = _PLACES.format(places=places)
        found = self.catalog.query(sql, [self.manifest.recipe_id, keys, crcs]).to_pylist()
        rows = {row["clip_id"]: row for row in found}
        if missing := [key for key in keys if key not in rows]:
            raise IntegrityError(
                f"every sample of a broken shard must be staged, {_named(missing)} are not in the lake;"
                f" pack {self.version.name} again with --fresh"
            )
        return {shard.name: [rows[key] for key in known[shard.name]] for shard in broken}

    def _known(self, broken: Sequence[ShardEntry]) -> dict[str, dict[str, int]]:
        """Keys of each shard in order, with their crc32 (0: not known): of the index, or else of the lake."""
        index = Index(self.version.versions, self.manifest)
        numbers = {shard.name: number for number, shard in enumerate(self.manifest.shards)}
        try:
            rows = {shard.name: index.rows(numbers[shard.name]) for shard in broken}
            return {
                name: {key: one.members(place)[0].crc32 for place, key in enumerate(one.keys)}
                for name, one in rows.items()
            }
        except IntegrityError:
            names = [shard.name for shard in broken]
            known: dict[str, dict[str, int]] = {name: {} for name in names}
            for name, key in self.catalog.rows(_ORDER, [self.version.name, self.version.version, names]):
                known[name][key] = 0
            if any(len(known[shard.name]) != shard.num_samples for shard in broken):
                raise
            return known

    def _require_bundles(self, rows: Sequence[dict[str, Any]]) -> None:
        store = self.version.root.store
        keys = {row[column] for row in rows for column in ("bundle_key", "embedding_key")}
        gone = {key for key in keys if not key or store.size_bytes(key) is None}
        clips = sorted(
            row["clip_id"] for row in rows if row["bundle_key"] in gone or row["embedding_key"] in gone
        )
        if clips:
            raise IntegrityError(
                f"the bundle of every sample of a broken shard must be there, those of {_named(clips)} are not"
                f" ({_named(sorted(filter(None, gone)))}); restore them from a copy, or pack"
                f" {self.version.name} again with --fresh; nothing was changed"
            )

    def _make_shard(self, shard: ShardEntry, rows: list[dict[str, Any]]) -> None:
        """Write it in the scratch folder, and put it in its place when it is what it was."""
        scratch = LocalStore(self.work_dir / "made")
        (scratch.folder).mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), scratch.folder / PLAN_NAME)
        planned = PlannedShard(name=shard.name, split=shard.split, first_row=0, num_samples=shard.num_samples)
        made = write_shard(
            ShardTask(
                root=self.version.root.store,
                versions=scratch,
                version=shard.home_version,
                plan_key=PLAN_NAME,
                models=self.manifest.models,
                shard=planned,
            )
        )
        if made != shard:
            raise IntegrityError(
                f"{shard.name} must come out with sha256 {shard.sha256}, got {made.sha256}: its clips were staged"
                f" again since; pack {self.version.name} again with --fresh; it was not changed"
            )
        _copy(scratch, self.version.versions, shard_key(shard))
        scratch.delete([shard_key(shard)])

    def _make_index(self) -> None:
        """Write it in the scratch folder from the shards, which are sound by now."""
        scratch = LocalStore(self.work_dir / "made")
        digest = write_index(scratch, self.manifest.version, map(self._index_rows, self.manifest.shards))
        if digest != self.manifest.index_sha256:
            raise IntegrityError(
                f"{INDEX_NAME} must come out with sha256 {self.manifest.index_sha256}, got {digest}: another"
                f" version of pyarrow wrote it; pack {self.version.name} again with --fresh; it was not changed"
            )
        _copy(scratch, self.version.versions, version_key(self.manifest.version, INDEX_NAME))

    def _index_rows(self, shard: ShardEntry) -> pa.Table:
        versions, key = self.version.versions, shard_key(shard)
        with versions.open(key) as stream:
            places = list(tar_members(stream))
        members, durations_s = [], []
        for place in places:
            data = versions.read_range(key, offset_bytes=place.offset_bytes, num_bytes=place.member_bytes)
            members.append(MemberRecord(*place, zlib.crc32(data)))
            if place.ext == "json":
                meta = ClipMeta.from_json_bytes(data)
                durations_s.append(meta.end_s - meta.start_s)
        record = ShardRecord(
            name=shard.name,
            sha256=shard.sha256,
            shard_bytes=shard.shard_bytes,
            num_samples=shard.num_samples,
            members=tuple(members),
        )
        return index_table(record, split=shard.split, durations_s=durations_s)


def _copy(source: Store, target: Store, key: str) -> None:
    file = target.create(key)
    try:
        with source.open(key) as stream:
            while block := stream.read(_COPY_BYTES):
                file.write(block)
        file.commit()
    finally:
        file.discard_unless_committed()


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NUM_NAMED} more" if len(names) > _NUM_NAMED else ""
    return ", ".join(names[:_NUM_NAMED]) + more
