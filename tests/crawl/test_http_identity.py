"""Cookies, passwords, certificates and proxies as the servers see them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crawl.http import Http
from infra.errors import Deferred
from tests.crawl.web import Site
from tests.crawl.web_answers import made_bytes
from tests.crawl.web_client import failure, http_client, names_answer
from tests.crawl.web_tls import tls_context

_BODY = made_bytes("a", 10)


@pytest.fixture
def tls_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A site with https, whose certificate is trusted."""
    (tmp_path / "tls").mkdir()
    site = Site(tmp_path, tls=tls_context(tmp_path / "tls"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "tls" / "cert.pem"))
    site.start()
    yield site
    site.stop()


def _file(folder: Path, text: str) -> Path:
    path = folder / "secrets.txt"
    path.write_text(text)
    path.chmod(0o600)
    return path


def _read(http: Http, url: str, **options: Any) -> bytes:
    return http.read(url, max_bytes=10, **options).body


# ---- cookies and passwords ----


def test_read_cookie_opens_the_files_it_is_for_and_no_others(own_site: Site, tmp_path: Path) -> None:
    line = "127.0.0.1\tFALSE\t/\tFALSE\t0\tsession\tsecret-value\n"
    path = _file(tmp_path, f"# Netscape HTTP Cookie File\n{line}")
    with http_client() as http, failure("private", "403 Forbidden"):
        _read(http, own_site.url("/~cookie=session:secret-value/bytes/10/a"))
    with http_client(cookies_path=path) as http:
        assert _read(http, own_site.url("/~cookie=session:secret-value/bytes/10/a")) == _BODY
        other = own_site.url("/bytes/10/a").replace("127.0.0.1", "localhost")
        assert _read(http, other) == _BODY
    assert [request.cookies for request in own_site.asked("/bytes/10/a")] == [""]


def test_read_password_of_a_host_is_sent_to_it(own_site: Site, tmp_path: Path) -> None:
    path = _file(tmp_path, "machine 127.0.0.1 login user password secret\n")
    with http_client() as http, failure("private", "401 Unauthorized"):
        _read(http, own_site.url("/~auth=user:secret/bytes/10/a"))
    with http_client(netrc_path=path) as http:
        assert _read(http, own_site.url("/~auth=user:secret/bytes/10/a")) == _BODY
        _read(http, own_site.url("/bytes/10/a").replace("127.0.0.1", "localhost"))
    assert "authorization" not in own_site.asked("/bytes/10/a")[0].headers


def test_read_secret_that_the_server_repeats_is_not_in_the_message(own_site: Site, tmp_path: Path) -> None:
    line = "127.0.0.1\tFALSE\t/\tFALSE\t0\tsession\tsecret-value\n"
    path = _file(tmp_path, f"# Netscape HTTP Cookie File\n{line}")
    with http_client(cookies_path=path) as http, failure("blocked_by_policy", "***") as raised:
        _read(http, own_site.url("/to?url=ftp://h/secret-value"))
    assert "secret-value" not in str(raised.value)


# ---- certificates ----


def test_read_https_is_verified_and_kept_alive(tls_site: Site) -> None:
    with http_client() as http:
        for _ in range(3):
            assert _read(http, tls_site.url("/bytes/10/a")) == _BODY
        assert _read(http, tls_site.url("/bytes/10/a").replace("127.0.0.1", "localhost")) == _BODY
    assert tls_site.num_connections == 2


def test_read_https_certificate_of_another_name_is_refused(tls_site: Site) -> None:
    url = tls_site.url("/bytes/10/a").replace("127.0.0.1", "127.0.0.1.nip.example")
    with http_client() as http, pytest.MonkeyPatch.context() as patch:
        names_answer(patch, {"127.0.0.1.nip.example": ["127.0.0.1"]})
        with failure("network", "Hostname mismatch", "nip.example"):
            _read(http, url)
    assert tls_site.num_requests.total() == 0


def test_read_https_certificate_that_nobody_trusts_is_refused(
    tls_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with http_client() as http, failure("network", "certificate verify failed", tls_site.url("/bytes/10/a")):
        _read(http, tls_site.url("/bytes/10/a"))
    assert tls_site.num_requests.total() == 0


def test_download_https_body_that_breaks_is_resumed(tls_site: Site, tmp_path: Path) -> None:
    path = "/~cut=70000,first=1/bytes/200000/tls.mp4"
    with http_client() as http:
        http.download(tls_site.url(path), tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == made_bytes("tls.mp4", 200_000)
    assert [request.range for request in tls_site.asked(path)] == ["", "bytes=70000-"]


# ---- proxies ----


@pytest.fixture
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("proxy"))
    site.proxy_login = "user:p@ss"
    site.start()
    yield site
    site.stop()


def _proxies(folder: Path, *sites: Site, login: str = "user:p%40ss@") -> Path:
    return _file(folder, "".join(f"http://{login}127.0.0.1:{site.port}\n" for site in sites))


def test_read_http_goes_through_the_proxy(own_site: Site, proxy: Site, tmp_path: Path) -> None:
    with http_client(proxies_path=_proxies(tmp_path, proxy)) as http:
        for _ in range(2):
            assert _read(http, own_site.url("/bytes/10/a")) == _BODY
    assert [request.method for request in proxy.asked("/bytes/10/a")] == ["PROXY", "PROXY"]
    assert (own_site.num_requests.total(), proxy.num_connections) == (0, 1)
    assert proxy.asked("/bytes/10/a")[0].headers["host"] == f"127.0.0.1:{own_site.port}"


def test_read_https_goes_through_a_tunnel_of_the_proxy(tls_site: Site, proxy: Site, tmp_path: Path) -> None:
    with http_client(proxies_path=_proxies(tmp_path, proxy)) as http:
        for _ in range(2):
            assert _read(http, tls_site.url("/bytes/10/a")) == _BODY
    assert proxy.num_requests == {f"/connect/127.0.0.1:{tls_site.port}": 1}
    (first, _) = tls_site.asked("/bytes/10/a")
    assert "proxy-authorization" not in first.headers


def test_read_through_a_proxy_with_tls(tls_site: Site, own_site: Site, tmp_path: Path) -> None:
    """`tls_site` is the proxy: for http it is asked within TLS, for https there is TLS within TLS."""
    path = _file(tmp_path, f"https://127.0.0.1:{tls_site.port}\n")
    with http_client(proxies_path=path) as http:
        assert _read(http, own_site.url("/bytes/10/a")) == _BODY
        assert (own_site.num_requests.total(), tls_site.num_requests["/bytes/10/a"]) == (0, 1)
        assert _read(http, tls_site.url("/bytes/10/a")) == _BODY
    assert tls_site.num_requests[f"/connect/127.0.0.1:{tls_site.port}"] == 1


def test_read_private_host_is_not_asked_for_through_a_proxy(
    own_site: Site, proxy: Site, tmp_path: Path
) -> None:
    settings = {"proxies_path": _proxies(tmp_path, proxy), "allow_private": False}
    with http_client(**settings) as http, failure("blocked_by_policy", "public addresses only"):
        _read(http, own_site.url("/bytes/10/a"))
    assert proxy.num_connections == 0


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_read_proxy_that_fails_thrice_rests_and_its_password_is_not_shown(
    scheme: str, tls_site: Site, own_site: Site, proxy: Site, tmp_path: Path
) -> None:
    url = (tls_site if scheme == "https" else own_site).url("/bytes/10/a")
    path = _proxies(tmp_path, proxy, login="user:wrong-secret@")
    with http_client(proxies_path=path) as http:
        for _ in range(3):
            with failure("network", "407") as raised:
                _read(http, url, check_robots=False)
            assert "wrong-secret" not in str(raised.value)
        with pytest.raises(Deferred, match="all 1 rest"):
            _read(http, url, check_robots=False)
    assert proxy.num_requests.total() == 3


def test_read_proxy_is_not_blamed_for_a_host_that_is_not_there(proxy: Site, tmp_path: Path) -> None:
    with http_client(proxies_path=_proxies(tmp_path, proxy)) as http:
        for _ in range(4):
            with failure("network", "502 Bad Gateway"):
                _read(http, "https://127.0.0.1:1/a", check_robots=False)
    assert proxy.num_requests == {"/connect/127.0.0.1:1": 4}


def test_read_proxy_that_is_not_there_is_blamed(own_site: Site, tmp_path: Path) -> None:
    path = _file(tmp_path, "http://127.0.0.1:1\n")
    with http_client(proxies_path=path) as http:
        for _ in range(3):
            with failure("network", "proxy 127.0.0.1:1 does not connect us", "Connection refused"):
                _read(http, own_site.url("/bytes/10/a"), check_robots=False)
        with pytest.raises(Deferred):
            _read(http, own_site.url("/bytes/10/a"), check_robots=False)
    assert own_site.num_connections == 0


def test_read_requests_take_turns_among_the_proxies(
    own_site: Site, proxy: Site, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    second = Site(tmp_path_factory.mktemp("second"))
    second.start()
    with http_client(proxies_path=_proxies(tmp_path, proxy, second)) as http:
        for number in range(6):
            _read(http, own_site.url(f"/bytes/10/{number}"), check_robots=False)
    second.stop()
    assert (proxy.num_requests.total(), second.num_requests.total()) == (3, 3)
