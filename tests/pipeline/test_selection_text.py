import json
from io import StringIO

from rich.console import Console

from pipeline.select_clips import Selection, ShareCount, SplitCount, StepCount
from pipeline.selection_text import selection_line, selection_tables, selection_tree
from shards.schema import EmbeddingModels


def step(rule: str, clips_out: int, clips: int) -> StepCount:
    return StepCount(
        rule=rule,
        num_clips_out=clips_out,
        duration_out_s=9.0 * clips_out,
        num_clips=clips,
        duration_s=9.0 * clips,
    )


SELECTION = Selection(
    recipe_id="abc",
    sql="select clip_id, split from x",
    models=EmbeddingModels(
        clip_model="ViT-B-32", clip_weights="openai", clap_model="HTSAT-tiny", clap_weights="untrained"
    ),
    counts=(
        SplitCount(split="train", num_clips=1500, num_sources=30, duration_s=13_500.0),
        SplitCount(split="val", num_clips=500, num_sources=10, duration_s=4_500.0),
    ),
    steps=(step("measured", 0, 3000), step("in_bounds", 1000, 2000)),
    kinds=(ShareCount(name="web", num_clips=2000, num_sources=40, duration_s=18_000.0),),
    channels=(ShareCount(name="[red] (UC1)", num_clips=20, num_sources=4, duration_s=180.0),),
    licences=(ShareCount(name="not stated", num_clips=2000, num_sources=40, duration_s=18_000.0),),
)


def test_selection_tables_say_every_count():
    screen = StringIO()
    Console(file=screen, width=120).print(*selection_tables(SELECTION))
    lines = [" ".join(line.replace("│", " ").split()) for line in screen.getvalue().splitlines()]
    for expected in (
        "Selection (recipe abc)",
        "measured 3,000 7.500",
        "bounds of the filters 1,000 2.500 2,000 5.000",
        "train 1,500 30 3.750 75.0%",
        "val 500 10 1.250 25.0%",
        "web 2,000 40 5.000 100.0%",
        "[red] (UC1) 20 4 0.050 1.0%",
        "not stated 2,000 40 5.000 100.0%",
        "embeddings: ViT-B-32 (openai), HTSAT-tiny (untrained)",
    ):
        assert expected in lines
    assert selection_line(SELECTION) == "2,000 clips of 40 sources selected, 5.000 h"


def test_selection_tree_is_json_with_everything():
    tree = json.loads(json.dumps(selection_tree(SELECTION)))
    assert (tree["num_clips"], tree["sql"]) == (2000, "select clip_id, split from x")
    assert [split["split"] for split in tree["splits"]] == ["train", "val"]
    assert tree["steps"][1]["num_clips_out"] == 1000
    assert tree["models"]["clap_weights"] == "untrained"
