"""The real media that benchmarks read."""

from pathlib import Path

from tests.media import CORPUS


def corpus_files(pattern: str) -> list[Path]:
    """Files of the corpus by name. Raises `SystemExit` when the corpus is not at hand."""
    paths = sorted(CORPUS.glob(pattern))
    if not paths:
        raise SystemExit(f"this benchmark needs real media, {CORPUS} holds no {pattern}")
    return paths
