"""Commands of `avgen` that read the lake or write a line to it: no Ray, no Prefect."""

import sys
import time
from typing import Annotated

import typer

from infra.root import open_root
from infra.telemetry import print_whole
from pipeline.cli_options import AsJson, RecipeId, Root, SqlFormat, SqlFormatOption, examples
from pipeline.cli_output import print_funnel

lake_commands = typer.Typer()

_ROWS_PER_CHUNK = 10_000


@lake_commands.command(
    epilog=examples("status --root data", "status --root data --json"),
    short_help="What became of everything put in.",
)
def status(root: Root, recipe_id: RecipeId = None, as_json: AsJson = False) -> None:
    """Print the funnel of a recipe: at each stage what went in, and what was kept, rejected, failed.

    Failures are counted by class and by host, and hosts that are left alone for a while are named.
    """
    from pipeline.catalog import Catalog
    from pipeline.funnel import read_funnel

    catalog = Catalog(open_root(root, create=False))
    pauses = catalog.paused_hosts(now_s=time.time())
    print_funnel(read_funnel(catalog, catalog.meant_recipe_id(recipe_id)), pauses=pauses, as_json=as_json)


@lake_commands.command(
    epilog=examples(
        "sql 'select outcome, count(*) from outcomes group by 1' --root data",
        "sql 'from failures' --root data --format csv > failures.csv",
        "sql 'describe clips' --root data",
    ),
    short_help="Query the lake with DuckDB.",
)
def sql(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="DuckDB SQL that returns rows.")],
    root: Root,
    format_: SqlFormatOption = SqlFormat.table,
) -> None:
    """Query the lake: a view for every table (sources, clips, failures, runs, ...), and outcomes: what became of
    every source. 'show tables' lists them, 'describe clips' lists the columns of one.
    """
    from pipeline.catalog import Catalog
    from pipeline.sql_text import csv_chunks, json_chunks, result_table

    result = Catalog(open_root(root, create=False)).query(query)
    columns, batches = result.column_names, result.to_batches(max_chunksize=_ROWS_PER_CHUNK)
    if format_ is SqlFormat.table:
        print_whole(result_table(columns, batches))
        return
    chunks = json_chunks if format_ is SqlFormat.json else csv_chunks
    sys.stdout.writelines(chunks(columns, batches))


@lake_commands.command(
    epilog=examples(
        "block --root data --channel UCxyz --reason 'asked to by mail'",
        "block --root data --url https://a.org/v --reason takedown",
    ),
    short_help="Never fetch something again.",
)
def block(
    root: Root,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for whoever asks later.")],
    url: Annotated[list[str] | None, typer.Option("--url", metavar="URL", help="An address.")] = None,
    channel: Annotated[
        list[str] | None,
        typer.Option("--channel", metavar="ID", help="All of an uploader, as in fetches.channel_id."),
    ] = None,
    id_: Annotated[
        list[str] | None, typer.Option("--id", metavar="ID", help="A source_id, or a video_id as in fetches.")
    ] = None,
    sha256: Annotated[
        list[str] | None,
        typer.Option("--sha256", metavar="HASH", help="The bytes of a file, wherever they are."),
    ] = None,
) -> None:
    """Put addresses, channels, videos or files on the blocklist of a root: no later run fetches or stores them.

    What was fetched before stays. All options but --root and --reason may be repeated.
    """
    from pipeline.block_sources import block_sources

    num_new = block_sources(
        open_root(root, create=True),
        reason,
        url=url or [],
        channel=channel or [],
        id=id_ or [],
        sha256=sha256 or [],
    )
    print(f"{num_new} new entries on the blocklist of {root}")
