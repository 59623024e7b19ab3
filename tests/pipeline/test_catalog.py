from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crawl.items import source_item
from crawl.politeness import HostPause
from infra.errors import ConfigError, IntegrityError
from pipeline.catalog import Catalog
from pipeline.funnel import read_funnel, require_complete
from pipeline.funnel_text import funnel_markdown, funnel_rows, funnel_tree
from pipeline.lake import Lake
from pipeline.lake_rows import pause_row, source_row

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def clip(source_id: str, number: int, *reasons: str) -> dict:
    return {
        "clip_id": f"{source_id}-{number}",
        "source_id": source_id,
        "recipe_id": "r",
        "start_s": 10.0 * number,
        "end_s": 10.0 * number + 10,
        "faults": list(reasons) or None,
        "bundle_key": None if reasons else f"staged/{source_id}.tar",
        "mp4_bytes": None if reasons else 1,
        "embedding_key": None if reasons else f"staged/{source_id}.npy.tar",
        "clap_npy_bytes": None if reasons else 1,
    }


def failure(
    source_id: str, stage: str, code: str, minutes: int = 0, *, retry: bool = False, host: str = "a.org"
) -> dict:
    return {
        "host": host,
        "attempt": 1,
        "next_retry_at": NOW + timedelta(minutes=minutes, hours=1) if retry else None,
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
        if row["bundle_key"]
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
        clips=[clip("kept", 0), clip("kept", 1, "snr_db"), clip("rejected", 0, "no_audio", "too_short")],
        failures=[failure("gone", "fetch", "gone"), failure("broken", "curate", "undecodable")],
    )
    funnel = read_funnel(catalog, "r")
    require_complete(funnel)
    counts = [tuple(row.values()) for row in funnel_rows(funnel)]
    assert counts == [
        ("fetch", "sources", 5, 3, 0, 1, 1),
        ("curate", "sources", 3, 1, 1, 1, 0),
        ("measure", "spans", 3, 1, 2, 0, 0),
        ("embed", "clips", 1, 1, 0, 0, 0),
    ]
    assert dict(funnel.reasons) == {"snr_db": 1, "no_audio": 1, "too_short": 1}
    assert funnel.failures == (("curate", "undecodable", 1), ("fetch", "gone", 1))
    assert (funnel.kept_clips, funnel.kept_duration_s) == (1, 10.0)
    assert funnel_tree(funnel)["reasons"]["no_audio"] == 1
    assert "5 sources in = 3 kept + 0 rejected + 1 failed + 1 pending" in funnel_markdown(funnel)


def test_finished_sources_leave_out_what_is_to_be_tried_again(tmp_path):
    catalog = filled(
        tmp_path,
        sources=["aa", "bb", "cc"],
        clips=[clip("aa", 0)],
        failures=[failure("bb", "fetch", "gone"), failure("cc", "fetch", "network", retry=True)],
    )
    finished = catalog.finished_sources("r")
    assert [name in finished for name in ("aa", "bb", "cc")] == [True, True, False]
    assert len(catalog.finished_sources("other")) == 0
    assert catalog.retries("r") == {"cc": (1, (NOW + timedelta(hours=1)).timestamp())}


def test_outcome_last_attempt_was_the_last(tmp_path):
    catalog = filled(
        tmp_path,
        sources=["cc"],
        clips=[],
        failures=[
            failure("cc", "fetch", "network", retry=True),
            failure("cc", "fetch", "network", minutes=5),
        ],
    )
    assert catalog.retries("r") == {}
    assert "cc" in catalog.finished_sources("r")


def test_failed_hosts_count_by_host_and_class(tmp_path):
    catalog = filled(
        tmp_path,
        sources=["aa", "bb", "cc", "dd"],
        clips=[],
        failures=[
            failure("aa", "fetch", "network", retry=True),
            failure("bb", "fetch", "network", minutes=5),
            failure("cc", "fetch", "gone"),
            failure("dd", "fetch", "gone", host="b.org"),
        ],
    )
    due = NOW + timedelta(hours=1)
    assert [
        (found.host, found.code, found.num_sources, found.num_to_retry, found.next_retry_at)
        for found in read_funnel(catalog, "r").failed_hosts
    ] == [("a.org", "network", 2, 1, due), ("a.org", "gone", 1, 0, None), ("b.org", "gone", 1, 0, None)]


def test_failed_items_are_those_of_the_class(tmp_path):
    item = source_item("https://a.org/v", kind="list", span_start_s=1.5)
    lake = Lake(tmp_path)
    lake.create()
    lake.commit(
        {
            "sources": [source_row(item, run_id="run", now=NOW)],
            "failures": [
                failure(item.source_id, "fetch", "bot_check", retry=True),
                failure("feed", "expand", "bot_check"),
            ],
            "listings": [listing("feed", minutes=-5) | {"complete": False, "spec": "https://a.org/feed.xml"}],
        },
        run_id="run",
        batch_index=0,
    )
    assert Catalog(tmp_path).failed_items("r", "bot_check") == ([item], ["https://a.org/feed.xml"])
    with pytest.raises(ConfigError, match="got 'network'; classes that failed: bot_check"):
        Catalog(tmp_path).failed_items("r", "network")


def test_outcome_failure_that_was_overcome_does_not_count(tmp_path):
    catalog = filled(
        tmp_path,
        sources=["s"],
        clips=[clip("s", 0)],
        failures=[failure("s", "fetch", "network"), failure("s", "fetch", "timeout", minutes=5)],
    )
    rows = catalog.query("select source_id, outcome, code from outcomes").to_pylist()
    assert rows == [{"source_id": "s", "outcome": "kept", "code": None}]
    assert read_funnel(catalog, "r").failures == ()


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
    funnel = read_funnel(catalog, "r")
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
    funnel = read_funnel(filled(tmp_path, sources=["s"], clips=[clip("s", 0)], failures=[]), "r")
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
    assert catalog.query("select source_id from sources").to_pylist() == [{"source_id": "s"}]


def listing(source_id: str, minutes: int = 0) -> dict:
    return {
        "source_id": source_id,
        "spec": "feed",
        "next_index": 3,
        "entry_ids": [],
        "complete": True,
        "run_id": "run",
        "listed_at": NOW + timedelta(minutes=minutes),
    }


def test_begun_listing_goes_on_after_the_pages_since_its_last_end(tmp_path):
    items = [source_item(f"https://a.org/{name}", kind="web") for name in "abc"]
    ids = [item.source_id for item in items]
    lake = Lake(tmp_path)
    lake.create()
    rows = [
        listing("begun", 0) | {"complete": False, "entry_ids": ids[:1]},
        listing("begun", 1),
        listing("begun", 2) | {"complete": False, "next_index": 5, "entry_ids": ids[1:2]},
        listing("begun", 3) | {"complete": False, "next_index": 7, "entry_ids": ids[2:]},
        listing("done", 0) | {"complete": False, "entry_ids": ids},
        listing("done", 1),
    ]
    sources = [source_row(item, run_id="run", now=NOW) for item in items]
    lake.commit({"sources": sources, "listings": rows}, run_id="run", batch_index=0)
    next_index, listed = Catalog(tmp_path).begun_listing("begun")
    assert (next_index, {item.url for item in listed}) == (7, {"https://a.org/b", "https://a.org/c"})
    assert Catalog(tmp_path).begun_listing("done") == (0, [])
    assert Catalog(tmp_path).begun_listing("never") == (0, [])


def test_listed_video_that_is_its_own_entry_stays_a_source(tmp_path):
    filled(tmp_path, sources=["aa", "bb"], clips=[], failures=[])
    rows = [
        listing("aa", 0) | {"complete": False, "entry_ids": ["aa"]},
        listing("aa", 1),
        listing("bb", 0) | {"complete": False, "entry_ids": ["cc"]},
        listing("bb", 1),
    ]
    Lake(tmp_path).commit({"listings": rows}, run_id="later", batch_index=0)
    assert Catalog(tmp_path).query("from listed").to_pylist() == [{"source_id": "bb"}]


def test_paused_hosts_are_those_whose_latest_pause_is_not_over(tmp_path):
    lake = Lake(tmp_path)
    lake.create()
    rows = [
        pause_row(
            HostPause(host=host, until_s=until_s, code="rate_limited", reason=str(until_s)),
            run_id="r",
            now=NOW,
        )
        for host, until_s in (("a.org", 10.0), ("a.org", 30.0), ("b.org", 20.0))
    ]
    lake.commit({"hosts": rows}, run_id="run", batch_index=0)
    assert Catalog(tmp_path).paused_hosts(now_s=20.0) == (
        HostPause(host="a.org", until_s=30.0, code="rate_limited", reason="30.0"),
    )


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
    funnel = read_funnel(catalog, "r")
    require_complete(funnel)
    assert (funnel.stages[0].num_in, funnel.stages[0].num_failed) == (num_in, num_failed)
    assert read_funnel(catalog, "another recipe").stages[0].num_pending == num_in


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
