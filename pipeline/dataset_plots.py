"""How the scores of a dataset's clips are spread: counted in SQL, drawn as one SVG. Equal counts, equal bytes."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filters.registry import Bounds, all_filters
from pipeline.catalog import Catalog

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NUM_BINS = 40
DURATION = "duration_s"
"""Drawn like a score, first of all."""
_NUM_COLUMNS = 3
_PANEL_INCHES = (3.2, 1.9)
_MARGINS = {"left": 0.08, "right": 0.99, "wspace": 0.3, "hspace": 0.45}
_BAR_COLOUR, _BOUND_COLOUR = "#4477aa", "#cc3311"
# Source: matplotlib 3.11, `rcParams`: ids of SVG elements are random without a salt; text stays text.
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "avgen",
    "svg.fonttype": "none",
    "font.size": 8,
    "axes.titlesize": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_CLIPS = """
(select *, end_s - start_s as duration_s from clips where recipe_id = '{recipe_id}')
semi join '{selected}' using (clip_id)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Counts of one score in bins of equal width from `lowest` to `highest`; one bin when these are equal."""

    name: str
    unit: str
    bounds: Bounds
    lowest: float
    highest: float
    counts: tuple[int, ...]


def read_histograms(
    catalog: Catalog, *, recipe_id: str, selected: Path, bounds: Mapping[str, Bounds]
) -> list[Histogram]:
    """Of every score that the selected clips have, and of their durations.

    Args:
        selected: Parquet file with a column `clip_id`.
    """
    units = {DURATION: "s"} | {spec.name: spec.unit for spec in all_filters()}
    clips = _CLIPS.format(recipe_id=recipe_id, selected=str(selected).replace("'", "''"))
    ends = ", ".join(f"min({name}), max({name})" for name in units)
    (row,) = catalog.rows(f"select {ends} from {clips}")
    ranges = {name: row[2 * i : 2 * i + 2] for i, name in enumerate(units) if row[2 * i] is not None}
    bins = ", ".join(f"histogram({_bin(name, *ends)})" for name, ends in ranges.items())
    (found,) = catalog.rows(f"select {bins} from {clips}")
    return [
        Histogram(
            name=name,
            unit=units[name],
            bounds=bounds.get(name, Bounds()),
            lowest=lowest,
            highest=highest,
            counts=tuple(counts.get(index, 0) for index in range(NUM_BINS if lowest < highest else 1)),
        )
        for (name, (lowest, highest)), counts in zip(ranges.items(), found, strict=True)
    ]


def histograms_svg(histograms: Sequence[Histogram]) -> bytes:
    """One panel a score: clips in every bin, and the bounds as dashed lines."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    num_rows = math.ceil(len(histograms) / _NUM_COLUMNS)
    width, height = _PANEL_INCHES
    with rc_context(_STYLE):
        figure = Figure(figsize=(width * _NUM_COLUMNS, height * num_rows))
        # Fixed margins: a layout that is computed takes as long as the drawing itself.
        figure.subplots_adjust(**_MARGINS, bottom=0.25 / num_rows, top=1 - 0.2 / num_rows)
        panels = list(figure.subplots(num_rows, _NUM_COLUMNS, squeeze=False).flat)
        for panel, histogram in zip(panels, histograms, strict=False):
            _draw(panel, histogram)
        for panel in panels[len(histograms) :]:
            panel.set_axis_off()
        stream = io.BytesIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return stream.getvalue()


def _bin(name: str, lowest: float, highest: float) -> str:
    """The number of the bin that a score is in."""
    if not lowest < highest:
        return f"if({name} is null, null, 0)"
    share = f"({name} - {lowest!r}::double) / {highest - lowest!r}::double"
    return f"least(floor({NUM_BINS} * {share}), {NUM_BINS - 1})::integer"


def _draw(panel: "Axes", histogram: Histogram) -> None:
    num_bins = len(histogram.counts)
    width = (histogram.highest - histogram.lowest) / num_bins
    edges = [histogram.lowest + width * index for index in range(num_bins + 1)]
    if not width:
        edges = [histogram.lowest - 0.5, histogram.lowest + 0.5]
    panel.stairs(histogram.counts, edges, fill=True, color=_BAR_COLOUR)
    panel.set_title(f"{histogram.name} ({histogram.unit})" if histogram.unit else histogram.name)
    panel.set_ylim(0, 1.05 * max(histogram.counts))
    panel.locator_params(nbins=4)
    panel.yaxis.set_major_formatter("{x:,.0f}")
    for bound in (histogram.bounds.min, histogram.bounds.max):
        if math.isfinite(bound):
            panel.axvline(bound, color=_BOUND_COLOUR, linestyle="--", linewidth=1)
