import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from crawl.http import NoRanges
from crawl.politeness import LocalDesk
from infra.errors import Deferred
from tests.crawl.web import Limit, Site
from tests.crawl.web_answers import made_bytes
from tests.crawl.web_client import failure, http_client, names_answer

_PUBLIC = "93.184.216.34"


# ---- what an answer means ----


@pytest.mark.parametrize(
    ("path", "code", "words"),
    [
        ("/status/400", "not_media", ["400 Bad Request"]),
        ("/status/401", "private", ["401 Unauthorized"]),
        ("/status/402", "private", ["402 Payment Required"]),
        ("/status/403", "private", ["403 Forbidden"]),
        ("/status/404", "gone", ["404 Not Found"]),
        ("/status/407", "network", ["407 Proxy Authentication Required"]),
        ("/status/408", "timeout", ["408 Request Timeout"]),
        ("/status/410", "gone", ["410 Gone"]),
        ("/status/413", "too_large", ["413 Request Entity Too Large"]),
        ("/status/416", "network", ["416"]),
        ("/status/429", "rate_limited", ["429 Too Many Requests"]),
        ("/~status=429,after=120/a", "rate_limited", ["429 Too Many Requests, Retry-After: 120"]),
        ("/status/451", "geo_blocked", ["451 Unavailable For Legal Reasons"]),
        ("/status/500", "network", ["500 Internal Server Error"]),
        ("/~status=503,after=3/a", "network", ["503 Service Unavailable, Retry-After: 3"]),
        ("/status/599", "network", ["599 Odd"]),
        ("/status/204", "not_media", ["204 No Content"]),
        ("/status/304", "not_media", ["304 Not Modified"]),
        ("/status/302", "not_media", ["302 Found"]),
        ("/bot-check/words", "bot_check", ["403 Forbidden", "asks for a human"]),
        ("/bot-check/challenge", "bot_check", ["403 Forbidden", "asks for a human"]),
        ("/~reset=0/bytes/1000/a", "network", ["1000 more expected"]),
        ("/~cut=400/bytes/1000/a", "network", ["400 bytes read, 600 more expected"]),
        ("/~gzip/zeros/1000/a", "not_media", ["content-encoding gzip"]),
        ("/bytes/9/a?h.Transfer-Encoding=gzip", "not_media", ["transfer-encoding gzip"]),
        ("/bytes/9/a?h.Content-Length=9,8", "network", ["9,8"]),
        ("/silent.mp4", "timeout", ["must answer within 0.4 s"]),
    ],
)  # fmt: skip
def test_read_failure_has_its_class_the_servers_words_and_the_address(
    path: str, code: str, words: list[str], site: Site
) -> None:
    asked = path.partition("?")[0]
    before = site.num_requests[asked]
    with http_client(stall_timeout_s=0.4) as http, failure(code, *words, f"({site.url(path)})"):
        http.read(site.url(path), max_bytes=10_000)
    assert site.num_requests[asked] - before == 1


def test_read_gives_body_type_and_last_address(site: Site) -> None:
    with http_client() as http:
        page = http.read(site.url("/redirect/1/text.html#part"), max_bytes=10_000)
    assert (page.url, page.content_type, page.opt_out) == (site.url("/text.html"), "text/html", ())
    assert page.body == site.pages["/text.html"][1]


@pytest.mark.parametrize("how", ["", "~chunked/", "~length=no/"])
def test_read_more_than_max_bytes_is_too_large(how: str, site: Site) -> None:
    with http_client() as http:
        assert len(http.read(site.url(f"/{how}bytes/5000/a"), max_bytes=5000).body) == 5000
        with failure("too_large", "at most 4999 bytes"):
            http.read(site.url(f"/{how}bytes/5000/a"), max_bytes=4999)


def test_read_server_that_is_not_there_is_a_network_failure() -> None:
    with http_client() as http, failure("network", "Connection refused", "(http://127.0.0.1:1/a)"):
        http.read("http://127.0.0.1:1/a", max_bytes=10, check_robots=False)


def test_read_name_without_address_is_a_network_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    names_answer(monkeypatch, {})
    with http_client() as http, failure("network", "Name or service not known", "(http://nowhere.example/a)"):
        http.read("http://nowhere.example/a", max_bytes=10, check_robots=False)


@pytest.mark.parametrize(
    "sent", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n"]
)
def test_read_server_that_speaks_no_http_is_a_network_failure(sent: bytes) -> None:
    def answer() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(sent)

    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/a"
        thread = threading.Thread(target=answer)
        thread.start()
        with http_client() as http, failure("network", "the connection must hold", url):
            http.read(url, max_bytes=10, check_robots=False)
        thread.join()


# ---- what the gate hears ----


@pytest.mark.parametrize(
    ("path", "code", "pause_s"),
    [
        ("/~status=429,after=120/a", "rate_limited", 120),
        ("/~status=503,after=90/a", "rate_limited", 90),
        ("/status/429", "rate_limited", 10),
        ("/bot-check/words", "bot_check", 1800),
    ],
)
def test_read_refusal_pauses_the_host_and_the_next_request_is_not_sent(
    path: str, code: str, pause_s: float, site: Site
) -> None:
    desk, before, began_s = LocalDesk(time.time), site.num_requests["/bytes/10/next"], time.time()
    with http_client(desk) as http:
        with pytest.raises(Exception, match=r"the (?:server|host) must"):
            http.read(site.url(path), max_bytes=10_000)
        with pytest.raises(Deferred, match=r"127\.0\.0\.1") as raised:
            http.read(site.url("/bytes/10/next"), max_bytes=10_000)
    (pause,) = desk.pauses()
    assert (pause.host, pause.code) == ("127.0.0.1", code)
    assert pause_s <= pause.until_s - began_s <= 1.5 * pause_s + 30
    assert raised.value.until_s == pause.until_s
    assert site.num_requests["/bytes/10/next"] == before


def test_read_retry_after_as_a_date_is_counted_by_the_servers_clock(site: Site) -> None:
    desk = LocalDesk(time.time)
    dates = (
        "h.Date=Fri,%2031%20Dec%201999%2023:58:00%20GMT&h.Retry-After=Fri,%2031%20Dec%201999%2023:59:40%20GMT"
    )
    with http_client(desk) as http, failure("rate_limited", "Retry-After: Fri, 31 Dec 1999 23:59:40 GMT"):
        http.read(site.url(f"/status/429?{dates}"), max_bytes=10_000)
    (pause,) = desk.pauses()
    assert 95 < pause.until_s - time.time() < 180


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/status/404", "gone"),
        ("/status/403", "private"),
        ("/status/500", "network"),
        ("/html.mp4", "not_media"),
        ("/~cut=1/bytes/9/a", "network"),
    ],
)
def test_download_other_failures_pause_nobody(path: str, code: str, site: Site, tmp_path: Path) -> None:
    desk = LocalDesk(time.time)
    with http_client(desk, num_reconnects=0) as http, failure(code):
        http.download(site.url(path), tmp_path / "part")
    assert desk.pauses() == ()


def test_read_by_many_threads_keeps_the_limit_and_is_not_banned(own_site: Site) -> None:
    own_site.limit = Limit(requests_per_s=40.0, burst=45.0, num_strikes=1)
    own_site.latency_s = 0.02
    limit = {"127.0.0.1": {"requests_per_s": 40.0, "connections": 3}}
    with http_client(hosts=limit) as http, ThreadPoolExecutor(12) as pool:
        urls = [own_site.url(f"/bytes/100/{number}") for number in range(30)]
        bodies = list(pool.map(lambda url: http.read(url, max_bytes=100).body, urls))
    assert bodies == [made_bytes(str(number), 100) for number in range(30)]
    assert (own_site.banned, own_site.num_requests.total()) == (set(), 31)
    assert own_site.peak["/"] <= 3


# ---- connections ----


def test_read_connection_is_kept_whatever_the_answers_are(own_site: Site) -> None:
    with http_client() as http:
        for path in ("/bytes/9000/a", "/~chunked/bytes/9000/a", "/bytes/0/a", "/redirect/1/bytes/10/a"):
            http.read(own_site.url(path), max_bytes=9000)
        for path in ("/status/404", "/status/403", "/status/500"):
            with pytest.raises(Exception, match=path):
                http.read(own_site.url(path), max_bytes=9000)
        http.read_span(own_site.url("/bytes/9000/a"), 5, 9)
    assert own_site.num_connections == 1


def test_read_body_that_was_not_read_costs_its_connection(own_site: Site) -> None:
    with http_client() as http:
        with http.open(own_site.url("/bytes/500000/a")):
            pass
        assert http.read(own_site.url("/bytes/10/b"), max_bytes=10).body == made_bytes("b", 10)
    assert own_site.num_connections == 2


def test_read_connection_that_the_server_closed_while_idle_is_replaced(own_site: Site) -> None:
    with http_client() as http:
        http.read(own_site.url("/bytes/10/a"), max_bytes=10)
        own_site.drop_connections()
        assert http.read(own_site.url("/bytes/10/b"), max_bytes=10).body == made_bytes("b", 10)
    assert (own_site.num_connections, own_site.num_requests["/bytes/10/b"]) == (2, 1)


@pytest.mark.parametrize("how", ["hangup", "farewell"])
def test_read_connection_that_the_server_ends_as_we_ask_is_replaced(how: str, own_site: Site) -> None:
    with http_client() as http:
        for name in ("a", "b"):
            page = http.read(own_site.url(f"/~{how}/bytes/10/{name}"), max_bytes=10, check_robots=False)
            assert page.body == made_bytes(name, 10)
            time.sleep(0.1)  # The farewell comes a moment later.
    assert own_site.num_connections == 2


def test_read_idle_connections_are_few_and_the_oldest_is_given_up(own_site: Site) -> None:
    def read(host: str) -> int:
        http.read(f"http://{host}:{own_site.port}/bytes/10/a", max_bytes=10, check_robots=False)
        return own_site.num_connections

    with http_client(connections=1) as http:
        assert [read(host) for host in ("127.0.0.1", "localhost", "127.1")] == [1, 2, 3]
        assert [read(host) for host in ("127.1", "localhost", "127.0.0.1")] == [3, 3, 4]


def test_read_waiting_for_a_turn_does_not_count_as_time_of_the_fetch(own_site: Site) -> None:
    slow = {"127.0.0.1": {"requests_per_s": 2.5, "connections": 1}}
    with http_client(hosts=slow, timeout_s=0.3) as http:
        assert http.read(own_site.url("/bytes/10/a"), max_bytes=10, check_robots=False).body == made_bytes(
            "a", 10
        )


def test_read_sends_who_we_are_and_wants_no_compression(site: Site) -> None:
    with http_client(operator="tests@h.example") as http:
        http.read(
            site.url("/bytes/10/who"),
            max_bytes=10,
            headers={"accept-language": "de", "accept-encoding": "gzip"},
        )
        http.read(site.url("/bytes/10/who"), max_bytes=10, headers={"user-agent": "other"})
    first, second = (request.headers for request in site.asked("/bytes/10/who"))
    assert first["user-agent"].startswith("avgen/") and first["user-agent"].endswith("(tests@h.example)")
    assert (first["accept-encoding"], first["accept-language"]) == ("identity", "de")
    assert second["user-agent"] == "other"


# ---- parts ----


@pytest.mark.parametrize(("first", "last"), [(0, 0), (0, 99), (5, 50), (99, 99), (90, 500)])
def test_read_span_gives_the_bytes_and_the_length(first: int, last: int, site: Site) -> None:
    with http_client() as http:
        assert http.read_span(site.url("/bytes/100/span"), first, last) == (
            made_bytes("span", 100)[first : last + 1],
            100,
        )


def test_read_span_server_without_ranges_says_so(site: Site) -> None:
    with http_client() as http, pytest.raises(NoRanges, match="must send parts of a file, got status 200"):
        http.read_span(site.url("/~ranges=no/bytes/100/a"), 5, 50)


def test_read_span_beyond_the_end_is_refused(site: Site) -> None:
    with http_client() as http, pytest.raises(NoRanges, match="got status 416"):
        http.read_span(site.url("/bytes/100/a"), 100, 150)


@pytest.mark.parametrize("lie", ["start", "short", "long", "shift", "less", "missing"])
def test_read_span_lie_is_a_network_failure(lie: str, site: Site) -> None:
    with http_client() as http, failure("network", "must be the part asked for"):
        http.read_span(site.url(f"/~lie={lie}/bytes/100/a"), 5, 50)


def test_read_span_file_that_changes_in_between_is_never_mixed(site: Site) -> None:
    path = "/bytes/100/changing"
    with http_client() as http:
        http.read_span(site.url(path), 0, 49)
        site.editions[path] += 1
        with failure("network", "got another"):
            http.read_span(site.url(path), 50, 99)
        assert http.read_span(site.url(path), 50, 99)[0] == made_bytes("changing", 100, 1)[50:]
