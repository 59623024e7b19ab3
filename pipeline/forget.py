"""Forgetting on request: what is named goes from media, bundles, lake, datasets and records, and stays away.

targets -> what of the root that is -> intent (written first) -> files -> shards -> lake -> intent gone
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from infra.config import canonical_json
from infra.errors import IntegrityError
from infra.root import Root, open_root
from infra.store import Store
from infra.store_lock import exclusive_store
from pipeline.catalog import Catalog
from pipeline.finish_forgetting import finish_forgetting
from pipeline.forget_intent import AuditEntry, Intent, read_intent, write_intent
from pipeline.forget_request import Target, intent_of, targets_of
from pipeline.forget_shards import check_shards, held_samples
from pipeline.run_record import start_run
from shards.manifest import MemberRecord, member_columns
from shards.reader import read_staged_clip
from shards.schema import BUNDLE_MEMBERS, EMBEDDING_MEMBERS

_SHARED = """
select count(distinct media_key) from fetches where source_id in (select unnest($1)) and media_key in (
    select media_key from fetches where source_id not in (select unnest($1)))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetPlan:
    """What would be forgotten now."""

    root: Root
    targets: tuple[Target, ...]
    summary: "ForgetSummary"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetSummary:
    """What goes, or went. Nothing in it says what it was."""

    entries: tuple[AuditEntry, ...]
    """One a target, in their order."""
    num_sources: int
    num_clips: int
    num_files: int
    """Files of `media/` and `staged/`, deleted or written anew."""
    num_shared_files: int
    """Media files that stay, because a source that is not forgotten has the same bytes."""
    versions: tuple[tuple[str, int], ...]
    """Versions of datasets that were written anew."""
    num_samples: int
    """Samples that went, one counted in each of its versions."""
    num_blocks: int
    """Hashes that keep it from being fetched again."""
    is_resumed: bool = False
    """Whether one that was killed is finished first."""


def plan_forget(
    root: str,
    *,
    urls: Sequence[str] = (),
    source_ids: Sequence[str] = (),
    channels: Sequence[str] = (),
    clip_ids: Sequence[str] = (),
) -> ForgetPlan:
    """Check a request, and count what it would remove. Nothing is changed.

    What the root does not hold is no error: it is blocked all the same, and recorded.

    Raises:
        ConfigError: nothing is named, a value is not one of its kind, or the root is none.
    """
    targets = targets_of(url=urls, source_id=source_ids, channel=channels, clip_id=clip_ids)
    home = open_root(root, create=False)
    catalog, begun = Catalog(home), read_intent(home.store)
    intent = _intent(targets, catalog, home.store, run_id="")
    return ForgetPlan(
        root=home, targets=targets, summary=_summary(intent, catalog, is_resumed=begun is not None)
    )


def forget(plan: ForgetPlan) -> ForgetSummary:
    """Forget. After a kill at any moment the same command finishes it, and so does any other that writes.

    Raises:
        ConfigError: another process writes to the root.
        IntegrityError: a shard or bundle that has to be written anew is damaged. Nothing has been forgotten then.
    """
    root = plan.root
    with exclusive_store(root.store) as lock:
        is_resumed = finish_forgetting(root, lock=lock)
        settings = {"kinds": sorted({target.kind for target in plan.targets})}
        settings_json = canonical_json(settings).decode()
        run = start_run(root, "forget", recipe_id="", settings_json=settings_json, lock=lock)
        with run.marked_at_its_end():
            store, catalog = root.store, Catalog(root)
            intent = _intent(plan.targets, catalog, store, run_id=run.run_id)
            summary = _summary(intent, catalog, is_resumed=is_resumed)
            if _is_done(intent, catalog):
                return summary
            check_shards(store, held_samples(store, intent))
            _check_bundles(store, intent, catalog)
            write_intent(store, intent)
            finish_forgetting(root, lock=lock)
    return summary


def _intent(targets: Sequence[Target], catalog: Catalog, store: Store, *, run_id: str) -> Intent:
    now_iso = datetime.now(UTC).isoformat(timespec="seconds")
    return intent_of(targets, catalog, store, run_id=run_id, now_iso=now_iso)


def _is_done(intent: Intent, catalog: Catalog) -> bool:
    """Whether all of it was forgotten before: nothing is there, and the lake has its audit."""
    if any(entry.num_sources or entry.num_clips for entry in intent.entries) or intent.num_samples:
        return False
    known = set(catalog.rows("select kind, sha256 from forgotten"))
    return known.issuperset((entry.kind, entry.sha256) for entry in intent.entries)


def _check_bundles(store: Store, intent: Intent, catalog: Catalog) -> None:
    """Prove the clips that stay in a bundle that is to be written anew.

    Raises:
        IntegrityError: one is damaged.
    """
    for column, extensions in (("bundle_key", BUNDLE_MEMBERS), ("embedding_key", EMBEDDING_MEMBERS)):
        sql = f"select * from raw.clips where {column} in (select unnest(?))"
        for row in catalog.query(sql, [list(intent.cut_keys)]).to_pylist():
            members = [
                MemberRecord(row["clip_id"], ext, *(row[name] for name in member_columns(ext)))
                for ext in extensions
            ]
            try:
                read_staged_clip(store, row[column], members)
            except IntegrityError as err:
                raise IntegrityError(f"{err}; nothing was forgotten") from err


def _summary(intent: Intent, catalog: Catalog, *, is_resumed: bool) -> ForgetSummary:
    ((num_shared,),) = catalog.rows(_SHARED, [list(intent.source_ids)])
    return ForgetSummary(
        entries=intent.entries,
        num_sources=len(intent.source_ids),
        num_clips=len(intent.clip_ids),
        num_files=intent.num_files,
        num_shared_files=num_shared,
        versions=intent.versions,
        num_samples=intent.num_samples,
        num_blocks=len(intent.blocks),
        is_resumed=is_resumed,
    )
