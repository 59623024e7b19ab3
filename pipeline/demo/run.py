"""`avgen demo`: the nightly flow over the demo's own site, held against the answers that are known."""

import math
import socket
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from infra.media.child import find_ffmpeg
from infra.storage import open_root, write_atomic
from infra.telemetry import EXIT_DONE, EXIT_FAILED, stderr_console
from pipeline.catalog import Catalog
from pipeline.demo.media import make_demo_media
from pipeline.demo.site import serve_site
from pipeline.demo.verdicts import FoundVerdict, check_verdicts, demo_sources, expected_verdicts
from pipeline.flow import nightly
from pipeline.funnel_text import funnel_tables, kept_line

_DATASET = "demo"
_SAMPLES_PER_SHARD = 8
_MIN_SHARDS, _MIN_STEPS = 2, 20


def run_demo(folder: Path, *, num_cpus: int | None) -> int:
    """Run the whole line and say whether every known answer came out; the exit status."""
    say = stderr_console().print
    started_s = time.monotonic()
    home = open_root(str(folder), create=True)
    say(f"avgen demo: everything goes to {home}")
    say("1/4 making the site's media with ffmpeg (once)")
    make_demo_media(home / "site", ffmpeg=find_ffmpeg())
    with serve_site(home / "site", port=_site_port(home)) as base_url:
        say(f"2/4 serving them at {base_url}, starting Prefect and Ray")
        say("3/4 crawl, filter, transcode, embed, pack, train")
        say("    (the encoders are small and UNTRAINED on purpose; every row and sample says so)")
        result = nightly(
            list(demo_sources(base_url)),
            str(home / "root"),
            _DATASET,
            recipe="demo",
            samples_per_shard=_SAMPLES_PER_SHARD,
            train_recipe="tiny",
            num_cpus=num_cpus,
        )
    say("4/4 comparing with the known answers")
    problems = (*check_verdicts(_found(home / "root")), *_shortfalls(result))
    _print_result(home, result, problems, elapsed_s=time.monotonic() - started_s)
    return EXIT_FAILED if problems else EXIT_DONE


def _site_port(home: Path) -> int:
    """The same port every time: a source's id holds its address, and the second run is to resume the first."""
    path = home / "site-port"
    if not path.exists():
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            write_atomic(path, str(free.getsockname()[1]).encode())
    return int(path.read_text())


def _found(root: Path) -> list[FoundVerdict]:
    """What the lake says of every source: a verdict a span, or its failure."""
    rows = Catalog(root).query(
        """select s.url, o.outcome as source_outcome, o.code, c.kept, c.reject_reasons
           from (select distinct source_id, url from sources) s
           join outcomes o using (source_id) left join clips c using (source_id, recipe_id)"""
    )
    return [_verdict(row) for row in rows.to_pylist()]


def _verdict(row: dict[str, Any]) -> FoundVerdict:
    verdict = FoundVerdict(url=row["url"], outcome="failed", code=row["code"] or "")
    if row["source_outcome"] == "failed":
        return verdict
    return replace(
        verdict, outcome="kept" if row["kept"] else "rejected", reasons=frozenset(row["reject_reasons"])
    )


def _shortfalls(result: dict[str, Any]) -> list[str]:
    """What else must hold of a run."""
    lines = []
    if result["dataset"].num_shards < _MIN_SHARDS:
        lines.append(f"at least {_MIN_SHARDS} shards must be written, got {result['dataset'].num_shards}")
    training = result["training"]
    if training["steps"] < _MIN_STEPS or not math.isfinite(training["last_loss"]):
        lines.append(
            f"training must take {_MIN_STEPS} steps with a finite loss,"
            f" got {training['steps']} and {training['last_loss']}"
        )
    return lines


def _print_result(home: Path, result: dict[str, Any], problems: tuple[str, ...], *, elapsed_s: float) -> None:
    out = Console(highlight=False, soft_wrap=True)
    for table in funnel_tables(result["funnel"]):
        out.print(table)
    out.print(kept_line(result["funnel"]))
    dataset, training, root = result["dataset"], result["training"], home / "root"
    losses = f"{training['first_loss']:.4f} -> {training['last_loss']:.4f}"
    out.print(
        f"\nWhere things lie\n"
        f"  lake        {root / 'lake'}\n"
        f"  dataset     {dataset.folder}  ({dataset.num_samples} samples in {dataset.num_shards} shards)\n"
        f"  checkpoint  {training['checkpoint']}  ({training['steps']} steps, loss {losses})\n"
        f"\nTry next\n"
        f"  avgen status --root {root}\n"
        f'  avgen sql "select url, snr_db, reject_reasons from clips join sources using (source_id)"'
        f" --root {root}\n"
        f'  avgen pack loud --where "snr_db > 20" --root {root}\n'
        f"  avgen run --source dir:PATH --root data"
    )
    for line in problems:
        out.print(f"WRONG  {line}", style="red", markup=False)
    if not problems:
        out.print(
            f"\nAll {len(expected_verdicts())} known answers came out, in {elapsed_s:.0f} s.", style="green"
        )
