import base64
import json
import pickle
import sqlite3
import threading
import time
import traceback
from pathlib import Path

import pytest

from crawl.cookies import parse_netscape
from crawl.identity import Identity
from crawl.policy import FetchConfig
from infra.errors import ConfigError, Deferred

SOON_S = int(time.time()) + 3600


def written(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def with_cookies(tmp_path: Path, *lines: str) -> Identity:
    fields = ("\t".join(line.split(" ")) for line in lines)
    return Identity(FetchConfig(cookies_path=written(tmp_path / "cookies.txt", *fields)), {})


def shown(err: BaseException) -> str:
    return "".join(traceback.format_exception(err))


# Cookies.


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://www.example.com/a/b", "deep=1; all=2; safe=3"),
        ("http://www.example.com/", "all=2"),
        ("https://example.com/abc", "all=2; safe=3; own=4"),
        ("https://EXAMPLE.com:8443/", "all=2; safe=3; own=4"),
        ("https://badexample.com/", ""),
        ("https://example.com.evil.example/", ""),
        ("https://com/", ""),
        ("http://127.0.0.1:8000/", "loop=6"),
    ],
)
def test_cookie_header_by_domain_path_secure_and_expiry(tmp_path: Path, url: str, expected: str) -> None:
    identity = with_cookies(
        tmp_path,
        f".example.com TRUE /a FALSE {SOON_S} deep 1",
        "example.com TRUE / FALSE 0 all 2",
        f"#HttpOnly_.Example.com true / TRUE {SOON_S}.5 safe 3",
        "example.com FALSE / FALSE -1 own 4",
        ".example.com TRUE / FALSE 1000000000 old 5",
        "127.0.0.1 FALSE / FALSE 0 loop 6",
        "# a comment",
        "",
    )
    assert identity.cookie_header(url) == expected


def test_cookie_header_no_cookies_is_empty() -> None:
    assert Identity(FetchConfig(), {}).cookie_header("https://example.com/") == ""


def test_cookie_header_value_is_sent_as_utf_8(tmp_path: Path) -> None:
    header = with_cookies(tmp_path, "example.com FALSE / FALSE 0 a ü").cookie_header("https://example.com/")
    assert header.encode("latin-1").decode() == "a=ü"


def test_parse_netscape_windows_lines_byte_order_mark_and_empty_value(tmp_path: Path) -> None:
    path = tmp_path / "cookies.txt"
    path.write_bytes("\ufeff# Netscape HTTP Cookie File\r\nh.example\tFALSE\t/\tFALSE\t\ta\t\r\n".encode())
    assert Identity(FetchConfig(cookies_path=path), {}).cookie_header("http://h.example/") == "a="


GOOD_COOKIE = "example.com FALSE / FALSE 0 name 1234567"


@pytest.mark.parametrize(
    "line",
    [
        '[{"name": "a", "value": "hunter2"}]',
        "example.com FALSE / FALSE 0 hunter2",
        "example.com FALSE / FALSE 0 a hunter2 b",
        "example.com MAYBE / FALSE 0 a hunter2",
        "example.com FALSE / hunter2 0 a b",
        "example.com FALSE hunter2 FALSE 0 a b",
        "example.com FALSE / FALSE hunter2 a b",
        "example.com FALSE / FALSE ٣ a hunter2",
        ". FALSE / FALSE 0 a hunter2",
        "example.com FALSE / FALSE 0 a hunter2\x0bSet-Cookie:x",
        "example.com FALSE / FALSE 0  ",
    ],
)
def test_identity_wrong_cookie_line_names_file_and_line_only(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigError, match=r"cookies\.txt is not in line 2") as caught:
        with_cookies(tmp_path, GOOD_COOKIE, line)
    assert not any(secret in shown(caught.value) for secret in ("hunter2", "1234567"))


def test_ytdlp_parameters_cookie_text_is_read_by_ytdlp_and_by_us(tmp_path: Path) -> None:
    import io

    from yt_dlp.cookies import YoutubeDLCookieJar

    url = "https://www.example.com/"
    lines = (
        f"example.com TRUE / TRUE {SOON_S} a 1",
        "www.example.com FALSE / FALSE 0 b 2",
        ".x.de TRUE / FALSE 0 c 3",
    )
    identity = with_cookies(tmp_path, *lines)
    text = str(identity.ytdlp_parameters()["cookiefile"])
    jar = YoutubeDLCookieJar(io.StringIO(text))
    jar.load()
    assert sorted(jar.get_cookie_header(url).split("; ")) == ["a=1", "b=2"]
    again = [(cookie.domain, cookie.name, cookie.value) for cookie in parse_netscape(text, tmp_path)]
    assert again == [(".example.com", "a", "1"), ("www.example.com", "b", "2"), (".x.de", "c", "3")]


def firefox_profile(folder: Path) -> Path:
    folder.mkdir()
    with sqlite3.connect(folder / "cookies.sqlite") as database:
        database.execute("CREATE TABLE moz_cookies (host, name, value, path, expiry, isSecure)")
        rows = [(".example.com", "session", "fromthebrowser"), ("example.com", "own", "1")]
        for host, name, value in rows:
            database.execute(
                "INSERT INTO moz_cookies VALUES (?, ?, ?, '/', ?, 1)", (host, name, value, SOON_S)
            )
    return folder


def test_identity_browser_profile_is_read_and_the_file_wins(tmp_path: Path) -> None:
    profile = firefox_profile(tmp_path / "profile")
    path = written(
        tmp_path / "cookies.txt", "\t".join(["example.com", "FALSE", "/", "FALSE", "0", "own", "2"])
    )
    identity = Identity(FetchConfig(cookies_from_browser=f"firefox:{profile}", cookies_path=path), {})
    assert identity.cookie_header("https://example.com/") == "session=fromthebrowser; own=2"
    assert identity.cookie_header("https://www.example.com/") == "session=fromthebrowser"
    assert "fromthebrowser" in str(identity.ytdlp_parameters()["cookiefile"])
    assert identity.scrub("it is fromthebrowser") == "it is ***"


@pytest.mark.parametrize("spec", ["lynx", "firefox+safe:x", "firefox:/no/such/profile", ":x"])
def test_identity_no_such_browser_raises_config_error(spec: str) -> None:
    with pytest.raises(ConfigError, match=r"fetch\.cookies_from_browser must"):
        Identity(FetchConfig(cookies_from_browser=spec), {})


# Credentials.


def test_credentials_are_those_of_the_exact_host(tmp_path: Path) -> None:
    path = written(
        tmp_path / "netrc", "machine Files.example.com login ada password hunter2", "machine other login eve"
    )
    identity = Identity(FetchConfig(netrc_path=path), {"AVGEN_NETRC": "/no/such/file"})
    assert identity.credentials("files.EXAMPLE.com.") == ("ada", "hunter2")
    assert identity.credentials("other") == ("eve", "")
    assert identity.credentials("example.com") is None
    assert identity.credentials("a.files.example.com") is None
    assert identity.ytdlp_parameters() == {"usenetrc": True, "netrc_location": str(path)}


def test_credentials_file_may_be_named_by_the_environment(tmp_path: Path) -> None:
    path = written(tmp_path / "netrc", "machine h login ada password hunter2")
    assert Identity(FetchConfig(), {"AVGEN_NETRC": str(path)}).credentials("h") == ("ada", "hunter2")
    assert Identity(FetchConfig(), {}).credentials("h") is None


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"machine h login ada password hunter2\nmachine i hunter2 x\n", r"netrc is not one \(line 2\)"),
        (b"hunter2", r"netrc is not one \(line 1\)"),
        (b"default login ada password hunter2\n", "every host would get"),
        (b"machine h login ada password hunter2\xff\n", "netrc is not text"),
    ],
)
def test_identity_malformed_netrc_raises_config_error_without_its_words(
    tmp_path: Path, content: bytes, expected: str
) -> None:
    (tmp_path / "netrc").write_bytes(content)
    for config, environ in [
        (FetchConfig(netrc_path=tmp_path / "netrc"), {}),
        (FetchConfig(), {"AVGEN_NETRC": str(tmp_path / "netrc")}),
    ]:
        with pytest.raises(ConfigError, match=expected) as caught:
            Identity(config, environ)
        assert "hunter2" not in shown(caught.value)


def test_identity_missing_file_raises_config_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"AVGEN_NETRC must name a readable file, got .*gone: No such file"):
        Identity(FetchConfig(), {"AVGEN_NETRC": str(tmp_path / "gone")})
    path = written(tmp_path / "proxies", "http://h:1")
    config = FetchConfig(proxies_path=path)
    path.unlink()
    with pytest.raises(ConfigError, match=r"fetch\.proxies_path must name a readable file"):
        Identity(config, {})


# Proxies.


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def with_proxies(tmp_path: Path, *lines: str, clock: Clock | None = None) -> Identity:
    config = FetchConfig(proxies_path=written(tmp_path / "proxies.txt", *lines))
    return Identity(config, {}, clock=clock or Clock())


def names(identity: Identity, num: int) -> list[str]:
    return [proxy.name for _ in range(num) if (proxy := identity.proxy())]


def test_proxy_none_configured_is_none() -> None:
    assert Identity(FetchConfig(), {}).proxy() is None
    assert Identity(FetchConfig(), {}).ytdlp_parameters() == {}


def test_proxy_takes_turns_and_has_name_address_and_header(tmp_path: Path) -> None:
    identity = with_proxies(
        tmp_path,
        "# ours",
        "http://ada:hun%40ter2@gate.example:7777",
        "",
        "  http://eve:secret@gate.example:7777/ ",
        "https://10.0.0.1:80",
        "https://10.0.0.1:80",
    )
    assert names(identity, 4) == [
        "gate.example:7777",
        "gate.example:7777#2",
        "10.0.0.1:80",
        "gate.example:7777",
    ]
    proxies = [proxy for _ in range(3) if (proxy := identity.proxy())]
    by_name = {proxy.name: proxy for proxy in proxies}
    token = base64.b64encode(b"ada:hun@ter2").decode()
    assert by_name["gate.example:7777"].headers == {"Proxy-Authorization": f"Basic {token}"}
    assert by_name["gate.example:7777"].url == "http://ada:hun%40ter2@gate.example:7777"
    assert by_name["10.0.0.1:80"].headers == {}
    assert not any(secret in repr(proxies) for secret in ("ter2", "secret", token))


@pytest.mark.parametrize(
    "line",
    [
        "gate.example:7777", "ftp://ada:hunter2@h:1", "http://ada:hunter2@h", "http://ada:hunter2@h:x", "http://:1",
        "http://ada:hunter2@h:1/path", "http://ada:hunter2@h:99999", "http://[ada:hunter2@h:1", "http://h:0",
    ],
)  # fmt: skip
def test_identity_wrong_proxy_line_names_file_and_line_only(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigError, match=r"proxies\.txt, line 2\)") as caught:
        with_proxies(tmp_path, "http://h:1", line)
    assert "hunter2" not in shown(caught.value)


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_identity_socks_proxy_needs_its_package(tmp_path: Path, scheme: str) -> None:
    from importlib.util import find_spec

    if find_spec("socks"):
        assert names(with_proxies(tmp_path, f"{scheme}://h:1"), 1) == ["h:1"]
        return
    with pytest.raises(ConfigError, match=r"install urllib3\[socks\]"):
        with_proxies(tmp_path, f"{scheme}://ada:hunter2@h:1")


def test_proxy_that_fails_three_times_rests_for_60_s_then_twice_as_long(tmp_path: Path) -> None:
    clock = Clock()
    identity = with_proxies(tmp_path, "http://a:1", "http://b:1", clock=clock)
    broken = identity.proxy()
    assert broken is not None
    for ok in (False, False, True, False, False):
        identity.proxy_answered(broken, ok=ok)
    assert names(identity, 4) == ["b:1", "a:1", "b:1", "a:1"]
    rests_s = []
    for _ in range(8):
        for _ in range(3):
            identity.proxy_answered(broken, ok=False)
        began_s = clock.now_s
        while names(identity, 2) == ["b:1", "b:1"]:
            identity.proxy_answered(broken, ok=False)  # Began before the rest: counts for nothing.
            clock.now_s += 30.0
        rests_s.append(clock.now_s - began_s)
    assert rests_s == [60, 120, 240, 480, 960, 1920, 3600, 3600]
    identity.proxy_answered(broken, ok=True)
    for _ in range(3):
        identity.proxy_answered(broken, ok=False)
    clock.now_s += 60.0
    assert sorted(names(identity, 2)) == ["a:1", "b:1"]


def test_proxy_all_resting_raises_deferred_until_the_first_is_back(tmp_path: Path) -> None:
    clock = Clock()
    identity = with_proxies(tmp_path, "http://a:1", "http://b:1", clock=clock)
    for _ in range(2):
        proxy = identity.proxy()
        assert proxy is not None
        for _ in range(3):
            identity.proxy_answered(proxy, ok=False)
        clock.now_s += 10.0
    with pytest.raises(Deferred, match="all 2 rest") as caught:
        identity.ytdlp_parameters()
    assert caught.value.until_s == 1060.0
    clock.now_s = 1060.0
    assert names(identity, 2) == ["a:1", "a:1"]


def test_proxy_threads_get_equal_shares(tmp_path: Path) -> None:
    identity = with_proxies(tmp_path, "http://a:1", "http://b:1", "http://c:1", "http://d:1")
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.extend(names(identity, 100))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found.count(f"{name}:1") for name in "abcd"] == [200] * 4


def test_ytdlp_parameters_are_json_and_name_the_proxy_that_was_given(tmp_path: Path) -> None:
    arguments = {"youtube": {"player_client": ["web", "tv"]}}
    path = written(tmp_path / "proxies.txt", "http://ada:hunter2@a:1", "http://b:1")
    identity = Identity(FetchConfig(proxies_path=path, extractor_args=arguments), {})
    first = identity.proxy()
    assert identity.ytdlp_parameters(first) == {
        "extractor_args": arguments,
        "proxy": "http://ada:hunter2@a:1",
    }
    assert json.loads(json.dumps(identity.ytdlp_parameters()))["proxy"] == "http://b:1"


# Nothing of it gets out.


@pytest.fixture
def full(tmp_path: Path) -> Identity:
    """An identity with one secret of each sort."""
    cookies = written(
        tmp_path / "cookies.txt", "\t".join(["h.example", "FALSE", "/", "FALSE", "0", "c", "s/cookie+1"])
    )
    netrc = written(tmp_path / "netrc", "machine h.example login ada password n3trc@pw")
    proxies = written(tmp_path / "proxies.txt", "http://proxyuser:pr%2Foxy@p.example:1")
    return Identity(FetchConfig(cookies_path=cookies, netrc_path=netrc, proxies_path=proxies), {})


def test_identity_repr_counts_and_pickling_is_refused(full: Identity) -> None:
    assert repr(full) == "<Identity: 1 cookies, 1 logins, 1 proxies>"
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(full)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("c=s/cookie+1; d=2", "c=***; d=2"),
        ("?c=s%2fcookie%2B1&d", "?c=***&d"),
        ("login with n3trc@pw failed", "login with *** failed"),
        ("https://ada:n3trc%40pw@h.example/a", "https://***@h.example/a"),
        ("Authorization: Basic YWRhOm4zdHJjQHB3", "Authorization: Basic ***"),
        ("Cannot connect to proxy http://proxyuser:pr%2Foxy@p.example:1", "Cannot connect to proxy http://***@p.example:1"),
        ("proxy said: pr/oxy is wrong for proxyuser", "proxy said: *** is wrong for ***"),
        ("Basic cHJveHl1c2VyOnByL294eQ==,", "Basic ***,"),
        ("see http://someone:else@h/@c and //a@b", "see http://***@h/@c and //a@b"),
        ("https://www.tiktok.com/@ada/video/1", "https://www.tiktok.com/@ada/video/1"),
        ("ada wrote nothing", "ada wrote nothing"),
        ("", ""),
    ],
)  # fmt: skip
def test_scrub_hides_each_secret_in_each_form_and_nothing_else(
    full: Identity, text: str, expected: str
) -> None:
    assert full.scrub(text) == expected


def test_scrub_without_secrets_hides_users_and_passwords_of_addresses() -> None:
    assert Identity(FetchConfig(), {}).scrub("http://a:b@c/d?e=f@g") == "http://***@c/d?e=f@g"


def test_scrub_short_cookie_values_and_passwords_are_no_secrets(tmp_path: Path) -> None:
    netrc = written(
        tmp_path / "netrc", "machine h login bob password abc", "machine i login x", "machine j password y"
    )
    cookies = written(tmp_path / "cookies.txt", "\t".join(["h", "FALSE", "/", "FALSE", "0", "lang", "en-GB"]))
    identity = Identity(FetchConfig(netrc_path=netrc, cookies_path=cookies), {})
    assert identity.scrub("abc en-GB bob bob:abc x:") == "abc en-GB bob *** x:"
