"""The card of a version: what people and hubs read of it, and its picture."""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from filters.registry import Bounds
from pipeline.catalog import Catalog
from pipeline.dataset import PackOptions, plan_dataset
from pipeline.dataset_card import card_files
from pipeline.dataset_plots import NUM_BINS, Histogram, histograms_svg, read_histograms
from pipeline.select_clips import Selection, ShareCount
from shards.manifest import Manifest
from tests.pipeline.staged_lake import CLIPS_PER_SOURCE, stage_sources
from tests.shards.test_manifest import make_manifest

NUM_SOURCES = 4
HISTOGRAMS = [
    Histogram(
        name="snr_db", unit="dB", bounds=Bounds(min=10), lowest=8.0, highest=24.0, counts=(1,) * NUM_BINS
    ),
    Histogram(name="duration_s", unit="s", bounds=Bounds(), lowest=10.0, highest=10.0, counts=(7,)),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("card")
    stage_sources(root, range(NUM_SOURCES), run_id="one")
    return root


@pytest.fixture(scope="module")
def selection(root) -> Selection:
    options = PackOptions(overrides=("dataset.split.val=0.45",))
    selection = plan_dataset("d", str(root), options).selection
    assert {count.split for count in selection.counts} == {"train", "val"}
    return selection


def card_of(manifest: Manifest, selection: Selection) -> str:
    bounds = {"snr_db": Bounds(min=10, strict=True), "cuts_per_s": Bounds()}
    files = card_files(manifest, selection, bounds=bounds, histograms=HISTOGRAMS)
    assert set(files) == {"README.md", "card/scores.svg"}
    return files["README.md"].decode()


def test_card_says_what_the_version_holds(selection):
    card = card_of(make_manifest(mixture_json='{"where":"true"}'), selection)
    assert "4 clips of video with sound, 0.01 hours, from 2 sources, in 3 WebDataset shards" in card
    assert "1 of them lie in the folders of earlier versions" in card
    assert "| `snr_db` | > 10 dB |" in card
    assert "cuts_per_s" not in card, "a filter without bounds chooses nothing"
    assert "| CC-BY-4.0 | 6 | 2 | 0.02 |" in card
    assert "```sql\nSELECT 1\n```" in card
    assert "`" + "cd" * 32 + "`" in card
    assert "(card/scores.svg)" in card


def test_card_front_matter_has_patterns_only_where_they_hold(selection):
    grown = make_manifest()
    first = replace(grown, version=1, shards=tuple(replace(s, home_version=1) for s in grown.shards))
    for manifest, has_patterns in ((grown, False), (first, True)):
        _, matter, _ = card_of(manifest, selection).split("---\n", 2)
        assert "size_categories: [n<1K]" in matter
        assert ('path: "train-*.tar"' in matter) is has_patterns


@pytest.mark.parametrize(("weights", "is_warned"), [("untrained", True), ("laion400m", False)])
def test_card_names_untrained_models_as_such(selection, weights, is_warned):
    models = replace(make_manifest().models, clip_weights=weights, clap_weights=weights)
    card = card_of(make_manifest(models=models), selection)
    assert f"({weights})" in card
    assert ("Embeddings of an untrained model mean nothing" in card) is is_warned


def test_card_keeps_strangers_text_in_its_cell(selection):
    share = ShareCount(name="a | b\n## <script>", num_clips=1, num_sources=1, duration_s=1.0)
    card = card_of(make_manifest(), replace(selection, licences=(share,)))
    assert "| a \\| b ## &lt;script> | 1 | 1 | 0.00 |" in card


def test_card_is_the_same_bytes_again(selection):
    one, two = (card_files(make_manifest(), selection, bounds={}, histograms=HISTOGRAMS) for _ in range(2))
    assert one == two


def test_histograms_svg_is_xml_with_a_title_a_score():
    tree = ElementTree.fromstring(histograms_svg(HISTOGRAMS))
    texts = [element.text for element in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert {"snr_db (dB)", "duration_s (s)"} <= set(texts)


def test_read_histograms_count_every_selected_clip(root, selection, tmp_path):
    catalog = Catalog(root)
    catalog.write_parquet(selection.sql, tmp_path / "s'elected.parquet", row_group_rows=1000)
    found = read_histograms(
        catalog,
        recipe_id=selection.recipe_id,
        selected=tmp_path / "s'elected.parquet",
        bounds={"snr_db": Bounds(min=10)},
    )
    histograms = {histogram.name: histogram for histogram in found}
    num_clips = NUM_SOURCES * CLIPS_PER_SOURCE
    assert all(sum(histogram.counts) == num_clips for histogram in found)
    assert histograms["duration_s"].counts == (num_clips,)
    snr = histograms["snr_db"]
    assert (snr.lowest, snr.highest, snr.unit, snr.bounds) == (20.0, 22.0, "dB", Bounds(min=10))
    # Three scores a source: 20, 21 and 22 dB; the last one is in the last bin.
    assert {index: count for index, count in enumerate(snr.counts) if count} == {0: 4, 20: 4, 39: 4}


def test_card_settings_are_readable_json(selection):
    card = card_of(make_manifest(mixture_json='{"where":"true"}'), selection)
    block = card.partition("```json\n")[2].partition("```")[0]
    assert json.loads(block) == {"where": "true"}
