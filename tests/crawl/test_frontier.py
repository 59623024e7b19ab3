"""What is fetched next, and when a run has nothing left to do."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crawl.frontier import FetchJob, Frontier, Standstill
from crawl.items import SourceItem, source_item
from crawl.policy import FetchConfig, HostLimit

FREE = 10**15
NOW = 1_000_000.0


def item(host: str, number: int = 0, span: tuple[float, float] = (0.0, math.inf)) -> SourceItem:
    return source_item(f"https://{host}/{number}", kind="list", span_start_s=span[0], span_end_s=span[1])


def frontier(*items: SourceItem, **settings: object) -> Frontier:
    made = Frontier(FetchConfig(**settings), now_s=NOW)
    made.add(items)
    made.close()
    return made


def take(made: Frontier, max_jobs: int = 100, now_s: float = NOW, free_bytes: int = FREE) -> list[FetchJob]:
    return made.take(max_jobs, now_s=now_s, free_bytes=free_bytes)


def finish(made: Frontier, *jobs: FetchJob, num_bytes: int = 0) -> None:
    for job in jobs:
        made.fetched(job.job_id, num_bytes=num_bytes)
        made.settle([source.source_id for source in job.items])


def urls(jobs: list[FetchJob]) -> list[str]:
    return [job.url.removeprefix("https://") for job in jobs]


def test_take_hosts_in_turn_each_in_its_order():
    made = frontier(*(item("a.org", n) for n in range(3)), item("b.org", 0), item("c.org", 0))
    assert urls(take(made, 4)) == ["a.org/0", "b.org/0", "c.org/0", "a.org/1"]
    assert urls(take(made)) == ["a.org/2"]
    assert take(made) == []


def test_take_a_busy_host_gets_no_more_and_delays_no_other():
    limit = {"slow.org": HostLimit(requests_per_s=1, connections=1)}
    made = frontier(*(item("slow.org", n) for n in range(9)), item("b.org"), hosts=limit)
    jobs = take(made)
    assert urls(jobs) == ["slow.org/0", "b.org/0", "slow.org/1"]
    assert take(made) == []
    finish(made, jobs[0])
    assert urls(take(made)) == ["slow.org/2"]


def test_take_spans_of_one_video_that_wait_together_are_one_job():
    spans = [(0.0, 10.0), (10.0, 20.0), (50.0, 60.0)]
    made = frontier(*(item("a.org", 1, span) for span in spans), item("a.org", 2))
    first, second = take(made)
    assert [(source.span_start_s, source.span_end_s) for source in first.items] == spans
    assert len(second.items) == 1


def test_take_an_address_that_is_being_fetched_waits():
    made = frontier(item("a.org", 1, (0.0, 10.0)))
    (job,) = take(made)
    made.add([item("a.org", 1, (10.0, 20.0))])
    assert take(made) == []
    finish(made, job)
    assert len(take(made)) == 1


def test_pause_leaves_a_host_alone_until_then():
    made = frontier(item("a.org"), item("b.org"), patience_s=100)
    made.pause("a.org", until_s=NOW + 50, reason="bot_check: prove that you are human")
    jobs = take(made)
    assert urls(jobs) == ["b.org/0"]
    finish(made, *jobs)
    assert take(made, now_s=NOW + 49.9) == []
    still = made.standstill(now_s=NOW, free_bytes=FREE)
    assert still is not None and (still.code, still.num_waiting) == ("paused", 1)
    assert "a.org is paused until" in still.message and "prove that you are human" in still.message
    assert not made.is_done(now_s=NOW, free_bytes=FREE)
    assert urls(take(made, now_s=NOW + 50)) == ["a.org/0"]


def test_pause_a_shorter_one_does_not_end_a_longer_one():
    made = frontier(item("a.org"))
    made.pause("a.org", until_s=NOW + 50, reason="x")
    made.pause("a.org", until_s=NOW + 10, reason="y")
    assert take(made, now_s=NOW + 20) == []


def test_pause_of_a_domain_counts_for_its_subdomains_where_they_have_one_limit():
    made = frontier(item("www.youtube.com"), item("m.youtube.com"))
    made.pause("youtube.com", until_s=NOW + 50, reason="x")
    assert take(made) == []


def test_is_done_ends_when_a_pause_is_longer_than_the_patience():
    made = frontier(item("a.org"), patience_s=100)
    made.pause("a.org", until_s=NOW + 101, reason="x")
    assert take(made) == []
    assert made.is_done(now_s=NOW, free_bytes=FREE)
    assert made.num_waiting == 1


def test_is_done_patience_is_for_the_whole_run():
    made = frontier(item("a.org"), patience_s=100)
    for waited_s in (60, 60):
        made.pause("a.org", until_s=NOW + waited_s, reason="x")
        done = made.is_done(now_s=NOW, free_bytes=FREE)
        made.is_done(now_s=NOW + waited_s, free_bytes=FREE)
        jobs = take(made, now_s=NOW + waited_s)
        if not done:
            made.defer(jobs[0], until_s=NOW + waited_s + 60)
    # 60 s of the patience are spent, so a second pause of 60 s is too long.
    assert made.is_done(now_s=NOW + 60, free_bytes=FREE)


def test_is_done_waits_for_what_is_open_and_for_the_listing():
    made = Frontier(FetchConfig(), now_s=NOW)
    assert not made.is_done(now_s=NOW, free_bytes=FREE)
    made.add([item("a.org")])
    made.close()
    (job,) = take(made)
    made.fetched(job.job_id, num_bytes=1)
    assert not made.is_done(now_s=NOW, free_bytes=FREE)
    made.settle([job.items[0].source_id])
    assert made.is_done(now_s=NOW, free_bytes=FREE)


def test_defer_brings_a_job_back_when_it_is_due_and_costs_no_budget():
    made = frontier(item("a.org"), budget_items=1, patience_s=1000)
    (job,) = take(made)
    made.defer(job, until_s=NOW + 5)
    assert take(made, now_s=NOW + 4) == []
    assert made.unsettled == set()
    assert urls(take(made, now_s=NOW + 5)) == ["a.org/0"]


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"budget_items": 2}, "budget_items"),
        ({"budget_bytes": 20}, "budget_bytes"),
        ({"budget_h": 0.01}, "budget_h"),
    ],
)
def test_take_a_spent_budget_ends_the_run_and_says_which(settings, name):
    made = frontier(*(item("a.org", n) for n in range(5)), **settings)
    jobs = [
        job
        for step in range(5)
        for job in take(made, 1, now_s=NOW + 18 * step)
        if not finish(made, job, num_bytes=10)
    ]
    assert len(jobs) == 2
    end_s = NOW + 100
    assert made.is_done(now_s=end_s, free_bytes=FREE)
    still = made.standstill(now_s=end_s, free_bytes=FREE)
    assert still is not None and (still.code, still.num_waiting) == ("budget", 3)
    assert name in still.message


def test_take_nothing_begins_while_the_disk_is_almost_full():
    made = frontier(item("a.org"), min_free_bytes=1000, patience_s=10)
    assert take(made, free_bytes=999) == []
    assert made.standstill(now_s=NOW, free_bytes=999) == Standstill(
        code="disk_full",
        message="the disk of the root is almost full: 999 bytes are free and fetch.min_free_bytes = 1000;"
        " make room",
        num_waiting=1,
    )
    assert not made.is_done(now_s=NOW, free_bytes=999)
    assert made.is_done(now_s=NOW + 11, free_bytes=999)
    assert len(take(made, free_bytes=1000)) == 1


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["take", "finish", "defer", "pause", "wait"]), st.integers(0, 5)), max_size=60
)


@settings(deadline=None, max_examples=200)
@given(actions=ACTIONS, hosts=st.lists(st.sampled_from("abc"), min_size=1, max_size=30))
def test_frontier_hands_out_everything_once_and_never_too_much_of_a_host(actions, hosts):
    config = FetchConfig(hosts={"a.org": HostLimit(requests_per_s=1, connections=1)}, patience_s=1e9)
    items = [item(f"{host}.org", number) for number, host in enumerate(hosts)]
    made = Frontier(config, now_s=NOW)
    made.add(items)
    made.close()
    now_s, open_jobs, ended = NOW, [], []
    for action, number in [*actions, *[("wait", 5), ("finish", 0), ("take", 5)] * 50]:
        if action == "take":
            open_jobs += take(made, number, now_s=now_s)
            assert sum(job.url.startswith("https://a.org") for job in open_jobs) <= 2
        elif action == "wait":
            now_s += number * 10
        elif action == "pause":
            made.pause("b.org", until_s=now_s + number, reason="x")
        elif open_jobs:
            job = open_jobs.pop(number % len(open_jobs))
            if action == "defer":
                made.defer(job, until_s=now_s + number)
            else:
                finish(made, job)
                ended += [source.source_id for source in job.items]
    assert sorted(ended) == sorted(source.source_id for source in items)
    assert made.is_done(now_s=now_s, free_bytes=FREE) and made.num_waiting == 0
