"""Crawling: many small files over slow answers, what pages through yt-dlp cost beside yt-dlp, and memory.

The server is a process of its own on this machine, so it takes its part of the cores. Everything of a fetch is in
it: the host gate, the request, sha256, the store with its fsync. Ray and the lake are not.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psutil

from crawl.blocklist import Blocklist
from crawl.fetch import Fetcher
from crawl.frontier import FetchJob
from crawl.items import source_item
from crawl.policy import FetchConfig
from crawl.web import Web
from infra.media.child import find_ffmpeg
from tests.bench.process_tree import tree_cpu_s
from tests.bench.report import NUM_ROUNDS, Figure, Report, say
from tests.crawl.web import make_clip

_LATENCY_S, _CONNECTIONS = 0.1, 32
_NUM_FILES, _NUM_PAGES = 2_000, 40
_FILE_BYTES = 64 * 1024
_EARLY = 200
_IDEAL_SHARE = 0.60
_MAX_OVERHEAD_MS = 10.0
_FLAT_RATIO = 1.05
"""Assumption: a heap that holds the same things wanders by less than this."""


# Bare yt-dlp: one process, one YoutubeDL, every page downloaded once; it prints its CPU seconds without imports.
_BARE = """
import json, resource, sys, yt_dlp
def cpu_s():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
options = {"quiet": True, "noprogress": True, "outtmpl": sys.argv[2] + "/%(id)s.%(ext)s", "format": "bv*+ba/b"}
urls = json.loads(sys.argv[1])
with yt_dlp.YoutubeDL(options) as ydl:
    ydl.download(urls[:1])
    before_s = cpu_s()
    ydl.download(urls[1:])
print(cpu_s() - before_s)
"""


def main() -> None:
    """Measure and report."""
    report = Report(
        "crawl",
        settings={
            "num_files": _NUM_FILES,
            "file_bytes": _FILE_BYTES,
            "latency_s": _LATENCY_S,
            "connections": _CONNECTIONS,
            "num_pages": _NUM_PAGES,
        },
        num_warm_ups=0,
        ceiling="items x latency / connections; bare yt-dlp over the same pages",
    )
    with tempfile.TemporaryDirectory(prefix="avgen-bench-") as folder:
        place = Path(folder)
        _make_site(place / "site")
        shares, cpu_ms, growths, own_ms, bare_ms = [], [], [], [], []
        for number in range(NUM_ROUNDS):
            say(f"round {number + 1} of {NUM_ROUNDS}")
            root = place / f"root{number}"
            with _served(place / "site", latency_s=_LATENCY_S) as base_url:
                share, item_cpu_ms, growth = _crawl_files(base_url, root)
            with _served(place / "site", latency_s=0.0) as base_url:
                own_ms.append(_crawl_pages(base_url, root))
                bare_ms.append(_bare_pages(base_url, root / "bare"))
            shares.append(share), cpu_ms.append(item_cpu_ms), growths.append(growth)
    for figure in _figures(shares, cpu_ms, growths):
        report.add(figure)
    report.add(
        Figure(case="page through bare yt-dlp", metric="cpu_ms", unit="ms an item", values=tuple(bare_ms))
    )
    report.add(Figure(case="page through avgen", metric="cpu_ms", unit="ms an item", values=tuple(own_ms)))
    over = tuple(own - bare for own, bare in zip(own_ms, bare_ms, strict=True))
    report.add(
        Figure(
            case="page, avgen over yt-dlp",
            metric="cpu_ms",
            unit="ms an item",
            values=over,
            bar=_MAX_OVERHEAD_MS,
        )
    )
    report.save()


def _figures(shares: list[float], cpu_ms: list[float], growths: list[float]) -> Iterator[Figure]:
    yield Figure(
        case="plain media files",
        metric="share_of_ideal_ratio",
        unit="ratio",
        values=tuple(shares),
        bar=_IDEAL_SHARE,
        more_is_better=True,
    )
    yield Figure(case="plain media files", metric="cpu_ms", unit="ms an item", values=tuple(cpu_ms))
    yield Figure(
        case=f"memory at item {_NUM_FILES} over item {_EARLY}",
        metric="uss_ratio",
        unit="ratio",
        values=tuple(growths),
        bar=_FLAT_RATIO,
    )


def _make_site(site: Path) -> None:
    """Small files that are all different, and pages that show a video each."""
    site.mkdir()
    clip = make_clip(site / "clip.mp4").read_bytes()
    for number in range(_NUM_FILES):
        padding = number.to_bytes(8, "big") * (_FILE_BYTES // 8)
        (site / f"{number}.mp4").write_bytes((clip + padding)[:_FILE_BYTES])
    for number in range(_NUM_PAGES):
        page = (
            f'<!DOCTYPE html><html><title>{number}</title><video><source src="/{number}.mp4"></video></html>'
        )
        (site / f"{number}.html").write_text(page)


@contextmanager
def _served(site: Path, *, latency_s: float) -> Iterator[str]:
    """The address of a server in a process of its own."""
    command = [sys.executable, "-m", "tests.crawl.web", str(site), "--latency-s", str(latency_s)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin and server.stdout
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
        server.stdin.close()


def _fetcher(root: Path) -> tuple[Web, Fetcher]:
    root.mkdir(exist_ok=True)
    config = FetchConfig(
        allow_private=True,
        requests_per_s=100_000.0,
        connections_per_host=_CONNECTIONS,
        connections=_CONNECTIONS,
        extractors=1,
    )
    web = Web.opened(config)
    return web, Fetcher(web, root=root, ffmpeg=find_ffmpeg(), blocklist=Blocklist(()))


def _fetch(fetcher: Fetcher, url: str) -> None:
    job = FetchJob(job_id=0, items=(source_item(url, kind="list"),))
    fetcher.fetch(job, now=lambda: datetime.now(UTC))


def _crawl_files(base_url: str, root: Path) -> tuple[float, float, float]:
    """Share of the ideal throughput, CPU milliseconds an item, memory at the end over memory early on."""
    web, fetcher = _fetcher(root)
    memory_bytes: dict[int, int] = {}
    started_s, cpu_before_s = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        urls = (f"{base_url}/{number}.mp4" for number in range(_NUM_FILES))
        for number, _ in enumerate(pool.map(lambda url: _fetch(fetcher, url), urls), start=1):
            if number in (_EARLY, _NUM_FILES):
                memory_bytes[number] = psutil.Process().memory_full_info().uss
    wall_s, cpu_s = time.perf_counter() - started_s, time.process_time() - cpu_before_s
    web.close()
    ideal_s = _NUM_FILES * _LATENCY_S / _CONNECTIONS
    return ideal_s / wall_s, cpu_s / _NUM_FILES * 1000, memory_bytes[_NUM_FILES] / memory_bytes[_EARLY]


def _crawl_pages(base_url: str, root: Path) -> float:
    """CPU milliseconds of this process and its yt-dlp process for a page with its file; the first is a warm-up."""
    web, fetcher = _fetcher(root)
    urls = [f"{base_url}/{number}.html" for number in range(_NUM_PAGES)]
    _fetch(fetcher, urls[0])
    before_s = tree_cpu_s()
    for url in urls[1:]:
        _fetch(fetcher, url)
    cpu_s = tree_cpu_s() - before_s
    web.close()
    return cpu_s / (_NUM_PAGES - 1) * 1000


def _bare_pages(base_url: str, out_dir: Path) -> float:
    """The same for yt-dlp alone."""
    urls = [f"{base_url}/{number}.html" for number in range(_NUM_PAGES)]
    command = [sys.executable, "-c", _BARE, json.dumps(urls), str(out_dir)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(said.splitlines()[-1]) / (_NUM_PAGES - 1) * 1000


if __name__ == "__main__":
    main()
