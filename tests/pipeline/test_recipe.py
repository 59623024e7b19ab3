from pathlib import Path

import pytest

from infra.errors import ConfigError
from pipeline.recipe import load_recipe


def test_load_recipe_override_changes_one_bound_and_keeps_the_others():
    recipe = load_recipe("default", ["filters.snr_db.min=12"])
    assert (recipe.bounds["snr_db"].min, recipe.bounds["snr_db"].strict) == (12, True)
    assert recipe.bounds["silence_ratio"].max == 0.5


def test_load_recipe_zero_is_a_bound():
    assert load_recipe("default", ["filters.snr_db.min=0"]).bounds["snr_db"].min == 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("filters.snrdb.min=3", r"unknown filter filters\.snrdb; did you mean snr_db\?"),
        ("split.clip=3", r"unknown setting split\.clip; did you mean clip_s\?"),
        ("splt.clip_s=3", r"unknown setting splt; did you mean split\?"),
        ("filters.snr_db.mini=3", r"unknown setting filters\.snr_db\.mini"),
        ("split.clip_s=-3", r"split\.clip_s: Input should be greater than 0, got -3"),
        ("split.clip_s=long", r"split\.clip_s: .* got 'long'"),
        ("split.clip_s", "must look like filters.snr_db.min=12"),
        ("split.clip_s.deep=1", "clip_s is a value, not a group"),
        ("filters.laplacian_variance.min=20", "keyframe_laplacian_variance.min must be at most .* 50 and 20"),
        ("filters.silence_ratio.min=0.9", "filters.silence_ratio: bounds must satisfy min <= max"),
        ("split.clip_s=2", r"split\.min_clip_s must be at most split\.clip_s, got 3\.0 and 2\.0"),
        ("split.min_clip_s=0.1", r"split\.min_clip_s must span 8 frames"),
        ("transcode.frame_rate_fps=0.5", r"transcode\.frame_rate_fps"),
        ("transcode.x264_preset=quick", "transcode.x264_preset"),
    ],
)
def test_load_recipe_wrong_override_raises_one_clear_line(override, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_recipe("default", [override])
    assert len(str(caught.value).splitlines()) == 1


def test_load_recipe_unknown_name_lists_the_known_ones(tmp_path: Path):
    with pytest.raises(ConfigError, match="one of default, demo; got nosuch"):
        load_recipe("nosuch", [])
    broken = tmp_path / "broken.toml"
    broken.write_text("[split\n")
    with pytest.raises(ConfigError, match="must be TOML"):
        load_recipe(str(broken), [])


def test_recipe_id_follows_what_decides_clips_and_nothing_else():
    base = load_recipe("default", []).recipe_id
    assert load_recipe("default", []).recipe_id == base
    for override in (
        "split.clip_s=5",
        "transcode.x264_crf=20",
        "embed.clip_model=tiny",
    ):
        assert load_recipe("default", [override]).recipe_id != base
    for override in ("fetch.max_bytes=720", "media.memory_mib=2048", "filters.snr_db.min=12"):
        assert load_recipe("default", [override]).recipe_id == base


def test_recipe_file_with_the_default_content_is_the_default(tmp_path: Path):
    copy = tmp_path / "mine.toml"
    copy.write_text((Path("pipeline/recipes/default.toml")).read_text())
    assert load_recipe(str(copy), []) == load_recipe("default", [])
