"""Bounds that move: what is kept follows at once, and only what was never encoded is made."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from infra.errors import ConfigError
from pipeline.catalog import Catalog
from pipeline.funnel import read_funnel, require_complete
from pipeline.funnel_text import kept_line
from pipeline.ingest import chosen_recipe, plan_only_missing
from pipeline.what_if import WhatIf, read_what_if
from pipeline.what_if_text import what_if_lines, what_if_tree
from shards.schema import npy_array
from tests.media import make_clip
from tests.pipeline.in_process import ingest_in_process, run_in_process

# Every source has four soft seconds between sharp ones; only the looser bound admits them.
VIDEO = "testsrc2=size=640x480:rate=25,gblur=sigma=1:enable='between(t,4,8)'"
CLIPS = "split.clip_s=4"
LOOSE = "filters.laplacian_variance.min=60"


def rows(root: Path, columns: str) -> list[tuple]:
    table = Catalog(root).query(f"select {columns} from clips order by clip_id")
    return [tuple(row.values()) for row in table.to_pylist()]


def sample_bytes(root: Path) -> dict[str, bytes]:
    """Every staged file of a root, wherever it lies."""
    found = {}
    for path in root.glob("staged/*/*.tar"):
        with tarfile.open(fileobj=io.BytesIO(path.read_bytes())) as bundle:
            found |= {member.name: bundle.extractfile(member).read() for member in bundle}
    return found


def folder_with_clips(folder: Path) -> str:
    folder.mkdir()
    for duration_s in (11.5, 12.0):
        make_clip(folder / f"{duration_s}.mp4", duration_s=duration_s, video=VIDEO)
    return f"dir:{folder}"


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Path:
    """A folder of sources, and the root that a run under the filters' own bounds has made of it."""
    folder = tmp_path_factory.mktemp("measured")
    ingest_in_process(folder_with_clips(folder / "in"), folder / "root", CLIPS)
    return folder


@pytest.fixture
def root(measured, tmp_path) -> Path:
    """A copy to work on."""
    return shutil.copytree(measured / "root", tmp_path / "root")


def test_moved_bounds_decide_without_decoding(measured, root):
    kept = [(True, False, [], 0), (False, False, ["laplacian_variance"], 0), (True, False, [], 0)]
    assert rows(root, "kept, missing, reject_reasons, pass_index") == kept * 2
    staged = {path: path.stat().st_mtime_ns for path in root.glob("staged/*/*")}
    assert len(staged) == 4
    first = Catalog(root).latest_recipe_id()
    tight = ingest_in_process(f"dir:{measured / 'in'}", root, CLIPS, "filters.laplacian_variance.min=1000")
    assert tight.recipe_id == first
    assert rows(root, "kept, reject_reasons") == [(False, ["laplacian_variance"])] * 6
    funnel = read_funnel(Catalog(root), first)
    require_complete(funnel)
    assert [count.num_rejected for count in funnel.stages] == [0, 2, 6, 0]
    ingest_in_process(f"dir:{measured / 'in'}", root, CLIPS)
    assert rows(root, "kept, missing, reject_reasons, pass_index") == kept * 2
    assert {path: path.stat().st_mtime_ns for path in root.glob("staged/*/*")} == staged
    assert Catalog(root).rows("select count(*) from fetches") == [(2,)]


def test_missing_clips_are_counted_until_they_are_made(measured, root):
    recipe = ingest_in_process(f"dir:{measured / 'in'}", root, CLIPS, LOOSE)
    assert rows(root, "kept, missing") == [(True, False), (False, True), (True, False)] * 2
    funnel = read_funnel(Catalog(root), recipe.recipe_id)
    require_complete(funnel)
    missing = funnel.missing
    assert (missing.num_spans, missing.num_sources, missing.duration_s, funnel.kept_clips) == (2, 2, 8.0, 4)
    assert "2 spans (0.002 h) of 2 sources may be kept" in kept_line(funnel)
    assert [count.num_pending for count in funnel.stages] == [0, 0, 2, 0]


def test_only_missing_makes_just_what_a_looser_bound_admits(measured, root):
    staged = {path: path.stat().st_mtime_ns for path in root.glob("staged/*/*")}
    loose = measured / "loose"
    ingest_in_process(f"dir:{measured / 'in'}", loose, CLIPS, LOOSE)
    plan = plan_only_missing(str(root), None, [LOOSE])
    assert len(plan.items) == 2
    recipe = run_in_process(plan)
    require_complete(read_funnel(Catalog(root), recipe.recipe_id))
    assert rows(root, "kept, missing, pass_index") == [(True, False, 1)] * 6
    assert {path: path.stat().st_mtime_ns for path in staged} == staged
    added = set(root.glob("staged/*/*")) - set(staged)
    assert len(added) == 4
    assert all(path.name.split(".")[0].endswith("-1") for path in added)
    made, at_once = sample_bytes(root), sample_bytes(loose)
    assert len(made) == 6 * 5
    assert made.keys() == at_once.keys()
    assert {name for name in made if made[name] != at_once[name]} <= {n for n in made if n.endswith(".npy")}
    for name in made:  # In a batch of other clips the last bits of an embedding may be others.
        if name.endswith(".npy"):
            arrays = [npy_array(data[name], subject=name) for data in (made, at_once)]
            np.testing.assert_allclose(*arrays, atol=2e-3)
    places = [f"0 as {ext}_offset_bytes" for ext in ("mp4", "flac", "json", "clip_npy", "clap_npy")]
    places += ["0 as clip_npy_crc32", "0 as clap_npy_crc32"]
    columns = f"* exclude (run_id, pass_index, bundle_key, embedding_key) replace ({', '.join(places)})"
    assert rows(root, columns) == rows(loose, columns)
    assert plan_only_missing(str(root), None, []).items == ()


def test_only_missing_takes_media_from_the_store(measured, root, tmp_path):
    for path in root.glob("media/*/*"):
        path.rename(tmp_path / path.name)
    plan = plan_only_missing(str(root), None, [LOOSE])
    held = measured.rename(tmp_path / "elsewhere")  # The originals are where nobody finds them.
    try:
        run_in_process(plan)
        assert Catalog(root).rows("select distinct code from failures") == [("gone",)]
        assert rows(root, "kept, missing") == [(True, False), (False, True), (True, False)] * 2
        for path in tmp_path.glob("*.mp4"):
            path.rename(next(root.glob(f"media/{path.name[:2]}")) / path.name)
        run_in_process(plan_only_missing(str(root), None, []))
    finally:
        held.rename(measured)
    assert rows(root, "kept, missing") == [(True, False)] * 6
    assert Catalog(root).rows("select count(*) from fetches") == [(2,)]


def test_tighter_bounds_after_a_second_pass_keep_its_places(measured, root):
    run_in_process(plan_only_missing(str(root), None, [LOOSE]))
    ingest_in_process(f"dir:{measured / 'in'}", root, CLIPS)
    assert rows(root, "kept, missing") == [(True, False), (False, False), (True, False)] * 2
    assert plan_only_missing(str(root), None, [LOOSE]).items == ()


def test_only_missing_of_another_recipe_raises_config_error(root):
    with pytest.raises(
        ConfigError, match="must have a recipe that was run before, with other bounds at most"
    ):
        plan_only_missing(str(root), None, ["split.clip_s=5"])


def test_what_if_tells_what_is_lost_and_what_would_have_to_be_made(root):
    catalog = Catalog(root)
    recipe_id = catalog.latest_recipe_id()

    def asked(*overrides: str) -> WhatIf:
        bounds = chosen_recipe(catalog, None, overrides).bounds
        return read_what_if(catalog, recipe_id=recipe_id, bounds=bounds, where="true")

    answer = asked(LOOSE)
    kind, total = answer.kinds
    assert (kind.kind, total.kind) == ("dir", "all")
    amounts = (total.measured, total.kept_now, total.kept_then, total.lost, total.missing)
    assert [amount.clips for amount in amounts] == [6, 4, 4, 0, 2]
    assert total.missing.hours == pytest.approx(8 / 3600)
    assert ("laplacian_variance", "> 60", "> 100") in answer.bounds
    assert "2 (0.002 h) may be kept under these bounds and were never encoded" in what_if_lines(answer)[-1]
    answer = asked("filters.laplacian_variance.min=1000")
    (cost,) = [c for c in answer.costs if (c.filter, c.kind) == ("laplacian_variance", "all")]
    assert (cost.broken.clips, cost.alone.clips, cost.num_unmeasured) == (6, 6, 0)
    assert (answer.kinds[-1].lost.clips, answer.kinds[-1].kept_then.clips) == (4, 0)
    assert what_if_lines(asked()) == ["these are the bounds of the latest run"]
    assert json.loads(json.dumps(what_if_tree(answer)))["kinds"][-1]["lost"]["clips"] == 4
