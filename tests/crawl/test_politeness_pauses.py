import pickle

import pytest

from crawl.policy import HostLimit
from crawl.politeness import FetchRobots, Granted, HostGate, HostPause, LocalDesk, Said, Wait
from tests.crawl.gate import BOT_CHECK, FAILED, OK, RATE_LIMITED, START_S, Crawl


def is_jittered(found_s: float, expected_s: float) -> bool:
    return expected_s - 1e-6 <= found_s <= 1.1 * expected_s + 1e-6


# --- Pauses ---

LONGEST_S = 6 * 3600.0


@pytest.mark.parametrize(
    ("answers", "expected_s"),
    [
        ([RATE_LIMITED], [10]),
        ([RATE_LIMITED] * 3, [10, 20, 900]),  # The third within a minute.
        ([RATE_LIMITED] * 9, [10, 20, 900, 1800, 3600, 7200, 14400, LONGEST_S, LONGEST_S]),
        ([RATE_LIMITED, OK, RATE_LIMITED, OK], [10, 0, 10, 0]),
        ([RATE_LIMITED, OK] * 3, [10, 0, 10, 0, 900, 0]),
        ([RATE_LIMITED, FAILED, RATE_LIMITED], [10, 0, 20]),
        ([BOT_CHECK] * 6, [1800, 3600, 7200, 14400, LONGEST_S, LONGEST_S]),
        ([BOT_CHECK, OK, BOT_CHECK], [1800, 0, 1800]),
        ([RATE_LIMITED, BOT_CHECK], [10, 1800]),
        ([Said("rate_limited", 3.0)], [3]),
        ([Said("rate_limited", 3.0)] * 2, [3, 20]),
        ([Said("rate_limited", 70.0)] * 3, [70, 70, 70]),
        ([Said("rate_limited", 70.0)] * 4, [70, 70, 70, 80]),
        ([Said("rate_limited", 40_000.0)] * 2, [40_000, 40_000]),
        ([Said("rate_limited", 0.0)], [10]),
        ([Said("rate_limited", -5.0)], [10]),
        ([Said("bot_check", 5.0)], [1800]),
        ([Said("bot_check", 5000.0)], [5000]),
        ([Said("failed", 120.0)] * 2, [120, 120]),
        ([Said("ok", 120.0)], [0]),
        ([Said("rate_limited", float("inf"))], [365 * 86400]),
        ([Said("rate_limited", float("nan"))], [10]),
    ],
)
def test_release_answers_pause_the_host(answers: list[Said], expected_s: list[float]) -> None:
    crawl = Crawl(HostLimit(requests_per_s=100.0, connections=1))
    found_s = [crawl.pause_s(crawl.lease(), answer) for answer in answers]
    assert [is_jittered(found, expected) for found, expected in zip(found_s, expected_s, strict=True)] == [
        True
    ] * len(answers), found_s


def test_release_refusals_of_requests_in_flight_count_once() -> None:
    crawl = Crawl(HostLimit(requests_per_s=100.0, connections=8))
    first, *others = [crawl.lease() for _ in range(8)]
    assert is_jittered(crawl.pause_s(first, RATE_LIMITED), 10)
    crawl.now_s += 1.0
    assert [crawl.pause_s(lease_id, RATE_LIMITED) for lease_id in others] == [0.0] * 7
    assert is_jittered(crawl.pause_s(crawl.lease(), RATE_LIMITED), 20)


def test_release_success_of_a_request_in_flight_does_not_end_the_doubling() -> None:
    crawl = Crawl(HostLimit(requests_per_s=100.0, connections=8))
    first, second = crawl.lease(), crawl.lease()
    crawl.release(first, RATE_LIMITED)
    crawl.release(second, OK)
    assert is_jittered(crawl.pause_s(crawl.lease(), RATE_LIMITED), 20)


def test_release_bot_check_in_flight_after_a_429_still_counts_once() -> None:
    crawl = Crawl(HostLimit(requests_per_s=100.0, connections=8))
    leases = [crawl.lease() for _ in range(4)]
    found_s = [
        crawl.pause_s(lease_id, said)
        for lease_id, said in zip(leases, [RATE_LIMITED] + [BOT_CHECK] * 3, strict=True)
    ]
    assert is_jittered(found_s[1], 1800)
    assert found_s[2:] == [0.0, 0.0]


def test_release_longer_retry_after_in_flight_extends_the_pause() -> None:
    crawl = Crawl(HostLimit(requests_per_s=100.0, connections=8))
    leases = [crawl.lease() for _ in range(3)]
    found_s = [
        crawl.pause_s(lease_id, Said("rate_limited", asked))
        for lease_id, asked in zip(leases, (30, 90, 60), strict=True)
    ]
    assert [is_jittered(found_s[0], 30), is_jittered(found_s[1], 90), found_s[2]] == [True, True, 0.0]


def test_acquire_paused_host_names_the_pause_and_a_short_one_is_waited_for() -> None:
    crawl = Crawl(HostLimit(requests_per_s=100.0, connections=8))
    pause = crawl.release(crawl.lease(), BOT_CHECK)
    assert pause is not None
    assert (pause.host, pause.code, pause.reason) == ("h", "bot_check", "Sign in to confirm you're not a bot")
    assert crawl.ask() == pause
    crawl.now_s = pause.until_s - 3.0
    assert crawl.ask() == Wait(pytest.approx(3.0))
    crawl.now_s = pause.until_s
    assert isinstance(crawl.ask(), Granted)


def test_release_pauses_of_several_hosts_do_not_end_together() -> None:
    crawl = Crawl(HostLimit(requests_per_s=100.0, connections=1))
    leases = [crawl.lease(f"h{k}") for k in range(20)]
    ends_s = [crawl.pause_s(lease_id, BOT_CHECK) for lease_id in leases]
    assert len(set(ends_s)) == 20
    assert max(ends_s) - min(ends_s) > 30


def test_pause_learned_elsewhere_the_later_end_wins() -> None:
    crawl = Crawl(HostLimit())
    pauses = [HostPause(host="h", until_s=START_S + s, code="bot_check", reason=str(s)) for s in (50, 90, 70)]
    for pause in pauses:
        crawl.gate.pause(pause)
    assert crawl.gate.pauses(now_s=START_S) == (pauses[1],)
    assert crawl.ask() == pauses[1]
    assert crawl.gate.pauses(now_s=START_S + 90) == ()


# --- Memory ---


def test_gate_many_hosts_forgets_those_not_in_use() -> None:
    crawl = Crawl(HostLimit(requests_per_s=1000.0))
    sizes = []
    for k in range(10_000):
        crawl.now_s += 0.2
        crawl.release(crawl.lease(f"h{k}", f"c{k}"))
        if k % 50 == 0:
            sizes.append(len(pickle.dumps(crawl.gate)))
    assert max(sizes[100:]) < 1.1 * max(sizes[:100])
    assert max(sizes[100:]) < 200 * 700  # Two minutes of hosts.


def test_gate_forgets_no_pause_no_doubling_and_no_lease() -> None:
    crawl = Crawl(HostLimit(requests_per_s=1000.0, connections=1))
    crawl.lease("leased", "slow")
    crawl.release(crawl.lease("paused"), BOT_CHECK)
    crawl.gate.pause(HostPause(host="learned", until_s=START_S + 3000, code="bot_check", reason=""))
    for _ in range(40):
        crawl.now_s += 59.0
        crawl.gate.renew("slow", now_s=crawl.now_s)
        crawl.ask("another")
    assert isinstance(crawl.ask("leased"), Wait)
    assert [pause.host for pause in crawl.gate.pauses(now_s=crawl.now_s)] == ["learned"]
    assert is_jittered(crawl.pause_s(crawl.lease("paused"), BOT_CHECK), 3600)


def test_gate_remembers_a_slow_limit_between_requests() -> None:
    crawl = Crawl(HostLimit(requests_per_s=0.01))
    crawl.release(crawl.lease("slow"))
    for _ in range(10):
        crawl.now_s += 10.1
        crawl.ask("another")
    assert isinstance(crawl.ask("slow"), Granted)


def test_gate_client_put_off_by_a_slow_limit_is_served_when_it_comes_back_late() -> None:
    crawl = Crawl(HostLimit(requests_per_s=0.01))
    assert crawl.ask("slow") == Wait(pytest.approx(100.0))
    for _ in range(9):
        crawl.now_s += 100.0
        crawl.ask("another")
    assert isinstance(crawl.ask("slow"), Granted)


# --- robots.txt ---


def test_robots_one_client_is_told_to_fetch_and_all_get_the_text() -> None:
    gate = HostGate()

    def ask(client: str, now_s: float) -> str | FetchRobots | Wait:
        return gate.robots("https://h", client_id=client, now_s=now_s)

    assert ask("a", 1000.0) == FetchRobots()
    assert ask("b", 1001.0) == Wait(0.25)
    gate.keep_robots("https://h", "text", max_age_s=50.0, now_s=1002.0)
    assert [ask("a", 1003.0), ask("b", 1051.0)] == ["text", "text"]
    assert ask("b", 1052.0) == FetchRobots()
    assert ask("a", 1052.0) == Wait(0.25)
    assert gate.robots("https://other", client_id="a", now_s=1052.0) == FetchRobots()


def test_robots_client_that_died_or_forgot_is_replaced() -> None:
    gate = HostGate()
    gate.robots("https://h", client_id="dead", now_s=1000.0)
    assert gate.robots("https://h", client_id="b", now_s=1060.0) == Wait(0.25)
    assert gate.robots("https://h", client_id="b", now_s=1061.0) == FetchRobots()
    for k in range(1, 11):
        gate.renew("b", now_s=1061.0 + 30 * k)
    assert gate.robots("https://h", client_id="c", now_s=1360.0) == Wait(0.25)
    assert gate.robots("https://h", client_id="c", now_s=1362.0) == FetchRobots()
    assert gate.robots("https://h", client_id="c", now_s=1363.0) == FetchRobots()


def test_keep_robots_many_large_ones_the_oldest_are_forgotten() -> None:
    gate = HostGate()
    text = "#" * 1024 * 1024
    for k in range(200):
        gate.keep_robots(f"https://h{k % 100}", text, max_age_s=1e6, now_s=1000.0)
    found = [gate.robots(f"https://h{k}", client_id="a", now_s=1000.0) == text for k in range(100)]
    assert found == [False] * 37 + [True] * 63


def test_keep_robots_again_takes_no_more_room() -> None:
    gate = HostGate()
    gate.keep_robots("https://first", "text", max_age_s=1e6, now_s=1000.0)
    for _ in range(100):
        gate.keep_robots("https://h", "#" * 1024 * 1024, max_age_s=1e6, now_s=1000.0)
    assert gate.robots("https://first", client_id="a", now_s=1000.0) == "text"


# --- The desk ---


def test_local_desk_is_the_gate_with_a_clock() -> None:
    now_s = [START_S]
    desk = LocalDesk(lambda: now_s[0])
    limit = HostLimit(requests_per_s=2.0, connections=1)
    assert desk.acquire("h", limit, client_id="c") == Wait(pytest.approx(0.5))
    now_s[0] += 0.5
    lease = desk.acquire("h", limit, client_id="c")
    assert isinstance(lease, Granted)
    desk.renew("c")
    pause = desk.release(lease.lease_id, RATE_LIMITED)
    assert pause is not None
    later = HostPause(host="a", until_s=START_S + 99, code="bot_check", reason="")
    desk.pause(later)
    assert desk.pauses() == (later, pause)
    assert desk.robots("https://h", client_id="c") == FetchRobots()
    desk.keep_robots("https://h", "text", max_age_s=9.0)
    assert desk.robots("https://h", client_id="c") == "text"


@pytest.mark.parametrize(
    "message",
    [
        Granted(5),
        Wait(0.5),
        FetchRobots(),
        RATE_LIMITED,
        HostPause(host="h", until_s=1.0, code="bot_check", reason="r"),
        HostLimit(),
    ],
)
def test_messages_of_the_desk_cross_processes(message: object) -> None:
    assert pickle.loads(pickle.dumps(message)) == message
