import pickle
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest

from crawl import turns as turns_module
from crawl.policy import FetchConfig, HostLimit
from crawl.politeness import FetchRobots, Granted, HostPause, LocalDesk, Said, Wait
from crawl.robots import Robots, is_unreachable
from crawl.turns import Turns
from infra.errors import BlockedByPolicy, Deferred, FetchTimeout, NetworkFailure, RateLimited

START_S = 1.75e9
QUICK = HostLimit(requests_per_s=1e6, connections=4)
RATE_LIMITED = Said("rate_limited", message="429 Too Many Requests")
ORIGIN = "https://h.example.com"
Sent = TypeVar("Sent")


def sent(value: Sent) -> Sent:
    return pickle.loads(pickle.dumps(value))


class RemoteDesk(LocalDesk):
    """A desk whose arguments and results cross a process border; it counts the calls."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self.calls = Counter[str]()
        self.renewed = threading.Event()
        self.renewal = threading.current_thread()

    def acquire(self, host: str, limit: HostLimit, *, client_id: str) -> Granted | Wait | HostPause:
        self.calls["acquire"] += 1
        return sent(super().acquire(sent(host), sent(limit), client_id=sent(client_id)))

    def release(self, lease_id: int, said: Said) -> HostPause | None:
        self.calls["release"] += 1
        return sent(super().release(sent(lease_id), sent(said)))

    def renew(self, client_id: str) -> None:
        super().renew(sent(client_id))
        self.renewal = threading.current_thread()
        self.renewed.set()

    def robots(self, origin: str, *, client_id: str) -> str | FetchRobots | Wait:
        self.calls["robots"] += 1
        return sent(super().robots(sent(origin), client_id=sent(client_id)))


class Worker:
    """`Turns` of one worker whose sleep moves its own clock."""

    def __init__(self, limit: HostLimit = QUICK) -> None:
        self.now_s = START_S
        self.slept_s: list[float] = []
        self.heard: list[HostPause] = []
        self.desk = RemoteDesk(lambda: self.now_s)
        self.turns = Turns(
            self.desk,
            FetchConfig(hosts={"example.com": limit}),
            sleep=self.sleep,
            rng=random.Random(1),
            clock=lambda: self.now_s,
            on_pause=self.heard.append,
        )

    def sleep(self, passed_s: float) -> None:
        self.slept_s.append(passed_s)
        self.now_s += passed_s

    def ask(self, *said: Said, url: str = f"{ORIGIN}/a", delay_s: float = 0.0) -> HostPause | None:
        with self.turns.at(url, delay_s=delay_s) as turn:
            for one in said:
                turn.said(one)
        return turn.pause


class Occupancy:
    """How many threads are at a place, and the most that ever were."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = Counter[str]()
        self.peak = Counter[str]()

    def enter(self, place: str) -> None:
        with self._lock:
            self._now[place] += 1
            self.peak[place] = max(self.peak[place], self._now[place])

    def leave(self, place: str) -> None:
        with self._lock:
            self._now[place] -= 1


# --- Threads, against the real clock ---


def test_at_many_threads_and_workers_fill_exactly_the_connections() -> None:
    desk = RemoteDesk(time.time)
    config = FetchConfig(hosts={"a": QUICK, "b": QUICK, "c": QUICK})
    workers = [Turns(desk, config, sleep=time.sleep, rng=random.Random(k)) for k in range(2)]
    occupancy = Occupancy()
    full = {host: threading.Barrier(QUICK.connections, timeout=30) for host in "abc"}

    def fetch(number: int) -> None:
        host = "abc"[number % 3]
        with workers[number % 2].at(f"http://{host}/{number}"):
            occupancy.enter(host)
            full[host].wait()  # Passed only when all connections of the host are in use at once.
            occupancy.leave(host)

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(fetch, range(3 * 12)))
    assert occupancy.peak == dict.fromkeys("abc", QUICK.connections)
    assert desk.calls["release"] == 36


def test_at_many_threads_failing_bodies_leave_no_lease_behind() -> None:
    desk = LocalDesk(time.time)
    config = FetchConfig(hosts={"a": HostLimit(requests_per_s=1e6, connections=1)})
    turns = Turns(desk, config, sleep=time.sleep, rng=random.Random(1))
    occupancy = Occupancy()

    def fetch(number: int) -> None:
        with turns.at(f"http://a/{number}"):
            occupancy.enter("a")
            occupancy.leave("a")
            if number % 2:
                raise NetworkFailure("reset")

    with ThreadPoolExecutor(32) as pool:
        futures = [pool.submit(fetch, number) for number in range(200)]
    assert [type(future.exception()) for future in futures] == [type(None), NetworkFailure] * 100
    assert occupancy.peak["a"] == 1


def test_at_long_request_is_renewed_and_the_thread_ends_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns_module, "_RENEW_S", 0.01)
    desk = RemoteDesk(time.time)
    turns = Turns(desk, FetchConfig(hosts={"a": QUICK}), sleep=time.sleep, rng=random.Random(1))
    with turns.at("http://a/"):
        assert desk.renewed.wait(30)
    desk.renewal.join(30)
    assert not desk.renewal.is_alive()
    desk.renewed.clear()
    with turns.at("http://a/"):
        assert desk.renewed.wait(30)


class LostOnceDesk(RemoteDesk):
    """Its process does not answer the first time that a lease is renewed."""

    def renew(self, client_id: str) -> None:
        if not self.calls["renew"]:
            self.calls["renew"] += 1
            self.renewal = threading.current_thread()
            self.renewed.set()
            raise ConnectionError
        super().renew(client_id)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_at_lost_renewal_begins_again_with_the_next_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns_module, "_RENEW_S", 0.01)
    desk = LostOnceDesk(time.time)
    turns = Turns(desk, FetchConfig(hosts={"a": QUICK}), sleep=time.sleep, rng=random.Random(1))
    with turns.at("http://a/"):
        assert desk.renewed.wait(30)
        desk.renewal.join(30)
        desk.renewed.clear()
        with turns.at("http://a/"):
            assert desk.renewed.wait(30)


def test_robots_many_threads_fetch_it_once() -> None:
    desk = RemoteDesk(time.time)
    workers = [Turns(desk, FetchConfig(), sleep=time.sleep, rng=random.Random(k)) for k in range(2)]
    together = threading.Barrier(16, timeout=30)
    fetched: list[int] = []

    def ask(number: int) -> str:
        def fetch() -> Robots:
            fetched.append(number)
            return Robots("User-agent: *")

        together.wait()
        return workers[number % 2].robots(ORIGIN, fetch)

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(16))) == ["User-agent: *"] * 16
    assert len(fetched) == 1


# --- One thread, against a clock that only sleeping moves ---


def test_at_usual_request_takes_two_calls() -> None:
    worker = Worker()
    worker.ask()  # The first request to a host waits one spacing.
    worker.desk.calls.clear()
    worker.now_s += 1.0
    worker.ask()
    assert worker.desk.calls == {"acquire": 1, "release": 1}


def test_at_waits_exactly_as_long_as_told() -> None:
    worker = Worker(HostLimit(requests_per_s=2.0, connections=4))
    for _ in range(3):
        worker.ask()
    assert worker.slept_s == pytest.approx([0.5, 0.5, 0.5], abs=1e-6)


def test_at_crawl_delay_narrows_the_limit() -> None:
    worker = Worker(HostLimit(requests_per_s=2.0, connections=4))
    for delay_s in (10.0, 10.0, 0.1):
        worker.ask(delay_s=delay_s)
    assert worker.slept_s == pytest.approx([10.0, 10.0, 10.0], abs=1e-6)


def test_at_subdomains_share_a_limit_and_proxies_have_their_own() -> None:
    worker = Worker(HostLimit(requests_per_s=2.0, connections=1))
    with worker.turns.at("https://a.example.com/x"), worker.turns.wait_for("proxy:h:80", QUICK):
        pass
    worker.ask(url="https://B.Example.com:8080/y")
    assert worker.slept_s == pytest.approx([0.5, 0.005, 0.495], abs=1e-6)


def test_at_rate_limited_answer_begins_a_pause_and_the_next_turn_is_deferred() -> None:
    worker = Worker()
    pause = worker.ask(RATE_LIMITED)
    assert pause is not None
    assert (pause.host, pause.code, pause.reason) == ("example.com", "rate_limited", "429 Too Many Requests")
    assert worker.heard == [pause]
    with pytest.raises(Deferred) as caught:
        worker.ask()
    assert caught.value.until_s == pause.until_s
    assert str(caught.value) == (
        "example.com is left alone until 2025-06-15T15:06:50+00:00 (rate_limited): 429 Too Many Requests"
    )


def test_at_short_pause_is_slept_through() -> None:
    worker = Worker()
    pause = worker.ask(Said("rate_limited", 2.0))
    assert pause is not None
    assert worker.ask() is None
    assert worker.now_s == pytest.approx(pause.until_s, abs=1e-5)


def test_at_limit_of_more_than_a_minute_is_deferred() -> None:
    worker = Worker(HostLimit(requests_per_s=1 / 3600))
    with pytest.raises(
        Deferred, match=r"^example.com may be asked again at 2025-06-15T16:06:40\+00:00, "
    ) as caught:
        worker.ask()
    assert caught.value.until_s == pytest.approx(START_S + 3600)
    assert worker.slept_s == []


@pytest.mark.parametrize(
    ("said", "doubled"), [([Said("failed")], True), ([Said("ok")], False), ([], False)], ids=str
)
def test_at_success_ends_the_doubling(said: list[Said], doubled: bool) -> None:
    worker = Worker()
    worker.ask(RATE_LIMITED)
    worker.now_s += 100.0
    assert worker.ask(*said) is None
    worker.now_s += 100.0
    pause = worker.ask(RATE_LIMITED)
    assert pause is not None
    assert (pause.until_s - worker.now_s > 15) == doubled


def test_at_exception_without_a_report_is_no_success() -> None:
    worker = Worker()
    worker.ask(RATE_LIMITED)
    worker.now_s += 100.0
    with pytest.raises(NetworkFailure), worker.turns.at(ORIGIN):
        raise NetworkFailure("reset")
    pause = worker.ask(RATE_LIMITED)
    assert pause is not None
    assert pause.until_s - worker.now_s > 15


def test_at_exception_after_a_report_keeps_the_report() -> None:
    worker = Worker()
    with pytest.raises(RateLimited), worker.turns.at(ORIGIN) as turn:
        turn.said(RATE_LIMITED)
        raise RateLimited("429")
    assert turn.pause is not None


@pytest.mark.parametrize("url", ["file:///a", "http:///a", "a", "", "http://[::1/"])
def test_at_address_without_a_host_raises_blocked_by_policy(url: str) -> None:
    with pytest.raises(BlockedByPolicy):
        Worker().ask(url=url)


def test_turns_of_different_seeds_are_different_clients() -> None:
    worker = Worker(HostLimit(requests_per_s=1.0, connections=1))
    other = Turns(worker.desk, FetchConfig(), sleep=worker.sleep, rng=random.Random(2))
    other.robots(ORIGIN, lambda: Robots(worker.desk.robots(ORIGIN, client_id="third").__class__.__name__))
    assert worker.turns.robots(ORIGIN, lambda: Robots("")) == "Wait"


# --- robots.txt ---


def test_robots_is_kept_by_the_worker_for_a_while() -> None:
    worker = Worker()
    texts = [worker.turns.robots(ORIGIN, lambda: Robots("x", max_age_s=900.0)) for _ in range(5)]
    assert (texts, worker.desk.calls["robots"]) == (["x"] * 5, 1)
    worker.now_s += 601.0
    assert worker.turns.robots(ORIGIN, lambda: Robots("y")) == "x"
    worker.now_s += 601.0
    assert worker.turns.robots(ORIGIN, lambda: Robots("y")) == "y"


def test_robots_many_origins_are_all_right() -> None:
    worker = Worker()
    for _ in range(2):
        for k in range(600):
            assert worker.turns.robots(f"http://h{k}", lambda k=k: Robots(f"of {k}")) == f"of {k}"
    assert worker.desk.calls["robots"] == 1200


@pytest.mark.parametrize("error", [NetworkFailure("refused\nby peer"), FetchTimeout("30 s")], ids=str)
def test_robots_unreachable_host_is_not_asked_again_for_a_while(error: Exception) -> None:
    worker = Worker()

    def fail() -> Robots:
        raise error

    with pytest.raises(type(error)):
        worker.turns.robots(ORIGIN, fail)
    text = worker.turns.robots(ORIGIN, lambda: Robots("x"))
    assert is_unreachable(text)
    assert " ".join(str(error).split()) in text
    worker.now_s += 301.0
    assert worker.turns.robots(ORIGIN, lambda: Robots("x")) == "x"


@pytest.mark.parametrize(
    "error", [Deferred("paused", 1.0), BlockedByPolicy("private"), KeyError("bug")], ids=str
)
def test_robots_not_fetched_for_another_reason_is_asked_for_again(error: Exception) -> None:
    worker = Worker()

    def fail() -> Robots:
        raise error

    with pytest.raises(type(error)):
        worker.turns.robots(ORIGIN, fail)
    assert worker.turns.robots(ORIGIN, lambda: Robots("x")) == "x"
