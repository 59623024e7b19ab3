"""Runs the stages as Ray actors. Ray Data schedules, scales and holds back; nothing of that is done here.

    feed -> FetchActor (threads) -> CurateActor -> EmbedActor -> FinishedSource (in the driver)

Two actors stand beside the stream: the feed of the run, and the host gate of the cluster, which outlives runs.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from crawl.policy import FetchConfig
from crawl.politeness import Desk, LocalDesk
from infra.errors import AvgenError, ConfigError
from infra.root import Root
from infra.telemetry import quiet_loggers
from infra.units import BYTES_PER_MIB
from pipeline.actors import RECORD, CurateActor, EmbedActor, FetchActor, FetchPlace, gather_sources
from pipeline.feed import Feed
from pipeline.records import FinishedSource

_NAMESPACE, _GATE_NAME = "avgen", "host-gate"
_TAKE_WAIT_S = 1.0
_MAX_CALLERS = 16
# Peaks of 486 and 2027 MiB and a quarter more; the actors' children are in it. Measured, 2026-11-23, recipe
# default: tests/bench/bench_pipeline_memory.py with the largest files, bench_media_memory.py for curating.
_CURATE_MIB, _EMBED_MIB = 610, 2550
# 156 MiB of a worker that has imported ray.data, 72 of each yt-dlp process, 80 of each cutter, and a quarter more.
_FETCH_MIB, _EXTRACTOR_MIB, _CUTTER_MIB = 200, 90, 100
_CPUS_PER_FETCH_ACTOR = 4
"""Its threads wait for the network: a few connections' work is one core's."""
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


def plan_pools(
    num_cpus: int, num_gpus: int, *, memory_mib: int, fetch_mib: int, num_sources: int | None
) -> Pools:
    """As many curate actors as cores and memory allow; fetching waits, embedding is rare: they share the rest.

    No more actors curate than there are sources, if their number is known: starting one costs seconds.
    CPU shares are what Ray may place together, not what a stage burns: all pools must fit on one core, too.

    Raises:
        ConfigError: the memory does not hold one actor of each pool, for which Ray would wait for ever.
    """
    num_embed = max(1, num_gpus or num_cpus // 8)
    num_fetch = max(1, num_cpus // _CPUS_PER_FETCH_ACTOR)
    num_curate = min(
        max(1, num_cpus),
        num_cpus if num_sources is None else num_sources,
        (memory_mib - num_embed * _EMBED_MIB - num_fetch * fetch_mib) // _CURATE_MIB,
    )
    if num_curate < 1:
        raise ConfigError(
            f"Ray must have {num_embed * _EMBED_MIB + num_fetch * fetch_mib + _CURATE_MIB} MiB for the actors,"
            f" got {memory_mib}; use a larger machine or cluster"
        )
    return Pools(
        fetch=Pool(num_actors=num_fetch, cpus=0.1, gpus=0, memory_mib=fetch_mib),
        curate=Pool(num_actors=num_curate, cpus=0.6, gpus=0, memory_mib=_CURATE_MIB),
        embed=Pool(num_actors=num_embed, cpus=0.2, gpus=1 if num_gpus else 0, memory_mib=_EMBED_MIB),
    )


def fetch_memory_mib(config: FetchConfig) -> int:
    """What a fetching worker takes with all the processes that it may start."""
    return _FETCH_MIB + config.extractors * _EXTRACTOR_MIB + config.cutters * _CUTTER_MIB


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


class _Remote:
    """An actor that looks like the object in it: a call returns what the method returns. It may travel."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        import ray

        method = getattr(self._actor, name)
        return lambda *args, **kwargs: ray.get(method.remote(*args, **kwargs))


def start_feed(config: FetchConfig, root: Root) -> Feed:
    """A feed in an actor of its own, which ends with this process."""
    import ray

    actor: Any = ray.remote(Feed)
    return cast(Feed, _Remote(actor.options(num_cpus=0, max_concurrency=_MAX_CALLERS).remote(config, root)))


def host_gate() -> Desk:
    """The host gate of the cluster: one named actor for all runs and workers, which starts again when it dies."""
    import ray

    actor: Any = ray.remote(LocalDesk)
    options = {
        "name": _GATE_NAME,
        "namespace": _NAMESPACE,
        "get_if_exists": True,
        "lifetime": "detached",
        "num_cpus": 0,
        "max_concurrency": _MAX_CALLERS,
        "max_restarts": -1,
        "max_task_retries": -1,
    }
    return cast(Desk, _Remote(actor.options(**options).remote(time.time)))


def ingest_sources(place: FetchPlace, num_sources: int | None, *, work_dir: Path) -> Iterator[FinishedSource]:
    """Fetch, curate and embed what the feed hands out; sources appear as they finish, in no particular order.

    Args:
        num_sources: how many there are, if that is known.
    """
    import ray

    resources = ray.cluster_resources()
    recipe = place.recipe
    pools = plan_pools(
        int(resources.get("CPU", 1)),
        int(resources.get("GPU", 0)),
        memory_mib=int(resources.get("memory", 0)) // BYTES_PER_MIB,
        fetch_mib=fetch_memory_mib(recipe.fetch),
        num_sources=num_sources,
    )
    dataset = _dataset([place.feed], max_blocks=1)
    dataset = dataset.flat_map(_jobs, num_cpus=0)
    dataset = dataset.flat_map(
        FetchActor,
        fn_constructor_args=(place,),
        **_placement(pools.fetch, num_threads=recipe.fetch.connections),
    )
    curate_args = {"recipe": recipe, "root": place.root, "work_dir": work_dir, "earlier": place.earlier}
    dataset = dataset.flat_map(CurateActor, fn_constructor_kwargs=curate_args, **_placement(pools.curate))
    embed_args = {"config": recipe.embed, "use_gpu": pools.embed.gpus > 0}
    dataset = dataset.map(EmbedActor, fn_constructor_kwargs=embed_args, **_placement(pools.embed))
    yield from gather_sources(_records(dataset))


def _jobs(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The jobs of a run, as its feed hands them out, until there are no more."""
    feed: Feed = row[RECORD]
    while (jobs := feed.take(1, wait_s=_TAKE_WAIT_S)) is not None:
        yield from ({RECORD: job} for job in jobs)


def run_shares(shares: Sequence[Any], work: Callable[[Any], Any], *, memory_mib: int) -> Iterator[Any]:
    """Results of `work` on each share, one Ray task a share, in no particular order."""

    def task(row: dict[str, Any]) -> dict[str, Any]:
        try:
            return {RECORD: work(row[RECORD])}
        except AvgenError as err:
            return {RECORD: err}

    dataset = _dataset(shares, max_blocks=len(shares))
    yield from _records(dataset.map(task, num_cpus=1, memory=memory_mib * BYTES_PER_MIB))


def _records(dataset: Any) -> Iterator[Any]:
    """The records as they are finished; one that is an error is raised.

    `iter_rows` would hold each back until the next one comes, and a feed that waits for the last would never end.
    """
    for batch in dataset.iter_batches(batch_size=None, prefetch_batches=0, batch_format="numpy"):
        for record in batch[RECORD]:
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
    rows = [{RECORD: record} for record in records]
    return ray.data.from_items(rows, override_num_blocks=min(len(rows), max_blocks))


def _placement(pool: Pool, *, num_threads: int = 1) -> dict[str, Any]:
    import ray

    return {
        # As many tasks wait as an actor works on: enough to hide hand-over, and a long source delays few.
        "compute": ray.data.ActorPoolStrategy(
            size=pool.num_actors,
            max_tasks_in_flight_per_actor=2 * num_threads,
            max_concurrent_calls_per_actor=num_threads,
        ),
        "num_cpus": pool.cpus,
        "num_gpus": pool.gpus,
        "memory": pool.memory_mib * BYTES_PER_MIB,
    }
