"""A selection over small lakes with known answers, through the real lake and catalog."""

from collections import Counter
from datetime import UTC, datetime
from hashlib import sha256
from itertools import count
from pathlib import Path

import pytest

from filters.registry import Bounds
from infra.config import override_config
from infra.errors import ConfigError, IntegrityError
from pipeline.catalog import Catalog
from pipeline.dedup_config import DedupConfig
from pipeline.lake import Lake
from pipeline.mixture import DatasetConfig
from pipeline.select_clips import Selection, ShareCount, SplitCount, StepCount, select_clips
from pipeline.splits import split_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ORIGIN = {"recipe_id": "r", "run_id": "run"}


def clip(clip_id: str, **columns: object) -> dict:
    source_id = clip_id.partition("-")[0]
    places = {"bundle_key": f"{source_id}.tar", "embedding_key": f"{source_id}.npy.tar"}
    scores = {"width_px": 640, "height_px": 480, "laplacian_variance": 200.0}
    return (
        ORIGIN
        | places
        | scores
        | {"clip_id": clip_id, "source_id": source_id, "start_s": 0.0, "end_s": 10.0}
        | columns
    )


def source(source_id: str, kind: str = "web") -> dict:
    return {"source_id": source_id, "url": source_id, "kind": kind, "run_id": "run", "added_at": NOW}


def fetch(source_id: str, channel_id: str = "", **columns: object) -> dict:
    return ORIGIN | {"source_id": source_id, "channel_id": channel_id, "fetched_at": NOW} | columns


def group(clip_id: str, group_id: str) -> dict:
    return ORIGIN | {"clip_id": clip_id, "group_id": group_id, "found_at": NOW}


def packed(*clip_ids: str) -> dict[str, list[dict]]:
    """Rows of version 1 of the dataset `d`."""
    version = {"dataset": "d", "version": 1}
    return {"datasets": [version], "samples": [version | {"clip_id": clip_id} for clip_id in clip_ids]}


EMBEDDINGS = [
    ORIGIN | {"clip_id": "any", "model_kind": kind, "model": f"{kind} model", "weights": "untrained"}
    for kind in ("clip", "clap")
]


class Root:
    """A lake that grows by rows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lake = Lake(path)
        self._lake.create()
        self._batches = count()
        self.add(embeddings=EMBEDDINGS)

    def add(self, **rows: list[dict]) -> None:
        self._lake.commit(rows, run_id="run", batch_index=next(self._batches))

    def select(
        self, *settings: str, where: str = "true", bounds: dict | None = None, seed: int = 0
    ) -> Selection:
        return select_clips(
            self.catalog(),
            recipe_id="r",
            bounds=bounds or {},
            where=where,
            config=override_config(DatasetConfig(), settings),
            dedup=DedupConfig(),
            dataset="d",
            seed=seed,
        )

    def catalog(self) -> Catalog:
        return Catalog(self._path)

    def clips(self, *settings: str, **options: object) -> dict[str, str]:
        """Clip -> split of the selection, as `avgen sql` would answer."""
        selection = self.select(*settings, **options)
        rows = self.catalog().query(selection.sql).to_pylist()
        found = {row["clip_id"]: row["split"] for row in rows}
        assert len(found) == len(rows) == selection.steps[-1].num_clips
        assert Counter(found.values()) == {count.split: count.num_clips for count in selection.counts}
        return found


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(tmp_path)


def drawn(clip_ids: list[str], seed: int = 0) -> list[str]:
    """Ids in the order in which a seed draws them."""
    return sorted(clip_ids, key=lambda clip_id: sha256(f"{seed}/{clip_id}".encode()).digest())


def test_select_every_step_takes_out_its_clips(root):
    root.add(
        sources=[source("a"), source("b", "dir")],
        fetches=[fetch("a", "c", licence="CC-BY", uploader="Ann"), fetch("b")],
        clips=[
            clip("a-0", snr_db=10.0),
            clip("a-1", snr_db=9.5, end_s=5.5),
            clip("a-2", faults=["no_audio"]),
            clip("a-3", snr_db=20.0, bundle_key=None),
            clip("b-0", snr_db=20.0, end_s=2.5),
            clip("b-1", snr_db=20.0, width_px=100),
            clip("a-9", snr_db=99.0, recipe_id="another"),
        ],
    )
    selection = root.select(where="width_px > 200", bounds={"snr_db": Bounds(min=10)})
    assert [
        (s.rule, s.num_clips_out, s.duration_out_s, s.num_clips, s.duration_s) for s in selection.steps
    ] == [
        ("measured", 0, 0.0, 6, 48.0),
        ("in_bounds", 2, 15.5, 4, 32.5),
        ("staged", 1, 10.0, 3, 22.5),
        ("wanted", 1, 10.0, 2, 12.5),
    ]
    assert selection.counts == (SplitCount(split="train", num_clips=2, num_sources=2, duration_s=12.5),)
    web = ShareCount(name="web", num_clips=1, num_sources=1, duration_s=10.0)
    assert selection.kinds == (web, ShareCount(name="dir", num_clips=1, num_sources=1, duration_s=2.5))
    assert [share.name for share in selection.channels] == ["Ann (c)", "b"]
    assert [share.name for share in selection.licences] == ["CC-BY", "not stated"]
    assert (selection.models.clip_model, selection.models.clap_weights) == ("clip model", "untrained")
    assert root.clips(where="width_px > 200", bounds={"snr_db": Bounds(min=10, strict=True)}) == {
        "b-0": "train"
    }


def test_select_one_of_a_duplicate_group_by_the_order_in_the_recipe(root):
    sizes = {"a-0": 100.0, "b-0": 300.0, "c-0": 200.0, "d-0": 50.0}
    root.add(
        clips=[clip(clip_id, laplacian_variance=value) for clip_id, value in sizes.items()],
        duplicates=[group("a-0", "a-0"), group("b-0", "a-0"), group("c-0", "a-0"), group("d-0", "d-0")],
    )
    assert root.clips().keys() == {"b-0", "d-0"}
    assert root.clips(where="laplacian_variance < 300").keys() == {"c-0", "d-0"}
    assert root.clips("dedup=off").keys() == sizes.keys()
    assert root.select().steps[-1] == StepCount(
        rule="distinct_clips", num_clips_out=2, duration_out_s=20.0, num_clips=2, duration_s=20.0
    )
    root.add(**packed("a-0"))
    assert root.clips().keys() == {"a-0", "d-0"}


def test_select_clips_that_were_not_compared_raise_config_error(root):
    root.add(clips=[clip("a-0")])
    with pytest.raises(ConfigError, match="no clip of recipe r was compared with others; run `avgen dedup`"):
        root.select("dedup=on")
    assert root.clips().keys() == {"a-0"}
    root.add(clips=[clip("b-0")], duplicates=[group("a-0", "a-0")])
    with pytest.raises(ConfigError, match="1 were not, first b-0; run `avgen dedup`"):
        root.select()
    assert root.clips(where="clip_id = 'a-0'").keys() == {"a-0"}
    assert root.clips("dedup=off").keys() == {"a-0", "b-0"}


def test_select_caps_leave_the_packed_clips_then_the_first_drawn(root):
    ids = [f"{source_id}-{number}" for source_id in "ab" for number in range(5)]
    root.add(
        clips=[clip(i) for i in ids] + [clip("c-0"), clip("d-0")], fetches=[fetch("a", "x"), fetch("b", "x")]
    )
    order = drawn(ids)
    alone = {"c-0", "d-0"}
    assert root.clips("max_clips_per_channel=3").keys() == {*order[:3], *alone}
    assert root.clips("max_hours_per_channel=0.0112").keys() == {*order[:4], *alone}  # 40.3 s
    assert root.clips("max_clips_per_channel=4", "max_hours_per_channel=0.006").keys() == {*order[:2], *alone}
    assert root.clips("max_clips_per_channel=3", seed=5).keys() == {*drawn(ids, seed=5)[:3], *alone}
    root.add(**packed(order[-1], order[-2]))
    assert root.clips("max_clips_per_channel=3").keys() == {order[0], *order[-2:], *alone}


def test_select_weights_are_shares_of_the_hours(root):
    root.add(
        sources=[source("a", "web"), source("b", "dir"), source("c", "feed")],
        clips=[clip(f"a-{i}") for i in range(40)]
        + [clip(f"b-{i}", end_s=5.0) for i in range(40)]
        + [clip(f"c-{i}") for i in range(3)],
    )
    found = Counter(clip_id[0] for clip_id in root.clips("weights.web=1", "weights.dir=2", "weights.feed=0"))
    assert found == {"a": 10, "b": 40}
    found = Counter(
        clip_id[0] for clip_id in root.clips("weights.web=0.8", "weights.dir=0.1", "weights.feed=0.1")
    )
    assert found == {"a": 24, "b": 6, "c": 3}
    found = Counter(
        clip_id[0]
        for clip_id in root.clips("weights.web=1", "weights.dir=2", "weights.feed=0", "max_clips=25")
    )
    assert found == {"a": 5, "b": 20}


def test_select_weights_that_do_not_fit_the_kinds_raise_config_error(root):
    root.add(sources=[source("a", "web"), source("b", "dir")], clips=[clip("a-0"), clip("b-0")])
    with pytest.raises(
        ConfigError, match=r"dir .1 clips. is missing; add dataset.weights.dir, 0 to leave it out"
    ):
        root.select("weights.web=1")
    with pytest.raises(ConfigError, match="dirs has none; did you mean dir"):
        root.select("weights.web=1", "weights.dir=1", "weights.dirs=1")


def test_select_max_clips_draws_by_the_hash_of_the_seed(root):
    ids = [f"a-{i}" for i in range(20)]
    root.add(clips=[clip(i) for i in ids])
    assert root.clips("max_clips=7").keys() == set(drawn(ids)[:7])
    assert root.clips("max_clips=7", seed=3).keys() == set(drawn(ids, seed=3)[:7])
    assert root.clips("max_clips=99").keys() == set(ids)
    last = drawn(ids)[-1]
    root.add(**packed(last))
    assert root.clips("max_clips=7").keys() == {last, *drawn(ids)[:6]}


@pytest.mark.parametrize(
    ("max_clips", "expected"),
    [(6, {"a": 2, "b": 2, "c": 2}), (15, {"a": 6, "b": 6, "c": 3}), (25, {"a": 12, "b": 10, "c": 3})],
)
def test_select_strata_of_texts_share_alike_until_one_is_used_up(root, max_clips, expected):
    sizes = {"a": 30, "b": 10, "c": 3}
    root.add(
        clips=[clip(f"{name}-{i}", video_codec=name) for name, size in sizes.items() for i in range(size)]
    )
    found = root.clips(f"max_clips={max_clips}", "stratify.column=video_codec")
    assert Counter(clip_id[0] for clip_id in found) == expected


def test_select_strata_of_numbers_are_bins(root):
    # 90 scores in [0, 10), 5 in [50, 60), 5 in [90, 100), and 2 without one.
    scores = (
        [i / 9 for i in range(90)] + [50.0 + i for i in range(5)] + [95.0 + i for i in range(5)] + [None] * 2
    )
    root.add(clips=[clip(f"a-{i}", motion_score=score) for i, score in enumerate(scores)])

    def bins(*settings: str) -> Counter:
        found = root.clips("max_clips=8", "stratify.column=motion_score", "stratify.bins=2", *settings)
        values = [scores[int(clip_id.partition("-")[2])] for clip_id in found]
        return Counter("none" if value is None else value > 49 for value in values)

    assert bins() == {False: 3, True: 3, "none": 2}
    assert bins("stratify.edges=quantile")["none"] == 2


def test_select_strata_with_weights_hold_inside_each_kind(root):
    root.add(
        sources=[source("a", "web"), source("b", "dir")],
        clips=[
            clip(f"{name}-{i}", video_codec="rare" if i < 3 else "often") for name in "ab" for i in range(20)
        ],
    )
    found = root.clips("weights.web=1", "weights.dir=1", "max_clips=8", "stratify.column=video_codec")
    rare = Counter((clip_id[0], int(clip_id[2:]) < 3) for clip_id in found)
    assert rare == {("a", True): 2, ("a", False): 2, ("b", True): 2, ("b", False): 2}


def test_select_unknown_stratum_column_raises_config_error(root):
    root.add(clips=[clip("a-0")])
    with pytest.raises(ConfigError, match="got 'motion_scor'; did you mean motion_score"):
        root.select("max_clips=1", "stratify.column=motion_scor")


def test_select_holds_channels_out_and_counts_what_would_leak(root):
    settings = ("split.val=0.3", "split.test=0.3")
    config = override_config(DatasetConfig(), settings).split
    channel = {split_of(f"c{i}", config): f"c{i}" for i in range(40)}
    root.add(
        fetches=[
            fetch("a", channel["train"], sha256="shared"),
            fetch("b", channel["test"], sha256="shared"),
            fetch("c", channel["val"], sha256="own"),
            fetch("d", channel["train"], sha256="other"),
        ],
        clips=[clip(f"{name}-{i}") for name in "abcd" for i in range(2)],
    )
    assert root.clips(*settings) == {
        "b-0": "test", "b-1": "test", "c-0": "val", "c-1": "val", "d-0": "train", "d-1": "train",
    }  # fmt: skip
    selection = root.select(*settings)
    assert [count.split for count in selection.counts] == ["train", "val", "test"]
    assert (selection.steps[-1].rule, selection.steps[-1].num_clips_out) == ("apart", 2)
    assert root.clips(*settings, seed=9) == root.clips(*settings)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bounds": {"snr_db": Bounds(min=99)}}, "bounds of the filters took out all 2 .* loosen filters"),
        ({"where": "width_px > 9999"}, "--where width_px > 9999 took out all 1 .* loosen --where"),
        ({"where": "widthpx > 1"}, "--where must fit the columns of clips, got 'widthpx > 1'"),
        ({"where": "true) or (true"}, "must be one SQL condition"),
        ({"where": "clip_id::int > 5"}, "DuckDB says: Conversion Error"),
    ],
)
def test_select_what_selects_nothing_says_why(root, options, message):
    root.add(clips=[clip("a-0", snr_db=1.0), clip("a-1", snr_db=1.0, bundle_key=None)])
    with pytest.raises(ConfigError, match=message):
        root.select(**options)


def test_select_nothing_measured_or_staged_says_what_to_run(root):
    with pytest.raises(ConfigError, match=r"none was measured .recipe r.; see `avgen status`"):
        root.select()
    root.add(clips=[clip("a-0", bundle_key=None)])
    with pytest.raises(ConfigError, match=r"not staged took out all 1 .* `avgen run --only-missing`"):
        root.select()


def test_select_embeddings_of_two_models_raise_integrity_error(root):
    root.add(clips=[clip("a-0")], embeddings=[EMBEDDINGS[0] | {"weights": "openai"}])
    with pytest.raises(IntegrityError, match="one pair of models"):
        root.select()


def test_select_bad_dedup_order_raises_config_error(root):
    root.add(clips=[clip("a-0")])
    with pytest.raises(
        ConfigError, match=r"dedup.keep must be terms of an order over clips, got 'sharpness desc'"
    ):
        select_clips(
            root.catalog(),
            recipe_id="r",
            bounds={},
            where="true",
            config=DatasetConfig(),
            dedup=DedupConfig(keep=("sharpness desc",)),
            dataset="d",
            seed=0,
        )


def test_selection_sql_gives_the_same_answer_after_the_version_that_it_made(root):
    ids = [f"a-{i}" for i in range(20)]
    root.add(clips=[clip(i) for i in ids[:10]])
    selection = root.select("max_clips=5")
    first = root.catalog().query(selection.sql).to_pylist()
    root.add(**packed(*(row["clip_id"] for row in first)))
    assert sorted(map(str, root.catalog().query(selection.sql).to_pylist())) == sorted(map(str, first))
    root.add(clips=[clip(i) for i in ids[10:]])
    assert root.clips("max_clips=8").keys() > {row["clip_id"] for row in first}


def test_selection_does_not_depend_on_the_order_of_rows(tmp_path):
    names = [f"s{i}" for i in range(12)]
    ids = [f"{name}-{i}" for name in names for i in range(6)]
    rows = {
        "sources": [source(name, ["web", "dir"][i % 2]) for i, name in enumerate(names)],
        "fetches": [fetch(name, f"c{i % 5}", sha256=f"f{i % 7}") for i, name in enumerate(names)],
        "clips": [
            clip(clip_id, motion_score=i * 7 % 31 / 3, end_s=3 + i % 5) for i, clip_id in enumerate(ids)
        ],
        "duplicates": [group(clip_id, ids[i - i % 3]) for i, clip_id in enumerate(ids)],
        **packed(*ids[::4]),
    }
    settings = (
        "split.val=0.2", "max_clips_per_channel=5", "max_hours_per_channel=0.006",
        "weights.web=2", "weights.dir=1", "max_clips=7", "stratify.column=motion_score", "stratify.bins=3",
    )  # fmt: skip
    found = []
    for name, step in (("forward", 1), ("backward", -1)):
        (tmp_path / name).mkdir()
        root = Root(tmp_path / name)
        root.add(**{table: table_rows[::step] for table, table_rows in rows.items()})
        found.append((root.clips(*settings), root.select(*settings)))
    assert found[0] == found[1]
    busy = {step.rule for step in found[0][1].steps if step.num_clips_out}
    assert busy == {"distinct_clips", "apart", "capped", "weighted", "drawn"}
    assert len(found[0][0]) == 7
