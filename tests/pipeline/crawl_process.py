"""`python -m tests.pipeline.crawl_process LIST ROOT`: a crawl of a list in a process that a test can kill.

All is real but Ray and the encoders: no source of the list may have a clip that is kept.
"""

import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

from crawl.frontier import FetchJob
from crawl.politeness import LocalDesk
from infra.store_lock import exclusive_store
from pipeline.actors import RECORD, CurateActor, FetchActor, FetchPlace, Row, gather_sources
from pipeline.feed import Feed
from pipeline.ingest import IngestPlan, drop_partial_fetches, plan_ingest
from pipeline.records import EmbeddedPart, FinishedSource
from pipeline.run_record import start_run
from pipeline.work_off import Workers, work_off

_NUM_THREADS = 8
_SETTINGS = ("fetch.allow_private=true", "fetch.requests_per_s=2000", f"fetch.connections_per_host={_NUM_THREADS}",
             "fetch.first_backoff_s=0.05", "fetch.patience_s=30")  # fmt: skip


def crawl(spec: str, root: Path, *settings: str) -> str:
    """List, fetch and curate until nothing is left to do; the id of the recipe."""
    return run_plan(plan_ingest([spec], str(root), "demo", [*_SETTINGS, *settings]))


def run_plan(plan: IngestPlan) -> str:
    """Work off a plan; the id of its recipe."""
    root, recipe = plan.root, plan.recipe
    with exclusive_store(root.store):
        run = start_run(root, "ingest", recipe_id=recipe.recipe_id, settings_json=recipe.model_dump_json())
        with run.marked_at_its_end():
            feed = Feed(recipe.fetch, root)
            stream = partial(_finished, feed=feed, work_dir=run.work_dir)
            workers = Workers(feed=feed, desk=LocalDesk(time.time), stream=stream)
            work_off(plan, run, workers=workers, advance=lambda num_done, note, total=None: None)
            drop_partial_fetches(root, recipe.recipe_id)
    return recipe.recipe_id


def _finished(
    place: FetchPlace, num_sources: int | None, *, feed: Feed, work_dir: Path
) -> Iterator[FinishedSource]:
    """Fetches in threads, curates in this one."""
    fetch = FetchActor(place)
    curate = CurateActor(recipe=place.recipe, root=place.root, work_dir=work_dir)
    fetching: set[Future[list[Row]]] = set()
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        jobs: list[FetchJob] | None = []
        while jobs is not None or fetching:
            jobs = feed.take(_NUM_THREADS, wait_s=0.05)
            fetching |= {pool.submit(_fetched, fetch, job) for job in jobs or []}
            done, fetching = wait(fetching, timeout=0.05, return_when=FIRST_COMPLETED)
            for row in (row for future in done for row in future.result()):
                yield from gather_sources(
                    EmbeddedPart(
                        source_id=part[RECORD].source_id,
                        part_index=part[RECORD].part_index,
                        outcome=part[RECORD].outcome,
                    )
                    for part in curate(row)
                )
    fetch.close()
    curate.close()


def _fetched(fetch: FetchActor, job: FetchJob) -> list[Row]:
    return list(fetch({RECORD: job}))


if __name__ == "__main__":
    crawl(f"list:{sys.argv[1]}", Path(sys.argv[2]))
