from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.errors import ConfigError, IntegrityError
from pipeline.catalog import Catalog, require_complete
from pipeline.funnel_text import funnel_markdown, funnel_rows, funnel_tree
from pipeline.lake import Lake

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def clip(source_id: str, number: int, *reasons: str) -> dict:
    return {
        "clip_id": f"{source_id}-{number}",
        "source_id": source_id,
        "recipe_id": "r",
        "start_s": 10.0 * number,
        "end_s": 10.0 * number + 10,
        "kept": not reasons,
        "reject_reasons": list(reasons),
    }


def failure(source_id: str, stage: str, code: str, minutes: int = 0) -> dict:
    return {
        "subject_id": source_id,
        "recipe_id": "r",
        "stage": stage,
        "code": code,
        "message": "what must hold",
        "failed_at": NOW + timedelta(minutes=minutes),
    }


def filled(root: Path, *, sources: list[str], clips: list[dict], failures: list[dict]) -> Catalog:
    lake = Lake(root)
    lake.create()
    embeddings = [
        {"clip_id": row["clip_id"], "recipe_id": "r", "model_kind": kind}
        for row in clips
        if row["kept"]
        for kind in ("clip", "clap")
    ]
    rows = {
        "sources": [{"source_id": name, "url": name, "added_at": NOW} for name in sources],
        "clips": clips,
        "embeddings": embeddings,
        "failures": failures,
    }
    lake.commit(rows, run_id="run", batch_index=0)
    return Catalog(root)


def test_funnel_every_ending_counts_once(tmp_path):
    catalog = filled(
        tmp_path,
        sources=["kept", "rejected", "gone", "broken", "waiting"],
        clips=[clip("kept", 0), clip("kept", 1, "snr_db"), clip("rejected", 0, "no_audio", "short_side_px")],
        failures=[failure("gone", "fetch", "gone"), failure("broken", "curate", "undecodable")],
    )
    funnel = catalog.funnel("r")
    require_complete(funnel)
    counts = [tuple(row.values()) for row in funnel_rows(funnel)]
    assert counts == [
        ("fetch", "sources", 5, 3, 0, 1, 1),
        ("curate", "sources", 3, 1, 1, 1, 0),
        ("measure", "spans", 3, 1, 2, 0, 0),
        ("embed", "clips", 1, 1, 0, 0, 0),
    ]
    assert dict(funnel.reasons) == {"snr_db": 1, "no_audio": 1, "short_side_px": 1}
    assert funnel.failures == (("curate", "undecodable", 1), ("fetch", "gone", 1))
    assert (funnel.kept_clips, funnel.kept_duration_s) == (1, 10.0)
    assert funnel_tree(funnel)["reasons"]["no_audio"] == 1
    assert "5 sources in = 3 kept + 0 rejected + 1 failed + 1 pending" in funnel_markdown(funnel)


def test_finished_source_ids_leave_out_what_may_work_later(tmp_path):
    catalog = filled(
        tmp_path,
        sources=["kept", "gone", "reset"],
        clips=[clip("kept", 0)],
        failures=[failure("gone", "fetch", "gone"), failure("reset", "fetch", "network")],
    )
    assert catalog.finished_source_ids("r") == {"kept", "gone"}
    assert catalog.finished_source_ids("other") == set()


def test_outcome_failure_that_was_overcome_does_not_count(tmp_path):
    catalog = filled(
        tmp_path,
        sources=["s"],
        clips=[clip("s", 0)],
        failures=[failure("s", "fetch", "network"), failure("s", "fetch", "timeout", minutes=5)],
    )
    rows = catalog.query("select source_id, outcome, code from outcomes").to_pylist()
    assert rows == [{"source_id": "s", "outcome": "kept", "code": None}]
    assert catalog.funnel("r").failures == ()


def test_outcome_latest_failure_names_the_class(tmp_path):
    catalog = filled(
        tmp_path,
        sources=["s"],
        clips=[],
        failures=[failure("s", "fetch", "gone", minutes=5), failure("s", "fetch", "network")],
    )
    assert catalog.query("select outcome, code from outcomes").to_pylist() == [
        {"outcome": "failed", "code": "gone"}
    ]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    endings=st.lists(st.sampled_from(["kept", "rejected", "fetch", "curate", "expand", "wait"]), max_size=30)
)
def test_funnel_adds_up_for_any_mixture(tmp_path_factory, endings):
    names = [f"s{number}" for number in range(len(endings))]
    by_name = dict(zip(names, endings, strict=True))
    catalog = filled(
        tmp_path_factory.mktemp("root"),
        sources=names,
        clips=[
            clip(name, 0, *(["snr_db"] if ending == "rejected" else []))
            for name, ending in by_name.items()
            if ending in ("kept", "rejected")
        ],
        failures=[
            failure(name, ending, "gone")
            for name, ending in by_name.items()
            if ending in ("fetch", "curate", "expand")
        ],
    )
    funnel = catalog.funnel("r")
    require_complete(funnel)
    assert funnel.stages[0].num_in == len(endings)
    assert funnel.stages[0].num_pending == endings.count("wait")
    assert funnel.stages[1].num_kept == endings.count("kept")


@pytest.mark.parametrize(
    ("index", "change", "message"),
    [
        (0, {"num_in": 3}, "at stage fetch, got 3 and 1"),
        (0, {"num_in": 2, "num_kept": 2}, "got 2 fetched and 1 curated"),
        (3, {"num_in": 2, "num_kept": 2}, "1 kept and 2 embedded"),
        (3, {"num_kept": 0}, "at stage embed, got 1 and 0"),
    ],
)
def test_require_complete_lost_input_raises_integrity_error(tmp_path, index, change, message):
    funnel = filled(tmp_path, sources=["s"], clips=[clip("s", 0)], failures=[]).funnel("r")
    require_complete(funnel)
    stages = list(funnel.stages)
    stages[index] = replace(stages[index], **change)
    with pytest.raises(IntegrityError, match=message):
        require_complete(replace(funnel, stages=tuple(stages)))


def test_query_wrong_sql_raises_one_line_that_names_the_tables(tmp_path):
    catalog = filled(tmp_path, sources=[], clips=[], failures=[])
    for query in ("selec 1", "select nosuch from clips", "select * from nosuch", "select 'a'::int"):
        with pytest.raises(ConfigError, match=r"DuckDB SQL over .*clips.*outcomes.*DuckDB says") as caught:
            catalog.query(query)
        assert len(str(caught.value).splitlines()) == 1


def test_latest_recipe_id_empty_lake_raises_config_error(tmp_path):
    with pytest.raises(ConfigError, match="run `avgen run` first"):
        filled(tmp_path, sources=[], clips=[], failures=[]).latest_recipe_id()


def test_query_without_rows_to_return_raises_config_error(tmp_path):
    with pytest.raises(ConfigError, match="it is empty"):
        filled(tmp_path, sources=[], clips=[], failures=[]).query("")


@pytest.mark.parametrize("name", ["a b", "a#b", "ä'b"])
def test_catalog_root_with_odd_characters_is_read(tmp_path, name):
    catalog = filled(tmp_path / name, sources=["s"], clips=[], failures=[])
    assert catalog.known_source_ids() == {"s"}


def listing(source_id: str, minutes: int = 0) -> dict:
    return {"source_id": source_id, "run_id": "run", "listed_at": NOW + timedelta(minutes=minutes)}


@pytest.mark.parametrize(("listed_after", "num_in", "num_failed"), [(None, 2, 1), (-5, 2, 1), (5, 1, 0)])
def test_funnel_feed_that_failed_counts_until_it_is_listed(tmp_path, listed_after, num_in, num_failed):
    filled(
        tmp_path,
        sources=["feed", "video"],
        clips=[clip("video", 0)],
        failures=[failure("feed", "expand", "network")],
    )
    if listed_after is not None:
        rows = {"listings": [listing("feed", listed_after)]}
        Lake(tmp_path).commit(rows, run_id="later", batch_index=0)
    catalog = Catalog(tmp_path)
    funnel = catalog.funnel("r")
    require_complete(funnel)
    assert (funnel.stages[0].num_in, funnel.stages[0].num_failed) == (num_in, num_failed)
    assert catalog.unlisted_source_ids() == ({"feed"} if num_failed else set())
    assert catalog.funnel("another recipe").stages[0].num_pending == num_in


@pytest.mark.parametrize(
    ("where", "condition"),
    [
        ("snr_db > 3 -- loud", "snr_db > 3"),
        ("hash(clip_id) % 10 = 0", "hash(clip_id) % 10 = 0"),
        ("kept or true", "kept or true"),
    ],
)
def test_condition_is_one_expression(tmp_path, where, condition):
    found = filled(tmp_path, sources=[], clips=[], failures=[]).condition(where)
    assert found.lower().replace("(", "").replace(")", "") == condition.replace("(", "").replace(")", "")


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("true) or (true", "must be one SQL condition"),
        ("snr_db >", "must be one SQL condition"),
        ("true; drop table clips", "must be one SQL condition"),
        ("kept, true", "must be one SQL condition"),
        ("", "must be one SQL condition"),
        ("random() < 0.5", r"random\(\) does not"),
        ("clip_id in (select uuid()::varchar)", r"uuid\(\) does not"),
        ("current_date > '2026-01-01'", r"current_date\(\) does not"),
    ],
)
def test_condition_that_could_select_anything_raises_config_error(tmp_path, where, message):
    with pytest.raises(ConfigError, match=message):
        filled(tmp_path, sources=[], clips=[], failures=[]).condition(where)
