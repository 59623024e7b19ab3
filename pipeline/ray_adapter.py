"""Runs the stages as Ray actors. Ray Data schedules, scales and holds back; nothing of that is done here.

    SourceItem -> FetchActor -> CurateActor -> EmbedActor -> FinishedSource (in the driver)

Rows hold one record under one key. Frames do not travel, but for the few pictures that an embedding needs.
An error that ends the run is a record, too, and is raised in the driver: Ray would hand over its text alone.
"""

import logging
import os
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from crawl.fetch import FetchedMedia, fetch
from crawl.items import SourceItem
from infra.errors import AvgenError, ConfigError
from infra.media.child import find_ffmpeg
from infra.media.reader import MediaReader, ReadLimits
from infra.telemetry import quiet_loggers
from infra.units import BYTES_PER_MIB
from pipeline.curate_source import Workplace, curate_source
from pipeline.embed_clips import Encoder, embed_clips
from pipeline.recipe import EmbedConfig, Recipe
from pipeline.records import CuratePart, EmbeddedPart, Failed, FinishedSource, SourceOutcome
from pipeline.runner import run_one, run_parts

_RECORD = "record"
_MAX_BLOCKS = 2048
"""Blocks that a list of sources is cut into at most; one each while there are few."""
_BLOCKS_PER_CORE = 4
# Peaks of 236, 486 and 2027 MiB and a quarter more; the actors' children are in it. Measured, 2026-11-23, recipe
# default: tests/bench/bench_pipeline_memory.py with the largest files, bench_media_memory.py for curating.
_FETCH_MIB, _CURATE_MIB, _EMBED_MIB = 300, 610, 2550
_connecting = threading.Lock()


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


def plan_pools(num_cpus: int, num_gpus: int, *, memory_mib: int, num_sources: int) -> Pools:
    """As many curate actors as cores and memory allow; fetching waits, embedding is rare: they share the rest.

    No pool has more actors than there are sources: starting one costs seconds.
    CPU shares are what Ray may place together, not what a stage burns: all pools must fit on one core, too.

    Raises:
        ConfigError: the memory does not hold one actor of each pool, for which Ray would wait for ever.
    """
    num_embed = max(1, min(num_gpus or num_cpus // 8, num_sources))
    num_fitting = (memory_mib - num_embed * _EMBED_MIB) // (_FETCH_MIB + _CURATE_MIB)
    if num_fitting < 1:
        raise ConfigError(
            f"Ray must have {num_embed * _EMBED_MIB + _FETCH_MIB + _CURATE_MIB} MiB for the actors,"
            f" got {memory_mib}; use a larger machine or cluster"
        )
    num_each = max(1, min(num_cpus, num_sources, num_fitting))
    return Pools(
        fetch=Pool(num_actors=num_each, cpus=0.1, gpus=0, memory_mib=_FETCH_MIB),
        curate=Pool(num_actors=num_each, cpus=0.6, gpus=0, memory_mib=_CURATE_MIB),
        embed=Pool(num_actors=num_embed, cpus=0.2, gpus=1 if num_gpus else 0, memory_mib=_EMBED_MIB),
    )


@contextmanager
def ray_session(*, num_cpus: int | None) -> Iterator[None]:
    """A connection to the cluster that `RAY_ADDRESS` names, or to one that is started here and ends here.

    Args:
        num_cpus: cores of a local cluster; all of them when not given.

    Raises:
        ConfigError: there is no cluster at `RAY_ADDRESS`.
    """
    import ray

    if not _connect(num_cpus):
        yield  # Whoever connected ends the session.
        return
    try:
        yield
    finally:
        ray.shutdown()


def start_ray_beside(num_cpus: int | None) -> None:
    """Begin to connect in a thread, so that Prefect starts meanwhile; Ray ends with the process then."""

    def hold() -> None:
        with suppress(Exception):  # Whoever needs the connection tries again and says why it fails.
            _connect(num_cpus)
        # The kernel ends a local Ray with the thread that started it (PR_SET_PDEATHSIG), so this one stays.
        threading.Event().wait()

    threading.Thread(target=hold, daemon=True).start()


def _connect(num_cpus: int | None) -> bool:
    """Connect unless that has been done, or is being done by another thread; whether it was done here."""
    import ray

    with _connecting:
        if ray.is_initialized():
            return False
        remote = os.environ.get("RAY_ADDRESS")
        try:
            ray.init(
                address=remote or "local",
                num_cpus=None if remote else num_cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except ConnectionError as err:
            raise ConfigError(
                f"RAY_ADDRESS must name a running Ray cluster, got {remote!r};"
                " start one, or unset it to use this machine alone"
            ) from err
        return True


def ingest_sources(
    items: Sequence[SourceItem], *, recipe: Recipe, root: Path, work_dir: Path
) -> Iterator[FinishedSource]:
    """Fetch, curate and embed; sources appear as they finish, in no particular order."""
    import ray

    resources = ray.cluster_resources()
    num_cpus = int(resources.get("CPU", 1))
    pools = plan_pools(
        num_cpus,
        int(resources.get("GPU", 0)),
        memory_mib=int(resources.get("memory", 0)) // BYTES_PER_MIB,
        num_sources=len(items),
    )
    place = {"recipe": recipe, "root": root, "work_dir": work_dir}
    dataset = _dataset(items, max_blocks=max(_MAX_BLOCKS, _BLOCKS_PER_CORE * num_cpus))
    dataset = dataset.map(FetchActor, fn_constructor_kwargs=place, **_placement(pools.fetch))
    dataset = dataset.flat_map(CurateActor, fn_constructor_kwargs=place, **_placement(pools.curate))
    embed_args = {"config": recipe.embed, "use_gpu": pools.embed.gpus > 0}
    dataset = dataset.map(EmbedActor, fn_constructor_kwargs=embed_args, **_placement(pools.embed))
    yield from gather_sources(_records(dataset))


def run_shares(shares: Sequence[Any], work: Callable[[Any], Any], *, memory_mib: int) -> Iterator[Any]:
    """Results of `work` on each share, one Ray task a share, in no particular order."""

    def task(row: dict[str, Any]) -> dict[str, Any]:
        try:
            return {_RECORD: work(row[_RECORD])}
        except AvgenError as err:
            return {_RECORD: err}

    dataset = _dataset(shares, max_blocks=len(shares))
    yield from _records(dataset.map(task, num_cpus=1, memory=memory_mib * BYTES_PER_MIB))


def _records(dataset: Any) -> Iterator[Any]:
    """The records as they are finished; one that is an error is raised."""
    for row in dataset.iter_rows():
        record = row[_RECORD]
        if isinstance(record, AvgenError):
            raise record
        yield record


def _dataset(records: Sequence[Any], *, max_blocks: int) -> Any:
    import ray.data

    quiet_loggers("ray.data")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # Every row is handed on when it is made; otherwise those of a block would wait for its last.
    context.target_max_block_size = 1
    rows = [{_RECORD: record} for record in records]
    return ray.data.from_items(rows, override_num_blocks=min(len(rows), max_blocks))


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
        try:
            result = run_one("fetch", lambda: self._fetch(item), subject_id=item.source_id)
        except AvgenError as err:
            return {_RECORD: err}
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
    """(item, FetchedMedia) -> CurateParts. Owns the reading child of its process."""

    def __init__(self, *, recipe: Recipe, root: Path, work_dir: Path) -> None:
        self._recipe = recipe
        scratch = work_dir / f"curate-{uuid.uuid4().hex}"
        scratch.mkdir(parents=True)
        self._place = open_workplace(recipe, root=root, work_dir=scratch)

    def __call__(self, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Curate one source; its parts appear while it is decoded."""
        record = row[_RECORD]
        if isinstance(record, AvgenError):
            yield row
        elif isinstance(record, SourceOutcome):
            yield {_RECORD: CuratePart(source_id=record.item.source_id, part_index=0, outcome=record)}
        else:
            try:
                for part in self._parts(*record):
                    yield {_RECORD: part}
            except AvgenError as err:
                yield {_RECORD: err}

    def _parts(self, item: SourceItem, fetched: FetchedMedia) -> Iterator[CuratePart]:
        parts = curate_source(item, fetched, recipe=self._recipe, workplace=self._place)
        results = run_parts("curate", parts, subject_id=item.source_id)
        for part_index, part in enumerate(results):
            if isinstance(part, Failed):
                outcome = SourceOutcome(item=item, fetched=fetched, failed=part)
                yield CuratePart(source_id=item.source_id, part_index=part_index, outcome=outcome)
            else:
                yield part


class EmbedActor:
    """CuratePart -> EmbeddedPart. Holds the encoders, on the GPU that it was given if any.

    They are loaded while the first sources are fetched. When they cannot be, the first part ends the run.
    """

    def __init__(self, *, config: EmbedConfig, use_gpu: bool) -> None:
        self._encoders: tuple[Encoder, Encoder] | ConfigError
        try:
            self._encoders = load_encoders(config, device="cuda" if use_gpu else "cpu")
        except ConfigError as err:
            self._encoders = err

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Embed the clips of one part."""
        if isinstance(row[_RECORD], AvgenError):
            return row
        if isinstance(self._encoders, ConfigError):
            return {_RECORD: self._encoders}
        try:
            return {_RECORD: self._embedded(row[_RECORD], *self._encoders)}
        except AvgenError as err:
            return {_RECORD: err}

    def _embedded(self, part: CuratePart, pictures: Encoder, sounds: Encoder) -> EmbeddedPart:
        return EmbeddedPart(
            source_id=part.source_id,
            part_index=part.part_index,
            embeddings=embed_clips(part.inputs, pictures=pictures, sounds=sounds) if part.inputs else (),
            outcome=part.outcome,
        )


def open_workplace(recipe: Recipe, *, root: Path, work_dir: Path) -> Workplace:
    """All that one worker needs to curate sources, one at a time, on one core.

    Raises:
        ConfigError: the speech model is not installed.
    """
    import cv2

    from model.encoders.speech import load_speech

    cv2.setNumThreads(1)
    limits = ReadLimits(stall_s=recipe.media.stall_s, memory_mib=recipe.media.memory_mib)
    speech = load_speech()
    return Workplace(root=root, work_dir=work_dir, reader=MediaReader(limits), speech=speech.probabilities)


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
