import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.crawl.web import Site
from tests.crawl.web_answers import made_bytes
from tests.crawl.web_client import failure, http_client, names_answer

_PUBLIC = "93.184.216.34"


# ---- redirects ----


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_read_redirect_of_any_kind_is_followed(code: int, site: Site) -> None:
    with http_client() as http:
        page = http.read(site.url(f"/~code={code}/redirect/0/bytes/10/end"), max_bytes=10)
    assert (page.url, page.body) == (site.url("/bytes/10/end"), made_bytes("end", 10))


def test_read_five_redirects_are_followed_and_not_six(site: Site) -> None:
    with http_client() as http:
        assert http.read(site.url("/redirect/4/bytes/10/five"), max_bytes=10).url.endswith("/bytes/10/five")
        with failure("blocked_by_policy", "redirects must end within 5", "/redirect/5/bytes/10/six -> "):
            http.read(site.url("/redirect/5/bytes/10/six"), max_bytes=10)
    assert [site.num_requests[f"/redirect/{left}/bytes/10/six"] for left in range(6)] == [1] * 6
    assert site.num_requests["/bytes/10/six"] == 0


def test_read_redirect_loop_is_refused_at_once(site: Site) -> None:
    with http_client() as http, failure("blocked_by_policy", "/loop/a -> ", "/loop/b -> "):
        http.read(site.url("/loop/a"), max_bytes=10)
    assert (site.num_requests["/loop/a"], site.num_requests["/loop/b"]) == (1, 1)


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://127.0.0.1/a", "data:text/plain,x", "http://u:secret@127.0.0.1/a"]
)  # fmt: skip
def test_read_redirect_to_anything_but_http_is_blocked(target: str, site: Site) -> None:
    with http_client() as http, failure("blocked_by_policy", "an address must"):
        http.read(site.url(f"/to?url={target}"), max_bytes=10)


def test_read_redirect_with_blanks_and_utf_8_is_followed(site: Site) -> None:
    with http_client() as http:
        page = http.read(site.url("/to?url=/bytes/10/a b"), max_bytes=10)
        assert page.body == made_bytes("a%20b", 10)
        # The site sends Latin-1; a byte is a byte.
        assert http.read(site.url("/to?url=/bytes/10/%C3%BC"), max_bytes=10).url.endswith("/bytes/10/%FC")


def test_read_redirect_to_another_origin_leaves_the_callers_secrets_behind(
    site: Site, own_site: Site
) -> None:
    headers = {"cookie": "a=b", "authorization": "Basic x", "Referer": "http://r/"}
    with http_client() as http:
        http.read(site.url(f"/to?url={own_site.url('/bytes/10/far')}"), max_bytes=10, headers=headers)
        http.read(site.url("/redirect/0/bytes/10/near"), max_bytes=10, headers=headers)
    (far,), (near,) = own_site.asked("/bytes/10/far"), site.asked("/bytes/10/near")
    assert (far.cookies, far.headers.get("authorization"), far.headers["referer"]) == ("", None, "http://r/")
    assert (near.cookies, near.headers["authorization"]) == ("a=b", "Basic x")


# ---- addresses ----


@pytest.fixture
def connects(site: Site, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Connections to `_PUBLIC` end at the site; all that were tried are kept in this list."""
    real, tried = socket.socket.connect, []

    def connect(self: socket.socket, address: tuple[str, int]) -> None:
        tried.append(address)
        real(self, ("127.0.0.1", site.port) if address[0] == _PUBLIC else address)

    monkeypatch.setattr(socket.socket, "connect", connect)
    return tried


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "0177.0.0.1", "[::ffff:127.0.0.1]", "0"]
)
def test_read_private_address_is_blocked_before_a_connection(
    host: str, site: Site, connects: list[tuple[str, int]]
) -> None:
    url = f"http://{host}:{site.port}/bytes/10/private"
    with http_client(allow_private=False) as http, failure("blocked_by_policy", "public addresses only"):
        http.read(url, max_bytes=10)
    assert connects == []


@pytest.mark.parametrize(
    "target", ["http://127.0.0.2/a", "http://169.254.169.254/latest/meta-data/", "http://localhost/a", "http://2852039166/",
               "http://inside.example/a"]
)  # fmt: skip
def test_read_public_host_that_redirects_inside_is_blocked(
    target: str, site: Site, connects: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"outside.example": [_PUBLIC], "inside.example": ["10.0.0.1"], "localhost": ["127.0.0.1"]}
    names_answer(monkeypatch, known)
    url = f"http://outside.example/to?url={target}"
    with http_client(allow_private=False) as http, failure("blocked_by_policy", "public addresses only"):
        http.read(url, max_bytes=10)
    assert set(connects) == {(_PUBLIC, 80)}


def test_read_name_is_looked_up_once_a_connection_and_what_was_checked_is_used(
    site: Site, connects: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = names_answer(monkeypatch, {"rebind.example": [_PUBLIC, "127.0.0.1"]})
    with http_client(allow_private=False, obey_robots=False, requests_per_s=1000) as http:
        for number in range(3):
            http.read(f"http://rebind.example/bytes/10/rebind-{number}", max_bytes=10, check_robots=False)
        assert (asked, connects) == (["rebind.example"], [(_PUBLIC, 80)])
        assert site.asked("/bytes/10/rebind-0")[0].headers["host"] == "rebind.example"
    with (
        http_client(allow_private=False) as http,
        failure("blocked_by_policy", "rebind.example has 127.0.0.1"),
    ):
        http.read("http://rebind.example/bytes/10/rebind-3", max_bytes=10, check_robots=False)
    assert connects == [(_PUBLIC, 80)]


# ---- robots ----


def test_read_what_robots_forbid_is_not_asked_for(own_site: Site) -> None:
    own_site.robots = "User-agent: avgen\nDisallow: /bytes/\n"
    with (
        http_client() as http,
        failure("blocked_by_policy", "robots.txt must allow", own_site.url("/bytes/10/a")),
    ):
        http.read(own_site.url("/bytes/10/a"), max_bytes=10)
    assert own_site.num_requests == {"/robots.txt": 1}


def test_read_robots_are_asked_for_once(own_site: Site) -> None:
    own_site.robots = "User-agent: *\nDisallow: /private/\n"
    with http_client() as http, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: http.read(own_site.url(f"/bytes/10/{n}"), max_bytes=10), range(12)))
    assert own_site.num_requests["/robots.txt"] == 1
    assert own_site.num_requests.total() == 13


def test_read_every_hop_is_checked_against_the_robots_of_its_origin(site: Site, own_site: Site) -> None:
    own_site.robots = "User-agent: *\nDisallow: /\n"
    with http_client() as http, failure("blocked_by_policy", own_site.url("/bytes/10/hop")):
        http.read(site.url(f"/to?url={own_site.url('/bytes/10/hop')}"), max_bytes=10)
    assert own_site.num_requests == {"/robots.txt": 1}


@pytest.mark.parametrize(("status", "code"), [(500, "network"), (503, "network"), (429, "network")])
def test_read_robots_that_cannot_be_read_forbid_for_now(status: int, code: str, own_site: Site) -> None:
    own_site.pages["/robots.txt"] = ("text/plain", b"x")
    own_site.statuses["/robots.txt"] = status
    with http_client() as http, failure(code, "robots.txt", str(status)):
        http.read(own_site.url("/bytes/10/a"), max_bytes=10)
    assert own_site.num_requests == {"/robots.txt": 1}


@pytest.mark.parametrize("status", [401, 403, 404, 410, 451])
def test_read_robots_that_are_not_there_allow_all(status: int, own_site: Site) -> None:
    own_site.statuses["/robots.txt"] = status
    with http_client() as http:
        assert http.read(own_site.url("/bytes/10/a"), max_bytes=10).opt_out == ()


def test_read_opt_outs_are_obeyed_before_the_body_is_read(site: Site, tmp_path: Path) -> None:
    url = site.url("/~stall=0/bytes/10/opt-out?h.X-Robots-Tag=noai")
    with http_client() as http, failure("blocked_by_policy", "it says noai"):
        http.read(url, max_bytes=10)
    with http_client() as http, failure("blocked_by_policy", "it says noai"):
        http.download(url, tmp_path / "part")


def test_read_opt_outs_are_kept_when_we_do_not_obey(own_site: Site, tmp_path: Path) -> None:
    own_site.robots = "User-agent: *\nDisallow: /bytes/\n"
    url = own_site.url("/bytes/10/kept?h.X-Robots-Tag=noai&h.TDM-Reservation=1")
    with http_client(obey_robots=False) as http:
        assert http.read(url, max_bytes=10).opt_out == ("robots.txt", "noai", "tdm-reservation")
        assert http.download(url, tmp_path / "part").opt_out == ("robots.txt", "noai", "tdm-reservation")
