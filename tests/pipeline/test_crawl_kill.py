"""A crawl that is killed at any moment: nothing is lost, nothing is fetched again once it is committed."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from pipeline.catalog import Catalog
from tests.crawl.web import Site, make_clip, serve

_REPOSITORY = Path(__file__).resolve().parents[2]


def start(urls: Path, root: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.pipeline.crawl_process", str(urls), str(root)]
    return subprocess.Popen(command, cwd=_REPOSITORY, start_new_session=True, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said.decode()


def committed(root: Path) -> set[str]:
    if not (root / "lake" / "fetches").is_dir():
        return set()
    return set(Catalog(root).query("select url from fetches").column(0).to_pylist())


def check_kills(site: Site, folder: Path, *, num_items: int, num_kills: int) -> None:
    """Kill a crawl so often, let it end, and hold it against the list and the server's log."""
    clip = make_clip(folder / "site" / "one.mp4").read_bytes()
    for number in range(num_items):
        # Bytes after the end of an MP4 are no part of it: every file is another one.
        (folder / "site" / f"{number}.mp4").write_bytes(clip + number.to_bytes(8, "big") * 10_000)
    urls = [site.url(f"/{number}.mp4") for number in range(num_items)]
    (folder / "urls.txt").write_text("\n".join(urls))
    root, rng = folder / "root", random.Random(0)
    num_kills_left, after_commit = num_kills, Counter[str]()
    while num_kills_left:
        done = committed(root)
        before = Counter(site.num_requests)
        process = start(folder / "urls.txt", root)
        time.sleep(rng.uniform(0.5, 6.0))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            num_kills_left -= 1
        process.communicate()
        asked = {url for url in done if site.num_requests[path_of(url)] > before[path_of(url)]}
        after_commit.update(asked)
        if len(done) == num_items:
            break
    finish(start(folder / "urls.txt", root))
    catalog = Catalog(root)
    rows = catalog.query("select url, count(*) as n from fetches group by 1").to_pylist()
    assert {row["url"]: row["n"] for row in rows} == dict.fromkeys(urls, 1)
    assert catalog.query("from outcomes").num_rows == num_items
    assert after_commit == Counter()
    assert len(list((root / "media").glob("*/*"))) == num_items
    leftovers = [path for name in ("partial", "tmp") for path in (root / name).rglob("*")]
    leftovers += [*root.rglob("*.tmp"), *(root / "lake" / "_journal").glob("*")]
    assert leftovers == []


def path_of(url: str) -> str:
    return "/" + url.rpartition("/")[2]


def test_crawl_killed_three_times_loses_and_repeats_nothing(tmp_path):
    (tmp_path / "site").mkdir()
    with serve(tmp_path / "site") as site:
        check_kills(site, tmp_path, num_items=40, num_kills=3)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_crawl_of_300_items_killed_twenty_times_loses_and_repeats_nothing(tmp_path):
    (tmp_path / "site").mkdir()
    with serve(tmp_path / "site") as site:
        check_kills(site, tmp_path, num_items=300, num_kills=20)
