"""Checks a dataset version: its bytes, what every n-th sample decodes to, and what the lake says of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from infra.errors import AvgenError, ConfigError, IntegrityError
from infra.media.check import MediaChecker
from infra.root import Root, open_root
from infra.store import Store
from infra.telemetry import progress
from pipeline.catalog import Catalog
from pipeline.train_job import find_dataset
from shards.manifest import INDEX_NAME, MANIFEST_NAME, Manifest, member_columns, version_key
from shards.reader import Skipped, iter_samples_of_shard, read_manifest
from shards.schema import SAMPLE_MEMBERS, Sample
from shards.verify import Problem, verify_version

_MAX_TOLD = 100
"""Problems of one kind that are told one by one; of the rest, how many."""
_RATE_TOLERANCE_FPS = 0.01
_SAMPLES = """
with held as (select key, shard, split, mp4_offset_bytes as offset_bytes from read_parquet('{index}')),
told as (select clip_id, shard, split, offset_bytes from samples where dataset = ? and version = ?)
select coalesce(key, clip_id) as name from held full join told on key = clip_id and held.shard = told.shard
and held.split = told.split and held.offset_bytes = told.offset_bytes
where key is null or clip_id is null order by 1
"""
_TWICE = """
select clip_id from samples where dataset = ? and version = ? group by 1 having count(*) > 1 order by 1
"""
_CLIPS = """
select key from read_parquet('{index}') h where not exists (
    select 1 from raw.clips c where c.clip_id = h.key and c.recipe_id = ? and {same}) order by 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyPlan:
    """A checked request to verify."""

    root: Root
    name: str
    version: int
    every: int
    """Each n-th sample of a shard is decoded."""

    @property
    def versions(self) -> Store:
        """The versions of the dataset."""
        return self.root.store.below(f"datasets/{self.name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What was found."""

    name: str
    version: int
    num_shards: int
    num_samples: int
    num_decoded: int
    problems: tuple[Problem, ...]


def plan_verify(dataset: str, root: str, *, every: int = 100) -> VerifyPlan:
    """Find the version.

    Args:
        dataset: `NAME` for the latest version, or `NAME@2`.

    Raises:
        ConfigError: there is none, or `every` is below 1.
    """
    if every < 1:
        raise ConfigError(f"--every must be at least 1, got {every}; 1 decodes every sample")
    home = open_root(root, create=False)
    _, name, version = find_dataset(dataset, home).split("/")
    return VerifyPlan(root=home, name=name, version=int(version.removeprefix("v")), every=every)


def verify_dataset(plan: VerifyPlan) -> VerifyReport:
    """Check it. What is damaged is a problem in the report, never an error."""
    versions = plan.versions
    problems = verify_version(versions, plan.version)
    try:
        manifest = read_manifest(versions, plan.version)
    except (ConfigError, IntegrityError):
        return _report(plan, problems)
    problems += _lake_problems(plan, manifest)
    decoded = list(_decode_problems(plan, manifest, damaged={problem.shard for problem in problems}))
    problems += [problem for problem in decoded if problem is not None]
    return _report(plan, problems, manifest, num_decoded=len(decoded))


def _report(
    plan: VerifyPlan, problems: Sequence[Problem], manifest: Manifest | None = None, num_decoded: int = 0
) -> VerifyReport:
    return VerifyReport(
        name=plan.name,
        version=plan.version,
        num_shards=len(manifest.shards) if manifest else 0,
        num_samples=manifest.num_samples if manifest else 0,
        num_decoded=num_decoded,
        problems=tuple(problems),
    )


# ---- media ----


def _decode_problems(plan: VerifyPlan, manifest: Manifest, *, damaged: set[str]) -> Iterator[Problem | None]:
    """One for each sample that was decoded: what is wrong with it, or nothing. Damaged shards are passed over."""
    work_dir = plan.root.tmp_dir
    work_dir.mkdir(parents=True, exist_ok=True)
    checker, widths = MediaChecker(), _widths(Catalog(plan.root), manifest)
    shards = [] if INDEX_NAME in damaged else [one for one in manifest.shards if one.name not in damaged]
    try:
        with progress("decode", total=len(shards)) as advance:
            for num_done, shard in enumerate(shards, 1):
                for sample in iter_samples_of_shard(plan.versions, manifest, shard.name, every=plan.every):
                    text = _sample_problem(sample, checker, work_dir, widths)
                    yield Problem(shard=shard.name, key=sample.key, text=text) if text else None
                advance(num_done, shard.name)
    finally:
        checker.close()


def _widths(catalog: Catalog, manifest: Manifest) -> dict[str, int]:
    """Numbers of an embedding, by the kind of its model."""
    sql = "select model_kind, max(num_dims) from embeddings where recipe_id = ? and num_dims > 0 group by 1"
    return dict(catalog.rows(sql, [manifest.recipe_id]))


def _sample_problem(
    sample: Sample | Skipped, checker: MediaChecker, work_dir: Path, widths: Mapping[str, int]
) -> str:
    """What is wrong with a sample; empty when nothing is."""
    if isinstance(sample, Skipped):
        return sample.reason
    video, sound = (work_dir / f"check-{sample.key}.{ext}" for ext in ("mp4", "flac"))
    try:
        video.write_bytes(sample.mp4)
        sound.write_bytes(sample.flac)
        answer = checker.check({"video": video, "sound": sound}, subject=sample.key)
    except AvgenError as err:
        return f"media of {sample.key} must decode: {err}"
    finally:
        video.unlink(missing_ok=True)
        sound.unlink(missing_ok=True)
    return "; ".join([*_differences(sample, answer), *_width_differences(sample, widths)])


def _differences(sample: Sample, answer: dict[str, Any]) -> Iterator[str]:
    meta = sample.meta
    for what, found in answer.items():
        if "error" in found:
            yield f"{what} of {sample.key} must decode, got {found['error']}"
    video, sound = answer["video"], answer["sound"]
    stated = [
        (video, "num_frames", meta.num_frames),
        (video, "sizes_px", [[meta.width_px, meta.height_px]]),
        (sound, "num_samples", meta.num_samples),
        (sound, "sample_rate_hz", meta.sample_rate_hz),
        (sound, "num_channels", 1),
    ]
    for found, name, value in stated:
        if name in found and found[name] != value:
            yield f"{name} of {sample.key} must be {value}, got {found[name]}"
    rate_fps = video.get("frame_rate_fps", meta.frame_rate_fps)
    if abs(rate_fps - meta.frame_rate_fps) > _RATE_TOLERANCE_FPS:
        yield f"frame_rate_fps of {sample.key} must be {meta.frame_rate_fps}, got {rate_fps}"


def _width_differences(sample: Sample, widths: Mapping[str, int]) -> Iterator[str]:
    for kind, array in (("clip", sample.clip_embedding_ND), ("clap", sample.clap_embedding_D)):
        if array.shape[-1] != widths.get(kind, array.shape[-1]):
            yield f"{kind}.npy of {sample.key} must have {widths[kind]} columns, got {array.shape[-1]}"


# ---- lake ----


def _lake_problems(plan: VerifyPlan, manifest: Manifest) -> list[Problem]:
    catalog, version = Catalog(plan.root), [plan.name, plan.version]
    problems = [*_row_problems(catalog, manifest, version)]
    try:
        with plan.versions.local_copy(version_key(plan.version, INDEX_NAME)) as index:
            quoted = str(index).replace("'", "''")
            same = " and ".join(
                f"c.{column} = h.{column}"
                for ext in SAMPLE_MEMBERS
                if ext != "json"  # It is written anew with the models' names.
                for column in member_columns(ext)[1:]
            )
            checks = (
                (_SAMPLES.format(index=quoted), version, "be in the lake's samples where the index says"),
                (_TWICE, version, "be in the lake's samples once"),
                (
                    _CLIPS.format(index=quoted, same=same),
                    [manifest.recipe_id],
                    "be the clip of the lake's clips",
                ),
            )
            for sql, parameters, duty in checks:
                problems += _told(catalog.query(sql, parameters).column(0).to_pylist(), duty)
    except (OSError, ConfigError) as err:
        problems.append(Problem(shard=INDEX_NAME, text=f"{INDEX_NAME} must be readable, got {err}"))
    return problems


def _told(keys: Sequence[str], duty: str) -> list[Problem]:
    problems = [Problem(key=key, text=f"sample {key} must {duty}, it is not") for key in keys[:_MAX_TOLD]]
    if len(keys) > _MAX_TOLD:
        problems.append(Problem(text=f"{len(keys) - _MAX_TOLD} more samples must {duty}, they are not"))
    return problems


def _row_problems(catalog: Catalog, manifest: Manifest, version: list[Any]) -> Iterator[Problem]:
    """Rows of `datasets` and `shards` that are not what the manifest says."""
    stated = {
        "recipe_id": manifest.recipe_id, "sql": manifest.sql, "seed": manifest.seed,
        "samples_per_shard": manifest.samples_per_shard, "num_samples": manifest.num_samples,
        "num_sources": manifest.num_sources, "num_shards": len(manifest.shards),
        "manifest_sha256": sha256(manifest.to_bytes()).hexdigest(),
    }  # fmt: skip
    rows = catalog.query("select * from datasets where dataset = ? and version = ?", version).to_pylist()
    if len(rows) != 1:
        yield Problem(shard=MANIFEST_NAME, text=f"the lake must have one row of the version, got {len(rows)}")
    for row in rows[:1]:
        for name in (name for name, value in stated.items() if row[name] != value):
            yield Problem(shard=MANIFEST_NAME, text=f"{name} of the version must be the same in the lake")
    columns = ("shard", "split", "home_version", "sha256", "shard_bytes", "num_samples")
    sql = f"select {', '.join(columns)} from shards where dataset = ? and version = ? order by shard"
    told = catalog.rows(sql, version)
    held = [
        (one.name, one.split, one.home_version, one.sha256, one.shard_bytes, one.num_samples)
        for one in manifest.shards
    ]
    for name in sorted({row[0] for row in set(told) ^ set(held)}):
        yield Problem(shard=name, text=f"{name} must be the same in the lake's shards and in {MANIFEST_NAME}")
