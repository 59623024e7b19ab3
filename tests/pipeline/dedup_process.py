"""A search for duplicates as a function, also of a process of its own, to be killed."""

from multiprocessing.connection import Connection

from infra.store_lock import exclusive_store
from pipeline.dedup_run import plan_dedup, run_dedup
from pipeline.find_duplicates import DedupSummary

CLIPS_PER_STEP = 15


def dedup_in_process(root: str, tell: Connection | None = None) -> DedupSummary:
    """What `avgen dedup` does, without Prefect; `tell` is told `begun` when the work begins."""
    request = plan_dedup(root, None, [f"dedup.clips_per_step={CLIPS_PER_STEP}"])
    with exclusive_store(request.root.store) as lock:
        if tell is not None:
            tell.send("begun")
        return run_dedup(request, lock=lock)
