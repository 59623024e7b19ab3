import random

import numpy as np
import pytest

from crawl.items import source_item
from pipeline.ray_adapter import gather_sources, plan_pools
from pipeline.records import ClipEmbeddings, EmbeddedPart, Failed, SourceOutcome


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
def test_plan_pools_fit_on_the_machine_together(num_cpus, num_gpus):
    pools = plan_pools(num_cpus, num_gpus)
    everyone = (pools.fetch, pools.curate, pools.embed)
    assert sum(pool.num_actors * pool.cpus for pool in everyone) <= num_cpus
    assert sum(pool.num_actors * pool.gpus for pool in everyone) <= num_gpus
