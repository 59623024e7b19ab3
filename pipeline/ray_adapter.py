"""Runs the stages as Ray actors. Ray Data schedules, scales and holds back; nothing of that is done here.

    SourceItem -> FetchActor -> CurateActor -> EmbedActor -> FinishedSource (in the driver)

Rows hold one record under one key. Frames do not travel, but for the few pictures that an embedding needs.
"""

import logging
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from crawl.fetch import FetchedMedia, fetch
from crawl.items import SourceItem
from infra.errors import ConfigError
from infra.media.child import find_ffmpeg
from infra.media.probe import Prober
from infra.telemetry import quiet_loggers
from infra.units import BYTES_PER_MIB
from pipeline.curate_source import Workplace, curate_source
from pipeline.embed_clips import Encoder, embed_clips
from pipeline.recipe import EmbedConfig, Recipe
from pipeline.records import ClipEmbeddings, CuratePart, EmbeddedPart, Failed, FinishedSource, SourceOutcome
from pipeline.runner import run_one, run_parts

_RECORD = "record"
_MAX_BLOCKS = 2048
"""Blocks that a list of sources is cut into: one each while there are few, so that none waits for another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Actors of one stage and what each of them takes."""

    num_actors: int
    cpus: float
    gpus: float
    memory_mib: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pools:
    """The actors of an ingest run."""

    fetch: Pool
    curate: Pool
    embed: Pool


def plan_pools(num_cpus: int, num_gpus: int) -> Pools:
    """As many curate actors as cores; fetching waits and embedding is rare, so they share what is left.

    CPU shares are what Ray may place together, not what a stage burns: all pools must fit on one core, too.
    Memory measured: `tests/bench/bench_pipeline_memory.py`.
    """
    num_embed = num_gpus or max(1, num_cpus // 8)
    return Pools(
        fetch=Pool(num_actors=max(1, num_cpus), cpus=0.1, gpus=0, memory_mib=400),
        curate=Pool(num_actors=max(1, num_cpus), cpus=0.6, gpus=0, memory_mib=700),
        embed=Pool(num_actors=num_embed, cpus=0.2, gpus=1 if num_gpus else 0, memory_mib=1500),
    )


@contextmanager
def ray_session(*, num_cpus: int | None) -> Iterator[None]:
    """A connection to the cluster that `RAY_ADDRESS` names, or to one that is started here and ends here.

    Args:
        num_cpus: cores of a local cluster; all of them when not given.
    """
    import ray

    if ray.is_initialized():
        yield  # An outer flow holds the session.
        return
    remote = "RAY_ADDRESS" in os.environ
    ray.init(
        num_cpus=None if remote else num_cpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        yield
    finally:
        ray.shutdown()


def ingest_sources(
    items: Sequence[SourceItem], *, recipe: Recipe, root: Path, work_dir: Path
) -> Iterator[FinishedSource]:
    """Fetch, curate and embed; sources appear as they finish, in no particular order."""
    import ray

    resources = ray.cluster_resources()
    pools = plan_pools(int(resources.get("CPU", 1)), int(resources.get("GPU", 0)))
    place = {"recipe": recipe, "root": root, "work_dir": work_dir}
    dataset = _dataset(items)
    dataset = dataset.map(FetchActor, fn_constructor_kwargs=place, **_placement(pools.fetch))
    dataset = dataset.flat_map(CurateActor, fn_constructor_kwargs=place, **_placement(pools.curate))
    embed_args = {"config": recipe.embed, "use_gpu": pools.embed.gpus > 0}
    dataset = dataset.map(EmbedActor, fn_constructor_kwargs=embed_args, **_placement(pools.embed))
    yield from gather_sources(row[_RECORD] for row in dataset.iter_rows())


def run_shares(shares: Sequence[Any], work: Callable[[Any], Any], *, memory_mib: int) -> Iterator[Any]:
    """Results of `work` on each share, one Ray task a share, in no particular order."""

    def task(row: dict[str, Any]) -> dict[str, Any]:
        return {_RECORD: work(row[_RECORD])}

    dataset = _dataset(shares).map(task, num_cpus=1, memory=memory_mib * BYTES_PER_MIB)
    for row in dataset.iter_rows():
        yield row[_RECORD]


def _dataset(records: Sequence[Any]) -> Any:
    import ray.data

    quiet_loggers("ray.data")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    rows = [{_RECORD: record} for record in records]
    return ray.data.from_items(rows, override_num_blocks=min(len(rows), _MAX_BLOCKS))


def _placement(pool: Pool) -> dict[str, Any]:
    import ray

    return {
        # Two waiting tasks an actor: enough to hide hand-over, few enough that a long source delays nobody.
        "compute": ray.data.ActorPoolStrategy(size=pool.num_actors, max_tasks_in_flight_per_actor=2),
        "num_cpus": pool.cpus,
        "num_gpus": pool.gpus,
        "memory": pool.memory_mib * BYTES_PER_MIB,
    }


def gather_sources(parts: Iterator[EmbeddedPart]) -> Iterator[FinishedSource]:
    """Put the parts of each source together again, whatever order they arrive in.

    The part with the outcome has the highest index, so a source is whole when that many others are there.
    """
    waiting: dict[str, dict[int, EmbeddedPart]] = {}
    for part in parts:
        arrived = waiting.setdefault(part.source_id, {})
        arrived[part.part_index] = part
        last = arrived[max(arrived)]
        if last.outcome is None or len(arrived) <= last.part_index:
            continue
        del waiting[part.source_id]
        embeddings = tuple(vector for index in sorted(arrived) for vector in arrived[index].embeddings)
        yield FinishedSource(outcome=last.outcome, embeddings=() if last.outcome.failed else embeddings)
    assert not waiting, "every source ends with an outcome"


class FetchActor:
    """SourceItem -> (item, FetchedMedia), or the outcome of a failure."""

    def __init__(self, *, recipe: Recipe, root: Path, work_dir: Path) -> None:
        self._recipe, self._root, self._work_dir = recipe, root, work_dir
        self._ffmpeg = find_ffmpeg()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Fetch one source."""
        item: SourceItem = row[_RECORD]
        result = run_one("fetch", lambda: self._fetch(item), subject_id=item.source_id)
        if isinstance(result, Failed):
            return {_RECORD: SourceOutcome(item=item, failed=result)}
        return {_RECORD: (item, result)}

    def _fetch(self, item: SourceItem) -> FetchedMedia:
        return fetch(
            item,
            media_dir=self._root / "media",
            work_dir=self._work_dir,
            ffmpeg=self._ffmpeg,
            config=self._recipe.fetch,
            now=lambda: datetime.now(UTC),
        )


class CurateActor:
    """(item, FetchedMedia) -> CurateParts. Owns the probe child of its process."""

    def __init__(self, *, recipe: Recipe, root: Path, work_dir: Path) -> None:
        import cv2

        cv2.setNumThreads(1)
        self._recipe = recipe
        scratch = work_dir / f"curate-{uuid.uuid4().hex}"
        scratch.mkdir(parents=True)
        self._place = Workplace(root=root, work_dir=scratch, ffmpeg=find_ffmpeg(), probe=Prober())

    def __call__(self, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Curate one source; its parts appear while it is decoded."""
        record = row[_RECORD]
        if isinstance(record, SourceOutcome):
            yield {_RECORD: CuratePart(source_id=record.item.source_id, part_index=0, outcome=record)}
            return
        item, fetched = record
        parts = curate_source(item, fetched, recipe=self._recipe, workplace=self._place)
        results = run_parts("curate", parts, subject_id=item.source_id)
        for part_index, part in enumerate(results):
            if isinstance(part, Failed):
                outcome = SourceOutcome(item=item, fetched=fetched, failed=part)
                part = CuratePart(source_id=item.source_id, part_index=part_index, outcome=outcome)  # noqa: PLW2901 - the failure takes its place
            yield {_RECORD: part}


class EmbedActor:
    """CuratePart -> EmbeddedPart. Holds the encoders, on the GPU that it was given if any."""

    def __init__(self, *, config: EmbedConfig, use_gpu: bool) -> None:
        self._config = config
        self._device = "cuda" if use_gpu else "cpu"
        self._encoders: tuple[Encoder, Encoder] | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Embed the clips of one part."""
        part: CuratePart = row[_RECORD]
        embeddings: tuple[ClipEmbeddings, ...] = ()
        if part.inputs:
            pictures, sounds = self._encoders or self._load()
            embeddings = embed_clips(part.inputs, pictures=pictures, sounds=sounds)
        return {
            _RECORD: EmbeddedPart(
                source_id=part.source_id,
                part_index=part.part_index,
                embeddings=embeddings,
                outcome=part.outcome,
            )
        }

    def _load(self) -> tuple[Encoder, Encoder]:
        self._encoders = load_encoders(self._config, device=self._device)
        return self._encoders


def check_encoders(config: EmbedConfig) -> None:
    """Load the encoders once, in a worker, so that wrong weights stop a run before its work starts.

    Raises:
        ConfigError: they cannot be loaded.
    """
    import ray
    from ray.exceptions import RayTaskError

    def load() -> None:
        load_encoders(config, device="cpu")

    try:
        ray.get(ray.remote(num_cpus=1)(load).remote())
    except RayTaskError as err:
        if isinstance(err.cause, ConfigError):
            raise ConfigError(str(err.cause)) from err
        raise


def load_encoders(config: EmbedConfig, *, device: str) -> tuple[Encoder, Encoder]:
    """The picture encoder and the sound encoder that a recipe names.

    Raises:
        ConfigError: the named weights cannot be loaded.
    """
    import torch

    from model.encoders.clap import load_clap
    from model.encoders.clip import load_clip

    torch.set_num_threads(1)  # The number of threads changes the last bits of a sum.
    pictures = load_clip(config.clip_model, config.clip_weights, device)
    sounds = load_clap(config.clap_model, config.clap_weights, device)
    return pictures, sounds
