"""The blocklist of a root: what must not be fetched, for whatever reason somebody gave."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

from crawl.blocklist import Block, BlockKind
from infra.errors import ConfigError
from infra.root import Root
from infra.store_lock import exclusive_store
from pipeline.catalog import Catalog
from pipeline.run_record import start_run


def block_sources(root: Root | Path, reason: str, **values: Sequence[str]) -> int:
    """Record what must not be fetched; how many entries are new.

    Args:
        values: kind of `Block` -> what is blocked.

    Raises:
        ConfigError: nothing is named, or a value is not one of its kind.
    """
    wanted = [
        Block(kind=kind, value=value, reason=reason) for kind in get_args(BlockKind) for value in values[kind]
    ]
    if not wanted:
        raise ConfigError(
            "something to block must be named, got nothing; give --url, --channel, --id or --sha256"
        )
    home = Root.of(root)
    with exclusive_store(home.store) as lock:
        run = start_run(home, "block", recipe_id="", settings_json="{}", lock=lock)
        with run.marked_at_its_end():
            known = {(block.kind, block.value) for block in Catalog(home).blocks()}
            new = {
                (block.kind, block.value): block for block in wanted if (block.kind, block.value) not in known
            }
            now = datetime.now(UTC)
            rows = [
                {"kind": kind, "value": value, "reason": block.reason, "run_id": run.run_id, "added_at": now}
                for (kind, value), block in new.items()
            ]
            run.commit({"blocks": rows})
    return len(rows)
