"""Forgets what an intent says, from wherever a killed run left off. Without an intent there is nothing to do."""

from pathlib import Path

from infra.object_store import open_store
from infra.storage import fresh_folder, remove_folders, write_atomic
from pipeline.catalog import Catalog
from pipeline.forget_bundles import forget_files
from pipeline.forget_intent import PARTS, ROWS, Intent, drop_intent, read_intent
from pipeline.forget_lake import forget_rows
from pipeline.forget_shards import forget_samples
from pipeline.lake import Lake

_FACTS = "run.json"


def finish_forgetting(root: Path) -> bool:
    """Forget what somebody has begun to forget; whether there was anything.

    The caller holds the root. To be called before anything else is done with it.

    Raises:
        IntegrityError: a shard is not what its index says; nothing is lost, and nothing goes on until it is.
    """
    store = open_store(str(root))
    intent = read_intent(store)
    if intent is None:
        return False
    lake = Lake(root)
    lake.create()
    work_dir = fresh_folder(root / "tmp" / "forget")
    forget_files(store, intent)
    forget_samples(store, intent, Catalog(root), work_dir)
    forget_rows(store, lake, intent, lambda: Catalog(root))
    _forget_in_facts(root, intent)
    aside = [root / PARTS, root / ROWS]
    partial = [root / "partial" / name for name in intent.partial_names]
    remove_folders(folder for folder in (work_dir, *partial, *aside) if folder.is_dir())
    drop_intent(store)
    return True


def _forget_in_facts(root: Path, intent: Intent) -> None:
    """What runs ran with may name what goes."""
    for path in sorted((root / "runs").glob(f"*/{_FACTS}")):
        text = path.read_text()
        redacted = intent.redact(text)
        if redacted != text:
            write_atomic(path, redacted.encode())
