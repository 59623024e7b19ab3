"""A file in the media store of a root, as the crawl leaves it."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from crawl.blocklist import Blocklist
from crawl.fetch import FetchedMedia, Fetcher
from crawl.frontier import FetchJob
from crawl.items import SourceItem, file_url, source_item
from crawl.web import Web
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
    web = Web.opened(recipe.fetch)
    fetcher = Fetcher(web, root=root, ffmpeg=find_ffmpeg(), blocklist=Blocklist(()))
    (fetched,) = fetcher.fetch(
        FetchJob(job_id=1, items=(item,)), now=lambda: datetime(2026, 1, 1, tzinfo=UTC)
    )
    web.close()
    return Source(item=item, fetched=fetched)
