"""What is listed, what is committed when, and what a wrong request says."""

import pytest

from infra.errors import ConfigError, IntegrityError
from infra.storage import exclusive
from pipeline import ingest
from pipeline.catalog import Catalog
from pipeline.funnel import read_funnel
from pipeline.ingest import plan_ingest
from pipeline.run_record import start_run
from tests.crawl.web import make_clip, serve
from tests.pipeline.in_process import ingest_in_process


def test_ingest_feed_that_failed_is_no_source_once_it_was_listed(tmp_path):
    (tmp_path / "site").mkdir()
    with serve(tmp_path / "site") as site:
        address, root = site.url("/late.xml"), tmp_path / "root"
        ingest_in_process(address, root)
        outcomes = "select stage, code from outcomes"
        assert Catalog(root).query(outcomes).to_pylist() == [{"stage": "expand", "code": "gone"}]
        site.pages["/late.xml"] = site.pages["/feed.xml"]
        recipe = ingest_in_process(address, root)
        urls = {site.url(f"/{name}.mp4") for name in ("clip", "other1", "other2")}
    catalog = Catalog(root)
    assert {row["url"] for row in catalog.query("select url from fetches").to_pylist()} == urls
    fetch = read_funnel(catalog, recipe.recipe_id).stages[0]
    assert (fetch.num_in, fetch.num_failed, fetch.num_pending) == (3, 0, 0)


@pytest.mark.parametrize("weights", ["nosuch/clip.pt", "clip.safetensors"])
def test_plan_ingest_weights_that_are_no_file_raise_config_error(tmp_path, weights):
    make_clip(tmp_path / "a.mp4")
    with pytest.raises(ConfigError, match=r"embed\.clip_weights must be a file or a published name"):
        plan_ingest([f"dir:{tmp_path}"], str(tmp_path / "root"), "demo", [f"embed.clip_weights={weights}"])


def test_marked_at_its_end_says_how_a_run_ended(tmp_path):
    with exclusive(tmp_path):
        failing, done = (start_run(tmp_path, "ingest", recipe_id=name, settings_json="{}") for name in "ab")
        with pytest.raises(IntegrityError), failing.marked_at_its_end():
            raise IntegrityError("bytes are wrong")
        with done.marked_at_its_end():
            pass
    states = Catalog(tmp_path).query(
        "select recipe_id, list(state order by recorded_at) as s from runs group by 1"
    )
    assert {row["recipe_id"]: row["s"] for row in states.to_pylist()} == {
        "a": ["started", "failed"],
        "b": ["started", "done"],
    }


def test_ingest_root_below_the_folder_is_not_walked(tmp_path):
    make_clip(tmp_path / "a.mp4")
    root = tmp_path / "data"
    for _ in range(2):
        ingest_in_process(f"dir:{tmp_path}", root)
        assert len(list((root / "media").glob("*/*.mp4"))) == 1
        urls = Catalog(root).query("select url from sources").column(0).to_pylist()
        assert urls == [(tmp_path / "a.mp4").as_uri()]


def test_drop_sources_also_drops_those_of_a_killed_run_and_keeps_what_another_run_keeps(tmp_path):
    for number, name in enumerate(("killed", "kept", "last")):
        (tmp_path / name).mkdir()
        make_clip(tmp_path / name / f"{name}.mp4", seed=number)
    root = tmp_path / "root"
    ingest_in_process(
        f"dir:{tmp_path / 'killed'}", root, "media.keep_sources=false"
    )  # It ends before it drops.
    ingest_in_process(f"dir:{tmp_path / 'kept'}", root)
    ingest_in_process(f"dir:{tmp_path / 'last'}", root, "media.keep_sources=false")
    assert len(list((root / "media").glob("*/*.mp4"))) == 3
    ingest.drop_sources(root)
    (left,) = (root / "media").glob("*/*.mp4")
    assert left.read_bytes() == (tmp_path / "kept" / "kept.mp4").read_bytes()


def test_start_run_removes_what_killed_writers_left(tmp_path):
    half = tmp_path / "staged" / "3d" / ".3d80.tar.0123.tmp"
    bundle = tmp_path / "staged" / "3d" / "3d80.tar"
    half.parent.mkdir(parents=True)
    half.touch(), bundle.touch()
    with exclusive(tmp_path):
        start_run(tmp_path, "ingest", recipe_id="r", settings_json="{}")
    assert (half.exists(), bundle.exists()) == (False, True)


def test_meant_recipe_id_is_the_named_one_or_that_of_the_latest_finished_run(tmp_path):
    with exclusive(tmp_path):
        for recipe_id, ends in (("a", True), ("b", True), ("c", False)):
            run = start_run(tmp_path, "ingest", recipe_id=recipe_id, settings_json="{}")
            if ends:
                run.mark("done")
    catalog = Catalog(tmp_path)
    assert catalog.meant_recipe_id(None) == "b"
    assert catalog.meant_recipe_id("c") == "c"
    with pytest.raises(ConfigError, match="must be that of an ingest run, got d"):
        catalog.meant_recipe_id("d")
