"""What the help of `avgen` is made of: the options that several commands share, and examples."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer


def examples(*lines: str) -> str:
    """The end of a command's help; the first character keeps the lines from being filled."""
    return "\n".join(
        ["\b", "Examples:" if len(lines) > 1 else "Example:", *(f"  avgen {line}" for line in lines)]
    )


def _override(what: str) -> Any:
    return typer.Option("--set", metavar="PATH=VALUE", help=f"Override {what}. May be repeated.")


class SqlFormat(StrEnum):
    """How `avgen sql` prints."""

    table = "table"
    csv = "csv"
    json = "json"


Root = Annotated[
    str,
    typer.Option(
        "--root",
        metavar="DIR",
        help="Folder or object-store URL (s3://bucket/prefix) that everything lives under.",
    ),
]
DemoRoot = Annotated[Path, typer.Option("--root", metavar="DIR", help="Folder of the demo's data.")]
_SOURCE = typer.Option(
    "--source",
    metavar="SRC",
    help="Where media come from: dir:PATH (recursive), an http(s) URL of a video, page, playlist or feed, or"
    " list:FILE (txt, csv or parquet with url[,start_s,end_s]). May be repeated.",
)
Sources = Annotated[list[str] | None, _SOURCE]
RequiredSources = Annotated[list[str], _SOURCE]
OnlyMissing = Annotated[
    bool,
    typer.Option(
        "--only-missing",
        help="Make the clips that the bounds admit and that were never encoded, because other bounds held then.",
    ),
]
RecipeName = Annotated[
    str, typer.Option("--recipe", metavar="NAME", help="A recipe file, or the name of a built-in one.")
]
Overrides = Annotated[list[str] | None, _override("a setting of the recipe, as in filters.snr_db.min=12")]
RunRecipeName = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="NAME",
        help="A recipe file, or the name of a built-in one.",
        show_default="default, or the latest run's where there must have been one",
    ),
]
RecipeId = Annotated[
    str | None,
    typer.Option(
        "--recipe-id",
        metavar="ID",
        help="Whose clips are meant, as in the column recipe_id; the latest finished run's when not given.",
    ),
]
TrainOverrides = Annotated[list[str] | None, _override("a setting of the recipe, as in num_steps=1000")]
NumCpus = Annotated[
    int | None,
    typer.Option("--num-cpus", metavar="N", min=1, help="Cores for a local Ray; all when not given."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else on stdout.")]
Where = Annotated[
    str,
    typer.Option(
        "--where",
        metavar="SQL",
        help="Condition on the columns of clips, as in 'snr_db > 15'.",
        show_default="all",
    ),
]
PerShard = Annotated[
    int,
    typer.Option(
        "--samples-per-shard", metavar="N", min=1, max=1_000_000, help="Samples in every shard but the last."
    ),
]
Seed = Annotated[
    int, typer.Option("--seed", metavar="N", min=0, max=2**32 - 1, help="Seed of the shuffle across sources.")
]
RetryOverrides = Annotated[
    list[str] | None, _override("a setting of fetch, as in fetch.cookies_path=cookies.txt")
]
AllowPrivate = Annotated[
    bool,
    typer.Option(
        "--allow-private",
        help="Also fetch from loopback, private and link-local addresses, as on an intranet.",
    ),
]
TrainRecipeName = Annotated[
    str,
    typer.Option("--train-recipe", metavar="NAME", help="Recipe of the training: a file, or a built-in one."),
]
IngestOverrides = Annotated[
    list[str] | None,
    _override("a setting of --recipe, which is the ingest recipe; --train-recipe stays as it is"),
]
SqlFormatOption = Annotated[
    SqlFormat,
    typer.Option(
        "--format",
        help="How to print. csv: NULL is empty. json: NULL, NaN and infinity are null, and every column needs"
        " a name of its own. Times are ISO 8601, bytes are hex.",
    ),
]
