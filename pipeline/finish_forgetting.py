"""Forgets what an intent says, from wherever a killed run left off. Without an intent there is nothing to do."""

from pathlib import Path

from infra.root import Root
from infra.storage import fresh_folder, remove_folders
from infra.store import LocalStore, Store
from infra.store_lock import HELD_BY_KERNEL, StoreLock
from pipeline.catalog import Catalog
from pipeline.forget_bundles import forget_files
from pipeline.forget_intent import PARTS, ROWS, Intent, drop_intent, read_intent
from pipeline.forget_lake import forget_rows
from pipeline.forget_shards import forget_samples
from pipeline.lake import Lake
from pipeline.lake_mirror import drop_copies

_FACTS = "run.json"


def finish_forgetting(root: Root | Path, *, lock: StoreLock = HELD_BY_KERNEL) -> bool:
    """Forget what somebody has begun to forget; whether there was anything.

    The caller holds the root by `lock`. To be called before anything else is done with it.

    Raises:
        IntegrityError: a shard is not what its index says; nothing is lost, and nothing goes on until it is.
    """
    home = Root.of(root)
    intent = read_intent(home.store)
    if intent is None:
        return False
    lake = Lake(home.store, lock=lock)
    lake.create()
    if isinstance(home.store, LocalStore):  # No other store shows what is unfinished.
        for key in intent.cut_keys:
            home.store.sweep(key.rpartition("/")[0])
    work_dir = fresh_folder(home.tmp_dir / "forget")
    forget_files(home.store, intent)
    forget_samples(home.store, intent, Catalog(home), work_dir)
    forget_rows(home.store, lake, intent, lambda: Catalog(home))
    _forget_in_facts(home.store, intent)
    partial = [home.partial_dir / name for name in intent.partial_names]
    remove_folders(folder for folder in (work_dir, *partial) if folder.is_dir())
    _drop_aside(home.store)
    drop_copies(home)
    drop_intent(home.store)
    return True


def _forget_in_facts(store: Store, intent: Intent) -> None:
    """What runs ran with may name what goes."""
    for file in list(store.files("runs")):
        if file.key.endswith(f"/{_FACTS}"):
            store.sweep(file.key.rpartition("/")[0])
            text = store.read(file.key).decode()
            if (redacted := intent.redact(text)) != text:
                store.write(file.key, redacted.encode())


def _drop_aside(store: Store) -> None:
    if isinstance(store, LocalStore):
        folders = [store.folder / key for key in (PARTS, ROWS)]
        remove_folders(folder for folder in folders if folder.is_dir())
    store.delete([file.key for prefix in (PARTS, ROWS) for file in store.files(prefix)])
