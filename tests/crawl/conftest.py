from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crawl.web import Site, serve


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with serve(tmp_path_factory.mktemp("site")) as running:
        yield running


@pytest.fixture
def own_site(tmp_path: Path) -> Iterator[Site]:
    """A site with rules of its own, and no clips."""
    site = Site(tmp_path)
    site.start()
    yield site
    site.stop()
