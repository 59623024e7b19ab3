"""The arguments that `train.launch` and `train.run` share."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """What to train on what, and where to put it."""

    dataset_dir: Path
    recipe: str
    out_dir: Path
    overrides: tuple[str, ...]
    resume: bool


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise ConfigError(f"{message}; see python -m train.launch --help")


def parse_arguments(words: Sequence[str]) -> Arguments:
    """The arguments of a command line.

    Raises:
        ConfigError: an unknown or missing argument.
    """
    parser = _Parser(prog="train.launch", description="Train the audio-video model on a packed dataset.")
    parser.add_argument("--dataset", required=True, type=Path, help="folder of a finished dataset version")
    parser.add_argument("--recipe", default="tiny", help="a TOML file, or a name in train/recipes")
    parser.add_argument("--out", required=True, type=Path, help="folder for checkpoints and metrics")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="override a setting")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --out")
    parsed = parser.parse_args(words)
    return Arguments(
        dataset_dir=parsed.dataset,
        recipe=parsed.recipe,
        out_dir=parsed.out,
        overrides=tuple(parsed.set),
        resume=parsed.resume,
    )
