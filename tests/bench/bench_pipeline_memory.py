"""Peak memory of one fetch, one curate and one embed actor with their children: what `plan_pools` asks Ray for.

Each actor runs alone in a process that holds what a Ray worker holds, on the largest files of the corpus: they are
fetched over HTTP from the loopback interface, the last one also as an HLS playlist.
"""

import contextlib
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from crawl.items import source_item
from pipeline.recipe import load_recipe
from tests.bench.corpus import corpus_files
from tests.bench.one_actor import actor_peak, write_rows
from tests.bench.process_tree import SAMPLE_PAUSE_S, PeakMemory
from tests.bench.report import Figure, Report, say
from tests.media import ffmpeg

_RECIPES = ("demo", "default")
_STAGES = ("fetch", "curate", "embed")
_FILES = ("screen_1080p_2min.mp4", "portrait_480x640.mp4", "vggsound_0B4dYTMsgHA_000130.mp4")
_PLAYLIST = "playlist.m3u8"
_NUM_ROUNDS = 3


def main() -> None:
    """Measure and report."""
    files = [path for name in _FILES for path in corpus_files(name)]
    report = Report(
        "pipeline_memory",
        settings={
            "recipe_ids": {name: load_recipe(name, []).recipe_id for name in _RECIPES},
            "sample_pause_s": SAMPLE_PAUSE_S,
        },
        inputs=files,
        num_warm_ups=0,
        ceiling="none; sum of the proportional set sizes in a process tree: what its processes share counts once",
    )
    peaks: dict[str, list[PeakMemory]] = defaultdict(list)
    for round_index in range(_NUM_ROUNDS):
        for recipe in _RECIPES:
            say(f"round {round_index + 1} of {_NUM_ROUNDS}, recipe {recipe}")
            for stage, peak in _line_peaks(recipe, files):
                peaks[f"{recipe}/{stage}"].append(peak)
    for case, measured in peaks.items():
        trees, mains = zip(*((peak.tree_mib, peak.main_mib) for peak in measured), strict=True)
        report.add(Figure(case=case, metric="peak_pss_mib", unit="MiB", values=trees))
        report.add(Figure(case=case, metric="peak_pss_without_children_mib", unit="MiB", values=mains))
    report.save()


def _line_peaks(recipe: str, files: Sequence[Path]) -> Iterator[tuple[str, PeakMemory]]:
    """Stage and peak of each actor; each works on what the one before it made."""
    with tempfile.TemporaryDirectory(prefix="avgen-bench-") as folder:
        place = Path(folder)
        site = place / "site"
        _make_site(site, files)
        with _serve(site) as base_url:
            items = [source_item(f"{base_url}/{name}", kind="web") for name in (*_FILES, _PLAYLIST)]
            write_rows(place / "items", [{"record": item} for item in items])
            rows_in = place / "items"
            for stage in _STAGES:
                rows_out = place / stage
                peak = actor_peak(
                    stage, recipe=recipe, root=place / "root", rows_in=rows_in, rows_out=rows_out
                )
                yield stage, peak
                rows_in = rows_out


def _make_site(folder: Path, files: Sequence[Path]) -> None:
    folder.mkdir()
    for path in files:
        (folder / path.name).symlink_to(path)
    ffmpeg("-i", files[-1], "-c", "copy", "-f", "hls", "-hls_list_size", "0", folder / _PLAYLIST)


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: stderr is for the benchmark."""

    def copyfile(self, source: Any, outputfile: Any) -> None:
        """Send a file, unless the client hangs up: a fetch looks at the first bytes, then asks again."""
        with contextlib.suppress(ConnectionError):
            super().copyfile(source, outputfile)


@contextlib.contextmanager
def _serve(folder: Path) -> Iterator[str]:
    handler = partial(_QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


if __name__ == "__main__":
    main()
