import heapq
from collections import Counter, defaultdict
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crawl.policy import HostLimit
from crawl.politeness import Granted, HostGate, HostPause, Said, Wait
from tests.crawl.gate import BOT_CHECK, OK, RATE_LIMITED, START_S, Crawl

LIMITS = st.builds(
    HostLimit,
    requests_per_s=st.sampled_from([0.1, 0.5, 2.0, 7.3, 40.0, 1000.0]),
    connections=st.integers(min_value=1, max_value=4),
)


def capacity(limit: HostLimit) -> float:
    return max(1.0, 0.25 * limit.requests_per_s)


# --- Rates and connections, under any schedule ---

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "ask", "release", "renew", "pause"]),
        st.sampled_from("ab"),  # client
        st.sampled_from(["x", "y"]),  # host
        st.sampled_from(["ok", "ok", "failed", "rate_limited", "bot_check"]),
        st.sampled_from([0.0, 0.0, 0.001, 0.03, 0.5, 1.0, 3.7, 20.0, 61.0, 2000.0]),
        st.sampled_from([None, None, 0.0, 0.5, 2.0, 90.0]),
    ),
    max_size=120,
)


@settings(deadline=None)
@given(LIMITS, STEPS)
def test_gate_any_schedule_keeps_rate_connections_and_pauses(limit: HostLimit, steps: list) -> None:
    crawl = Crawl(limit)
    seen_s: dict[str, float] = {}
    until_s: dict[str, float] = defaultdict(float)
    for action, client, host, kind, passed_s, asked_s in steps:
        crawl.now_s += passed_s
        seen_s = {who: moment_s for who, moment_s in seen_s.items() if crawl.now_s - moment_s <= 60}
        crawl.open = {lease: owner for lease, owner in crawl.open.items() if owner[1] in seen_s}
        if action == "ask":
            seen_s[client] = crawl.now_s
            if isinstance(crawl.ask(host, client), Granted):
                assert crawl.now_s >= until_s[host]
        elif action == "renew" and client in seen_s:
            seen_s[client] = crawl.now_s
            crawl.gate.renew(client, now_s=crawl.now_s)
        elif action == "release" and crawl.open:
            lease_id, (asked, owner) = next(iter(crawl.open.items()))
            seen_s[owner] = crawl.now_s
            if pause := crawl.release(lease_id, Said(kind, asked_s)):
                assert pause.host == asked
                assert pause.until_s > max(crawl.now_s, until_s[asked])
                until_s[asked] = pause.until_s
        elif action == "pause":
            learned = HostPause(
                host=host, until_s=crawl.now_s + (asked_s or -50), code="bot_check", reason=""
            )
            crawl.gate.pause(learned)
            until_s[host] = max(until_s[host], learned.until_s)
        assert max(Counter(host for host, _ in crawl.open.values()).values(), default=0) <= limit.connections
        in_force = {pause.host: pause.until_s for pause in crawl.gate.pauses(now_s=crawl.now_s)}
        assert in_force == {name: moment_s for name, moment_s in until_s.items() if moment_s > crawl.now_s}
    for moments_s in crawl.granted_s.values():
        require_rate(moments_s, limit)


def require_rate(moments_s: list[float], limit: HostLimit) -> None:
    """In any window at most the capacity and the window's share; from the start, the share alone."""
    rate = limit.requests_per_s * (1 + 1e-6)
    for first, begin_s in enumerate(moments_s):
        assert first + 1 <= (begin_s - START_S) * rate + 1e-3
        for last in range(first, len(moments_s)):
            assert last - first + 1 <= capacity(limit) + (moments_s[last] - begin_s) * rate + 1e-3


@settings(deadline=None)
@given(LIMITS, st.lists(st.sampled_from([0.0, 0.01, 0.2, 2.0, 30.0]), max_size=60))
def test_gate_restarted_at_any_moment_grants_nothing_saved_up(limit: HostLimit, passed_s: list) -> None:
    crawl = Crawl(limit)
    for step_s in passed_s:
        crawl.gate = HostGate()
        crawl.gate.pause(HostPause(host="h", until_s=START_S - 9, code="rate_limited", reason=""))
        crawl.now_s += step_s
        assert isinstance(crawl.ask(), Wait)


STEPS_OF_TWO = st.lists(
    st.tuples(st.booleans(), st.booleans(), st.sampled_from([0.0, 0.1, 0.5, 1.1])), max_size=50
)


@settings(deadline=None)
@given(LIMITS, STEPS_OF_TWO)
def test_gate_two_names_do_not_disturb_each_other(limit: HostLimit, steps: list) -> None:
    def answers(hosts: set[str]) -> list:
        crawl, said = Crawl(limit), []
        for is_x, is_ask, passed_s in steps:
            host = "x" if is_x else "y"
            crawl.now_s += passed_s
            leases = [lease for lease, (owner, _) in crawl.open.items() if owner == host]
            if host not in hosts or not (is_ask or leases):
                continue
            answer = crawl.ask(host, host) if is_ask else crawl.release(leases[0], RATE_LIMITED)
            if host == "x":
                said.append(type(answer) if isinstance(answer, Granted) else answer)
        return said

    assert answers({"x"}) == answers({"x", "y"})


def test_acquire_default_limit_spaces_requests_evenly() -> None:
    crawl = Crawl(HostLimit(requests_per_s=2.0, connections=1))
    for _ in range(5):
        crawl.release(crawl.lease())
    assert crawl.granted_s["h"] == pytest.approx([START_S + 0.5 * k for k in range(1, 6)], abs=1e-3)


def test_acquire_after_quiet_grants_a_quarter_second_at_once() -> None:
    crawl = Crawl(HostLimit(requests_per_s=20.0, connections=100))
    crawl.ask()
    crawl.now_s += 30
    assert [type(crawl.ask()) for _ in range(6)] == [Granted] * 5 + [Wait]


def test_acquire_narrower_limit_of_a_crawl_delay_holds_for_who_comes_next() -> None:
    crawl = Crawl(HostLimit(requests_per_s=0.1, connections=4))
    crawl.release(crawl.lease())
    crawl.limit = HostLimit(requests_per_s=2.0, connections=4)
    answer = crawl.ask()
    assert isinstance(answer, Wait)
    assert answer.wait_s == pytest.approx(10.0)


# --- Waiting ---


class Served(NamedTuple):
    grants: list[int]
    """By client."""
    num_asks: int
    most_waits: int
    """The most times that one client was told to wait before it was served."""


def obedient(
    limit: HostLimit, *, num_clients: int, hold_s: float, until_s: float, late_s: float = 0.0
) -> Served:
    """Clients that always want the host, and come back when they are told to or a little later."""
    gate, grants, num_asks = HostGate(), Counter[int](), 0
    waits, most_waits = Counter[int](), 0
    events: list[tuple[float, int, int]] = [(START_S, client, 0) for client in range(num_clients)]
    while events[0][0] < START_S + until_s:
        now_s, client, lease_id = heapq.heappop(events)
        if lease_id:
            gate.release(lease_id, OK, now_s=now_s)
        num_asks += 1
        answer = gate.acquire("h", limit, client_id=f"c{client}", now_s=now_s)
        if isinstance(answer, Granted):
            grants[client] += 1
            waits[client] = 0
            heapq.heappush(events, (now_s + hold_s, client, answer.lease_id))
        elif isinstance(answer, Wait):
            waits[client] += 1
            most_waits = max(most_waits, waits[client])
            heapq.heappush(events, (now_s + answer.wait_s + late_s, client, 0))
    return Served([grants[client] for client in range(num_clients)], num_asks, most_waits)


@pytest.mark.parametrize("requests_per_s", [0.2, 2.0, 9.0, 60.0])
@pytest.mark.parametrize("num_clients", [1, 2, 12])
def test_acquire_rate_is_short_serves_clients_in_turn_and_wastes_nothing(
    requests_per_s: float, num_clients: int
) -> None:
    limit = HostLimit(requests_per_s=requests_per_s, connections=100)
    served = obedient(limit, num_clients=num_clients, hold_s=0.0, until_s=200 / requests_per_s)
    assert max(served.grants) - min(served.grants) <= 1
    assert 200 >= sum(served.grants) >= 0.98 * 200 - 1
    assert served.num_asks <= 3 * sum(served.grants) + num_clients


@pytest.mark.parametrize("requests_per_s", [0.2, 2.0, 9.0, 60.0])
@pytest.mark.parametrize("late_s", [0.0, 0.01, 0.3, 0.9])
def test_acquire_rate_is_short_serves_even_late_clients_when_they_come(
    requests_per_s: float, late_s: float
) -> None:
    limit = HostLimit(requests_per_s=requests_per_s, connections=100)
    until_s = 200 / requests_per_s
    served = obedient(limit, num_clients=9, hold_s=0.0, until_s=until_s, late_s=late_s)
    assert served.most_waits <= 2


@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.parametrize("num_clients", [1, 4, 12])
@pytest.mark.parametrize("hold_s", [0.1, 1.0, 60.0])
def test_acquire_connections_are_short_serves_clients_in_turn(
    connections: int, num_clients: int, hold_s: float
) -> None:
    limit = HostLimit(requests_per_s=1000.0, connections=connections)
    served = obedient(limit, num_clients=num_clients, hold_s=hold_s, until_s=40 * hold_s)
    assert (
        max(served.grants) - min(served.grants) <= 4
    )  # Two connections that end together may go to one client.
    assert sum(served.grants) >= 0.75 * 40 * min(connections, num_clients)
    assert served.most_waits <= 1000  # Of 660 s.


def test_acquire_greedy_client_gets_no_more_than_the_others() -> None:
    crawl = Crawl(HostLimit(requests_per_s=2.0, connections=100))
    due_s = dict.fromkeys(("polite1", "polite2"), START_S)
    grants = Counter[str]()
    for _ in range(12_000):  # A minute; "greedy" asks all the time.
        crawl.now_s += 0.005
        for client in ("greedy", *due_s):
            if due_s.get(client, 0.0) > crawl.now_s:
                continue
            answer = crawl.ask("h", client)
            if isinstance(answer, Granted):
                grants[client] += 1
                crawl.release(answer.lease_id)
            elif client in due_s:
                due_s[client] = crawl.now_s + answer.wait_s
    assert sum(grants.values()) >= 115
    assert max(grants.values()) - min(grants.values()) <= 1


@settings(deadline=None)
@given(LIMITS, st.integers(min_value=0, max_value=5), st.sampled_from([0.01, 0.2, 5.0, 500.0]))
def test_acquire_wait_is_neither_a_busy_loop_nor_longer_than_needed(
    limit: HostLimit, num_ahead: int, open_for_s: float
) -> None:
    crawl = Crawl(limit)
    leases = [crawl.lease() for _ in range(limit.connections)]
    crawl.now_s = max(crawl.granted_s["h"]) + open_for_s
    crawl.gate.renew("c", now_s=crawl.now_s)
    waits = [crawl.ask("h", f"w{k}") for k in range(num_ahead + 1)]
    for place, wait in enumerate(waits):
        assert isinstance(wait, Wait)
        poll_s = (place + 1) * max(0.02, 0.1 * (crawl.now_s - crawl.granted_s["h"][0]))
        spaced_s = (place + 1) / limit.requests_per_s
        assert 0.005 <= wait.wait_s <= max(min(poll_s, 1.0), spaced_s) + 0.005
    crawl.release(leases[0])
    crawl.now_s += waits[0].wait_s
    assert isinstance(crawl.ask("h", "w0"), Granted | Wait)
    crawl.now_s += 1 / limit.requests_per_s + 0.005
    assert "w0" in {client for _, client in crawl.open.values()} or isinstance(crawl.ask("h", "w0"), Granted)


def test_acquire_client_that_left_the_line_holds_up_others_for_a_second_only() -> None:
    crawl = Crawl(HostLimit(requests_per_s=2.0, connections=1))
    assert crawl.ask("h", "gone") == Wait(pytest.approx(0.5))
    crawl.now_s += 0.6
    assert crawl.ask("h", "here") == Wait(pytest.approx(0.5))  # After its turn
    crawl.now_s += 1.0
    assert isinstance(crawl.ask("h", "here"), Granted)


def test_acquire_late_client_keeps_its_place() -> None:
    crawl = Crawl(HostLimit(requests_per_s=2.0, connections=1))
    crawl.ask("h", "late")
    crawl.ask("h", "other")
    crawl.now_s += 3.0
    assert isinstance(crawl.ask("h", "late"), Granted)


# --- Leases ---


def test_acquire_dead_clients_leases_come_back() -> None:
    crawl = Crawl(HostLimit(requests_per_s=1000.0, connections=1))
    crawl.lease("h", "dead")
    crawl.now_s += 60.0
    assert isinstance(crawl.ask("h", "alive"), Wait)
    crawl.now_s += 0.1
    assert isinstance(crawl.ask("h", "alive"), Granted)


def test_acquire_slow_client_that_renews_keeps_its_leases() -> None:
    crawl = Crawl(HostLimit(requests_per_s=1000.0, connections=1))
    lease_id = crawl.lease("h", "slow")
    for _ in range(100):
        crawl.now_s += 59.0
        crawl.gate.renew("slow", now_s=crawl.now_s)
        assert isinstance(crawl.ask("h", "other"), Wait)
    crawl.release(lease_id)
    crawl.now_s += 0.1
    assert isinstance(crawl.ask("h", "other"), Granted)


def test_release_of_a_lease_that_was_taken_back_changes_nothing() -> None:
    crawl = Crawl(HostLimit(requests_per_s=1000.0, connections=1))
    lost = crawl.lease("h", "dead")
    crawl.now_s += 61.0
    crawl.lease("h", "alive")
    assert crawl.release(lost, BOT_CHECK) is None
    crawl.now_s += 1.0
    assert isinstance(crawl.ask("h", "third"), Wait)


def test_release_of_a_lease_of_the_gate_before_the_restart_changes_nothing() -> None:
    crawl = Crawl(HostLimit(requests_per_s=1000.0, connections=1))
    before = [crawl.lease(f"h{k}") for k in range(50)]
    crawl.gate = HostGate()
    crawl.now_s += 0.1
    crawl.lease()
    assert [crawl.release(lease_id, RATE_LIMITED) for lease_id in before] == [None] * 50
    crawl.now_s += 0.1
    assert isinstance(crawl.ask("h", "other"), Wait)
