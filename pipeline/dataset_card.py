"""The card of a dataset version: what a person needs to know before training on it, as Markdown with a picture.

It begins with the YAML block that dataset hubs read. No clock, host or path is in it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence

from filters.registry import Bounds, all_filters
from infra.units import S_PER_H
from pipeline.dataset_plots import Histogram, histograms_svg
from pipeline.select_clips import Selection, ShareCount
from pipeline.selection_sql import RULES
from shards.manifest import Manifest
from shards.wids import list_name, wids_name

CARD_NAME = "README.md"
_PLOT_NAME = "card/scores.svg"
UNTRAINED = "untrained"

# Source: Hugging Face dataset cards, `size_categories` of the metadata specification.
_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
    (100_000_000, "10M<n<100M"),
    (1_000_000_000, "100M<n<1B"),
)
_LARGER = "n>1T"
_SAMPLE = """\
A sample is five files of one name in a shard: `mp4` (video), `flac` (sound), `json` (where it comes from, its
scores, the models of its embeddings), `clip.npy` (picture embeddings, one row a second, float16) and `clap.npy`
(sound embedding, float16). Samples are shuffled over the shards of a split that were written together, so reading
front to back is fine.
"""
_LOADING = """\
With this project, sharded by rank, in an order by seed and epoch, with a state that can be saved:

```python
from pathlib import Path
from shards.read_state import ReadState
from shards.reader import ShardReader

reader = ShardReader.opened(Path("{folder}"), split="{split}")
for item in reader.stream(ReadState.start(seed=0), rank=0, num_ranks=1):
    ...
```

With webdataset; `{list}` names the shards of the split, relative to this folder:

```python
from pathlib import Path
import webdataset

folder = Path("{folder}")
urls = [str(folder / line) for line in (folder / "{list}").read_text().splitlines()]
for sample in webdataset.WebDataset(urls, shardshuffle=False).decode():
    ...
```

With Hugging Face datasets, of the same `urls`:

```python
import datasets

rows = datasets.load_dataset("webdataset", data_files={{"{split}": urls}}, split="{split}", streaming=True)
```

By number, with wids:

```python
import wids

samples = wids.ShardListDataset("{folder}/{wids}")
```
"""


def card_files(
    manifest: Manifest,
    selection: Selection,
    *,
    bounds: Mapping[str, Bounds],
    histograms: Sequence[Histogram],
) -> dict[str, bytes]:
    """The files of the card by their path in the version's folder."""
    sections = [
        _front_matter(manifest),
        f"# {manifest.name}, version {manifest.version}",
        _summary(manifest),
        _SAMPLE,
        "## Splits",
        _splits(manifest, selection),
        "## How the clips were chosen",
        _choice(selection, bounds),
        "## Scores",
        f"![Histogram of every score; dashed lines are the bounds]({_PLOT_NAME})",
        "## Where the clips come from",
        _share_table("source kind", selection.kinds),
        "## Licences",
        "As the sources state them; where none is stated the clips are not free to use until you know better.",
        _share_table("licence", selection.licences),
        "## How to load",
        _loading(manifest),
        "## Limits",
        _limits(manifest),
        "## What it was made from",
        _origin(manifest),
    ]
    card = "\n\n".join(section.strip() for section in sections) + "\n"
    return {CARD_NAME: card.encode(), _PLOT_NAME: histograms_svg(histograms)}


def _front_matter(manifest: Manifest) -> str:
    size = next((name for limit, name in _SIZES if manifest.num_samples < limit), _LARGER)
    lines = [
        "---",
        f"pretty_name: {manifest.name} v{manifest.version}",
        "license: other",
        "license_name: mixed",
        f"size_categories: [{size}]",
        "tags: [webdataset, video, audio]",
    ]
    if all(shard.home_version == manifest.version for shard in manifest.shards):
        # Patterns cannot name shards of other versions' folders.
        lines += ["configs:", "- config_name: default", "  data_files:"]
        for split in manifest.splits:
            lines += [f"  - split: {split.split}", f'    path: "{split.split}-*.tar"']
    return "\n".join([*lines, "---"])


def _summary(manifest: Manifest) -> str:
    num_bytes = sum(shard.shard_bytes for shard in manifest.shards)
    num_old = sum(shard.home_version < manifest.version for shard in manifest.shards)
    old = f" {num_old:,} of them lie in the folders of earlier versions." if num_old else ""
    return (
        f"{manifest.num_samples:,} clips of video with sound, {_hours(manifest.duration_s)} hours, from"
        f" {manifest.num_sources:,} sources, in {len(manifest.shards):,} WebDataset shards"
        f" ({num_bytes / 1e9:,.3f} GB).{old}"
    )


def _splits(manifest: Manifest, selection: Selection) -> str:
    num_sources = {count.split: count.num_sources for count in selection.counts}
    rows = [
        (
            split.split,
            f"{split.num_samples:,}",
            f"{num_sources[split.split]:,}",
            _hours(split.duration_s),
            f"{split.num_shards:,}",
        )
        for split in manifest.splits
    ]
    return "\n\n".join(
        [
            _table(("split", "clips", "sources", "hours", "shards"), rows),
            "A channel (or uploader, or source) is in one split only, and stays there as the dataset grows.",
        ]
    )


def _choice(selection: Selection, bounds: Mapping[str, Bounds]) -> str:
    units = {spec.name: spec.unit for spec in all_filters()}
    words = [
        (f"`{name}`", f"{bound.describe()} {units[name]}".strip())
        for name, bound in bounds.items()
        if bound != Bounds() and name in units
    ]
    steps = [
        (RULES[step.rule], f"{step.num_clips_out:,}", f"{step.num_clips:,}", _hours(step.duration_s))
        for step in selection.steps
    ]
    return "\n\n".join(
        [
            "Scores that are kept:",
            _table(("score", "bounds"), words),
            "What each rule took out, in this order:",
            _table(("rule", "clips out", "clips left", "hours left"), steps),
        ]
    )


def _share_table(what: str, shares: Iterable[ShareCount]) -> str:
    rows = [
        (_cell(share.name), f"{share.num_clips:,}", f"{share.num_sources:,}", _hours(share.duration_s))
        for share in shares
    ]
    return _table((what, "clips", "sources", "hours"), rows)


def _loading(manifest: Manifest) -> str:
    split = max(manifest.splits, key=lambda split: split.num_samples).split
    folder = f"datasets/{manifest.name}/v{manifest.version}"
    return _LOADING.format(folder=folder, split=split, list=list_name(split), wids=wids_name(split))


def _limits(manifest: Manifest) -> str:
    models = manifest.models
    pictures, sounds = (
        f"{models.clip_model} ({models.clip_weights})",
        f"{models.clap_model} ({models.clap_weights})",
    )
    lines = [f"- Embeddings: {pictures} of the pictures, {sounds} of the sound."]
    if UNTRAINED in (models.clip_weights, models.clap_weights):
        lines.append(
            "- **Embeddings of an untrained model mean nothing**: they have the right shapes, so that the rest can"
            " be tried. Do not train on them and do not measure with them."
        )
    lines += [
        "- Scores are measured by programs, not by people; no one has looked at every clip.",
        "- Titles, uploaders and licences are what the sources say of themselves.",
        "- A request to remove something is met in place (`avgen forget`); a copy does not follow.",
    ]
    return "\n".join(lines)


def _origin(manifest: Manifest) -> str:
    facts = [
        ("recipe", f"`{manifest.recipe_id}`"),
        ("hash of the whole recipe", f"`{manifest.recipe_sha256}`"),
        ("seed", str(manifest.seed)),
        ("samples a shard", str(manifest.samples_per_shard)),
        ("hash of the index", f"`{manifest.index_sha256}`"),
        *((f"version of the lake's `{table}`", str(k)) for table, k in sorted(manifest.lake_version.items())),
    ]
    mixture = json.dumps(json.loads(manifest.mixture_json), indent=2, sort_keys=True)
    return "\n\n".join(
        [
            _table(("what", "is"), facts),
            "Settings of the selection:",
            f"```json\n{mixture}\n```",
            "The query; `avgen sql` gives the same clips at the same version of the lake:",
            f"```sql\n{manifest.sql}\n```",
        ]
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """Text of strangers as the content of a table cell."""
    plain = " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
    return plain or "(not stated)"


def _hours(duration_s: float) -> str:
    return f"{duration_s / S_PER_H:,.2f}"
