"""A file in the media store of a root, as the crawl leaves it."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from crawl.fetch import FetchedMedia, fetch
from crawl.items import SourceItem, file_url, source_item
from infra.media.child import find_ffmpeg
from pipeline.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What the stages after the crawl are given."""

    item: SourceItem
    fetched: FetchedMedia


def store(path: Path, *, recipe: Recipe, root: Path, **span: float) -> Source:
    """Put a file into the media store, for a span of it."""
    item = source_item(file_url(path), kind="dir", **span)
    fetched = fetch(
        item,
        media_dir=root / "media",
        work_dir=root / "work",
        ffmpeg=find_ffmpeg(),
        config=recipe.fetch,
        now=lambda: datetime(2026, 1, 1, tzinfo=UTC),
    )
    return Source(item=item, fetched=fetched)
