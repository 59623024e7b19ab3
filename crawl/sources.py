"""Source specs -> source items. The kinds of sources are in `crawl/kinds.py`."""

from collections.abc import Iterator

from crawl.items import SourceItem, UnexpandedSource, canonical_url, file_url, local_path, source_item
from crawl.kinds import KINDS, kind_of
from crawl.policy import FetchConfig
from crawl.web import Web

__all__ = [
    "KINDS",
    "SourceItem",
    "UnexpandedSource",
    "canonical_url",
    "expand",
    "file_url",
    "local_path",
    "seed_item",
    "source_item",
]


def expand(
    spec: str, web: Web | None = None, first_index: int = 0
) -> Iterator[SourceItem | UnexpandedSource]:
    """The items that a spec stands for, each `source_id` once, in a stable order.

    Args:
        spec: what `KINDS` has an example of.
        web: how the web is asked, when the iterator is advanced; when left out, as `FetchConfig()` says.
        first_index: entries that are passed over, because an earlier call yielded at least as many.

    Raises:
        ConfigError: the source is malformed: unknown kind, no such folder or file, nothing in it, bad rows.
    """
    return _distinct(kind_of(spec).expand(spec, web or Web.opened(FetchConfig()), first_index))


def seed_item(spec: str) -> SourceItem | None:
    """The item of the address that a spec lists the entries of; `None` for a folder, a file or a single video."""
    return kind_of(spec).seed(spec)


def _distinct(found: Iterator[SourceItem | UnexpandedSource]) -> Iterator[SourceItem | UnexpandedSource]:
    """`found` without the items seen before; failures pass: a seed may fail after its first entries."""
    seen: set[int] = set()
    for source in found:
        if isinstance(source, UnexpandedSource):
            yield source
            continue
        id_number = int(source.source_id, 16)
        if id_number not in seen:
            seen.add(id_number)
            yield source
