"""Source specs -> source items. `KINDS` is the registry: one module a kind."""

from collections.abc import Callable, Iterator

from crawl import source_dir, source_list, source_web
from crawl.items import SourceItem, UnexpandedSource, canonical_url, file_url, local_path, source_item
from crawl.policy import FetchConfig
from infra.errors import ConfigError

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

Expander = Callable[[str, FetchConfig], Iterator[SourceItem | UnexpandedSource]]

# Prefix of a spec -> its expander, which gets the whole spec. An expander checks what the operator wrote when
# it is called (ConfigError) and returns a lazy iterator that raises nothing for the network's sake.
KINDS: dict[str, Expander] = {
    "dir:": source_dir.expand_dir,
    "list:": source_list.expand_list,
    "http://": source_web.expand_web,
    "https://": source_web.expand_web,
}


def expand(spec: str, *, config: FetchConfig | None = None) -> Iterator[SourceItem | UnexpandedSource]:
    """The items that a spec stands for, each `source_id` once, in a stable order.

    Args:
        spec: `dir:PATH`, `list:FILE` or an http(s) address.
        config: how the web is asked (time-outs, user agent, proxy); when left out, as `FetchConfig()` says.

    Raises:
        ConfigError: the source is malformed: unknown scheme, no such folder or file, nothing in it, bad list.
    """
    for prefix, expander in KINDS.items():
        if spec.lower().startswith(prefix):
            return _distinct(expander(spec, config or FetchConfig()))
    raise ConfigError(f"a source must start with one of {', '.join(KINDS)}, got {spec!r}")


def seed_item(spec: str) -> SourceItem | None:
    """The item of the address that a spec lists the entries of; `None` for a folder or a file."""
    if not spec.lower().startswith(("http://", "https://")):
        return None
    return source_item(spec, kind="web")


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
