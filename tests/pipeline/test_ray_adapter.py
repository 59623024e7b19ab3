import random

import numpy as np
import pytest

from crawl.items import source_item
from infra.errors import ConfigError, IntegrityError
from pipeline.actors import CurateActor, EmbedActor, gather_sources
from pipeline.ray_adapter import plan_pools
from pipeline.recipe import EmbedConfig, load_recipe
from pipeline.records import ClipEmbeddings, CuratePart, EmbeddedPart, Failed, SourceOutcome


def parts_of(url: str, num_parts: int) -> list[EmbeddedPart]:
    item = source_item(url, kind="web")
    failed = Failed(subject_id=item.source_id, stage="curate", code="truncated", message="x")
    parts = []
    for index in range(num_parts):
        vector = ClipEmbeddings(
            clip_id=f"{item.source_id}-{index}",
            clip_ND=np.zeros((1, 2), np.float16),
            clip_weights="untrained",
            clap_D=np.zeros(2, np.float16),
            clap_weights="untrained",
        )
        outcome = SourceOutcome(item=item, failed=failed) if index == num_parts - 1 else None
        parts.append(
            EmbeddedPart(source_id=item.source_id, part_index=index, embeddings=(vector,), outcome=outcome)
        )
    return parts


@pytest.mark.parametrize("seed", range(20))
def test_gather_sources_parts_in_any_order_give_every_source_once(seed):
    parts = [part for number in range(5) for part in parts_of(f"https://x/{number}", number + 1)]
    random.Random(seed).shuffle(parts)
    finished = list(gather_sources(iter(parts)))
    assert sorted(source.outcome.item.url for source in finished) == [f"https://x/{n}" for n in range(5)]


def test_gather_sources_lost_part_is_noticed():
    with pytest.raises(AssertionError):
        list(gather_sources(iter(parts_of("https://x/1", 3)[1:])))


@pytest.mark.parametrize(("num_cpus", "num_gpus"), [(1, 0), (2, 0), (16, 0), (16, 2), (64, 8)])
@pytest.mark.parametrize("num_sources", [1, 3, 10_000, None])
@pytest.mark.parametrize("memory_mib", [40_000, 500_000])
def test_plan_pools_fit_on_the_machine_together(num_cpus, num_gpus, memory_mib, num_sources):
    pools = plan_pools(num_cpus, num_gpus, memory_mib=memory_mib, fetch_mib=780, num_sources=num_sources)
    everyone = (pools.fetch, pools.curate, pools.embed)
    assert sum(pool.num_actors * pool.cpus for pool in everyone) <= num_cpus
    assert sum(pool.num_actors * pool.gpus for pool in everyone) <= num_gpus
    assert sum(pool.num_actors * pool.memory_mib for pool in everyone) <= memory_mib
    assert all(pool.num_actors >= 1 for pool in everyone)
    assert num_sources is None or pools.curate.num_actors <= num_sources


def test_plan_pools_too_little_memory_raises_instead_of_waiting():
    def pools(memory_mib: int):
        return plan_pools(2, 0, memory_mib=memory_mib, fetch_mib=780, num_sources=9)

    assert pools(3940).curate.num_actors == 1
    with pytest.raises(ConfigError, match="must have 3940 MiB for the actors, got 3939"):
        pools(3939)


def test_embed_actor_weights_that_cannot_be_loaded_become_the_record(tmp_path):
    """Ray hands over an exception's text alone; the driver needs the error."""
    (tmp_path / "clip.pt").write_text("no checkpoint")
    config = EmbedConfig(clip_model="tiny", clip_weights=str(tmp_path / "clip.pt"), clap_model="tiny")
    actor = EmbedActor(config=config, use_gpu=False)
    (part,) = parts_of("https://x/1", 1)
    record = actor({"record": CuratePart(source_id=part.source_id, part_index=0, outcome=part.outcome)})[
        "record"
    ]
    assert isinstance(record, ConfigError)
    assert "clip.pt" in str(record)


def test_actors_hand_on_an_error_from_before_them(tmp_path):
    row = {"record": IntegrityError("bytes are wrong")}
    recipe = load_recipe("demo", [])
    assert list(CurateActor(recipe=recipe, root=tmp_path, work_dir=tmp_path)(row)) == [row]
    assert EmbedActor(config=recipe.embed, use_gpu=False)(row) == row
