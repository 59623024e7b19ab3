"""A dataset: what was asked for becomes its next version, and the lake's record of it. For `avgen pack`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from infra.config import canonical_json
from infra.errors import ConfigError
from infra.root import open_root
from infra.store import Store
from infra.store_lock import HELD_BY_KERNEL, StoreLock
from pipeline.catalog import Catalog
from pipeline.dataset_rows import record_versions
from pipeline.ingest import chosen_recipe
from pipeline.lake import Lake
from pipeline.make_version import DatasetRequest, VersionMaking, WriteShards
from pipeline.pack_dataset import (
    ShardTask,
    check_dataset_name,
    drop_parts,
    is_readable,
    latest_version,
    next_indices,
    write_shard,
)
from pipeline.ray_adapter import run_shares
from pipeline.run_record import Run, start_run
from pipeline.select_clips import Selection, select_clips
from pipeline.shard_plan import PLAN_MEMORY_MIB, PackSettings, Previous, VersionPlan, plan_version
from shards.manifest import (
    INDEX_NAME,
    Manifest,
    ShardEntry,
    SplitEntry,
    version_key,
)
from shards.reader import read_manifest

_SHARD_MEMORY_MIB = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class PackOptions:
    """What is asked of a dataset."""

    where: str = "true"
    """A condition over the columns of `clips`."""
    samples_per_shard: int = 1000
    seed: int = 0
    recipe: str | None = None
    """Name or file; the recipe of the latest ingest run when not given."""
    overrides: Sequence[str] = ()
    """`PATH=VALUE` changes to the recipe: bounds, and the settings under `dataset`."""
    fresh: bool = False
    """Shuffle everything anew instead of keeping the shards of the last version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetPlan:
    """What would be packed now."""

    request: DatasetRequest
    selection: Selection


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSummary:
    """What a packed version holds."""

    name: str
    version: int
    folder: str
    splits: tuple[SplitEntry, ...]
    num_shards: int
    num_reused_shards: int
    """Those of them that an older version wrote."""
    num_samples: int
    num_sources: int
    duration_s: float
    num_bytes: int
    written: bool
    """False when the latest version already was what was asked for."""


def plan_dataset(name: str, root: str, options: PackOptions) -> DatasetPlan:
    """Check a request before anything is started, and select what it asks for.

    Raises:
        ConfigError: a bad name, an empty root, a recipe that no run had, or whatever `select_clips` refuses.
    """
    check_dataset_name(name)
    if options.samples_per_shard < 1:
        raise ConfigError(f"--samples-per-shard must be at least 1, got {options.samples_per_shard}")
    home = open_root(root, create=False)
    catalog = Catalog(home, memory_mib=PLAN_MEMORY_MIB)
    recipe = chosen_recipe(catalog, options.recipe, options.overrides)
    catalog.meant_recipe_id(recipe.recipe_id)
    request = DatasetRequest(
        name=name,
        root=home,
        recipe=recipe,
        where=options.where,
        settings=PackSettings(seed=options.seed, samples_per_shard=options.samples_per_shard),
        fresh=options.fresh,
    )
    return DatasetPlan(request=request, selection=_select(catalog, request))


def write_on_ray(tasks: Sequence[ShardTask]) -> Iterator[ShardEntry]:
    """Work off the tasks as Ray tasks."""
    return run_shares(tasks, write_shard, memory_mib=_SHARD_MEMORY_MIB) if tasks else iter(())


def build(
    request: DatasetRequest, *, write_shards: WriteShards = write_on_ray, lock: StoreLock = HELD_BY_KERNEL
) -> DatasetSummary:
    """Write the next version, or return the latest one when it already holds what is asked for.

    A killed build leaves a version without a manifest, with which the next build goes on if it is to hold the
    same, or one that the lake does not know of, which the next build records. The caller holds the root by `lock`.
    """
    # What a killed run had committed may still be in the journal, and is to be selected from.
    Lake(request.root.store, lock=lock).create()
    run = start_run(
        request.root,
        "build-dataset",
        recipe_id=request.recipe.recipe_id,
        settings_json=_settings_json(request),
        lock=lock,
    )
    with run.marked_at_its_end():
        manifest, written = _manifest_of(request, run, write_shards)
        record_versions(request, run)
    return DatasetSummary(
        name=manifest.name,
        version=manifest.version,
        folder=f"{request.versions.url}/v{manifest.version}",
        splits=manifest.splits,
        num_shards=len(manifest.shards),
        num_reused_shards=sum(shard.home_version < manifest.version for shard in manifest.shards),
        num_samples=manifest.num_samples,
        num_sources=manifest.num_sources,
        duration_s=manifest.duration_s,
        num_bytes=sum(shard.shard_bytes for shard in manifest.shards),
        written=written,
    )


def _select(catalog: Catalog, request: DatasetRequest) -> Selection:
    return select_clips(
        catalog,
        recipe_id=request.recipe.recipe_id,
        bounds=request.recipe.bounds,
        where=request.where,
        config=request.recipe.dataset,
        dedup=request.recipe.dedup,
        dataset=request.name,
        seed=request.settings.seed,
    )


def _manifest_of(request: DatasetRequest, run: Run, write_shards: WriteShards) -> tuple[Manifest, bool]:
    """The manifest of the version that holds what is asked for, and whether that was made now."""
    catalog = Catalog(request.root, memory_mib=PLAN_MEMORY_MIB)
    selection = _select(catalog, request)
    latest = latest_version(request.versions)
    with _previous(request.versions, latest) as previous:
        usable = previous if previous and previous.can_grow(selection, request.settings) else None
        plan = partial(
            plan_version,
            catalog,
            selection,
            request.settings,
            next_index=next_indices(request.versions, latest),
            work_dir=run.work_dir,
        )
        planned = plan(previous=usable)
        if usable and _is_same(planned, usable.manifest, fresh=request.fresh):
            drop_parts(request.versions, latest)  # A kill may have left some.
            return usable.manifest, False
        if request.fresh and planned.reused:
            planned = plan(previous=None)
        making = VersionMaking(
            request=request,
            catalog=catalog,
            selection=selection,
            plan=planned,
            previous=usable,
            version=latest + 1,
            check_lock=run.lake.check_lock,
        )
        return making.manifest(write_shards), True


@contextmanager
def _previous(versions: Store, version: int) -> Iterator[Previous | None]:
    """The latest version; `None` when there is none of this format."""
    if not version or not is_readable(versions, version):
        yield None
        return
    manifest = read_manifest(versions, version)
    with versions.local_copy(version_key(version, INDEX_NAME)) as index:
        yield Previous(manifest=manifest, index=index)


def _is_same(plan: VersionPlan, manifest: Manifest, *, fresh: bool) -> bool:
    """Whether a version is what is planned; one that has grown is not shuffled as a whole."""
    has_grown = any(shard.home_version < manifest.version for shard in manifest.shards)
    return not plan.shards and plan.reused == manifest.shards and not (fresh and has_grown)


def _settings_json(request: DatasetRequest) -> str:
    return canonical_json(
        {
            "name": request.name,
            "where": request.where,
            "samples_per_shard": request.settings.samples_per_shard,
            "seed": request.settings.seed,
            "fresh": request.fresh,
            "recipe": request.recipe.with_all_bounds().model_dump(mode="json"),
        }
    ).decode()
