"""Fixtures for every folder: nothing of a test's services is shared with the user's."""

import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from infra.media.reader import MediaReader
from tests.crawl.web import Site


@pytest.fixture(scope="session", autouse=True)
def _own_services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Prefect, Ray and caches in folders of the test run; two threads at most."""
    home = tmp_path_factory.mktemp("services")
    settings = {
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_LOGGING_LEVEL": "ERROR",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        "RAY_TMPDIR": str(_short_folder()),
        "RAY_USAGE_STATS_ENABLED": "0",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    removed = ("PREFECT_API_URL", "RAY_ADDRESS", "AVGEN_FFMPEG")
    before = {name: os.environ.get(name) for name in (*settings, *removed)}
    os.environ.update(settings)
    for name in removed:
        os.environ.pop(name, None)
    yield
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    shutil.rmtree(settings["RAY_TMPDIR"], ignore_errors=True)


@pytest.fixture(scope="module")
def reader() -> Iterator[MediaReader]:
    """One for all tests of a module."""
    with closing(MediaReader()) as reader:
        yield reader


@pytest.fixture
def own_site(tmp_path: Path) -> Iterator[Site]:
    """A site with rules of its own, and no clips."""
    site = Site(tmp_path)
    site.start()
    yield site
    site.stop()


def _short_folder() -> Path:
    """Ray puts sockets there, and a socket's path may have 107 bytes."""
    path = Path("/tmp") / f"avgen-ray-{os.getpid()}"
    path.mkdir(exist_ok=True)
    return path
