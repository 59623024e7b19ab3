import ipaddress
import socket
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crawl.addresses import AddressInfo, origin_of, require_http, require_public
from infra.errors import BlockedByPolicy


def _numeric(host: str, port: int) -> Sequence[AddressInfo]:
    """The system's own reading of a numeric spelling; never asks a name server."""
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)


def _answers(*addresses: str) -> Sequence[AddressInfo]:
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in addresses]


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.255.255.254", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0x7f.1", "0",
        "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254", "0xa9fea9fe",
        "100.64.0.1", "100.127.255.255", "192.0.0.8", "192.0.2.1", "198.18.0.1", "198.51.100.7", "203.0.113.9",
        "192.88.99.1",
        "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
        "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:a9fe:a9fe", "::ffff:10.0.0.1", "fe80::1",
        "fe80::1%1", "fc00::1", "fd12::1", "fec0::1", "ff02::1", "ff0e::1", "64:ff9b::127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::8.8.8.8", "2002:7f00:1::1", "2002:808:808::1", "2001:0:808:808::1", "2001:db8::1", "3fff::1",
        "100::1", "4000::1",
    ],
)  # fmt: skip
def test_require_public_address_of_no_public_host_is_blocked(host: str) -> None:
    with pytest.raises(BlockedByPolicy, match="must have public addresses only") as raised:
        require_public(host, 80, allow_private=False, resolve=_numeric)
    assert host in str(raised.value)
    assert require_public(host, 80, allow_private=True, resolve=_numeric) == _numeric(host, 80)


@pytest.mark.parametrize(
    "host",
    ["8.8.8.8", "134744072", "0x08080808", "172.32.0.1", "172.15.255.255", "100.128.0.1", "169.255.0.1",
     "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2606:4700::1111", "2a00:1450:4001::200e"],
)  # fmt: skip
def test_require_public_public_address_is_what_was_resolved(host: str) -> None:
    assert require_public(host, 443, allow_private=False, resolve=_numeric) == _numeric(host, 443)


def test_require_public_one_private_address_among_public_ones_is_blocked() -> None:
    with pytest.raises(BlockedByPolicy, match=r"media\.example has 10\.0\.0\.9"):
        require_public(
            "media.example", 80, allow_private=False, resolve=lambda *_: _answers("8.8.8.8", "10.0.0.9")
        )


def test_require_public_looks_a_name_up_once() -> None:
    asked = []

    def resolve(host: str, port: int) -> Sequence[AddressInfo]:
        asked.append((host, port))
        return _answers("8.8.8.8")

    assert require_public("media.example", 80, allow_private=False, resolve=resolve) == _answers("8.8.8.8")
    assert asked == [("media.example", 80)]


def test_require_public_failed_look_up_is_the_resolvers_own_error() -> None:
    with pytest.raises(socket.gaierror):
        require_public("media.example", 80, allow_private=False, resolve=_numeric)


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "a..example"])
def test_require_public_name_that_cannot_be_encoded_is_blocked(host: str) -> None:
    def resolve(host: str, port: int) -> Sequence[AddressInfo]:
        return socket.getaddrinfo(host.encode("idna"), port, flags=socket.AI_NUMERICHOST)

    with pytest.raises(BlockedByPolicy, match="must be a valid name"):
        require_public(host, 80, allow_private=False, resolve=resolve)


@given(st.ip_addresses(v=4))
@example(ipaddress.IPv4Address("127.0.0.1"))
def test_require_public_ipv4_carried_in_ipv6_is_judged_as_itself(address: ipaddress.IPv4Address) -> None:
    def is_blocked(host: str) -> bool:
        try:
            require_public(host, 80, allow_private=False, resolve=lambda host, _: _answers(host))
        except BlockedByPolicy:
            return True
        return False

    judged = is_blocked(str(address))
    assert is_blocked(f"::ffff:{address}") == is_blocked(f"64:ff9b::{address}") == judged
    assert judged or address.is_global


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("http://h/a", ("http", "h", 80)),
        ("https://H.example:8443/a?b#c", ("https", "h.example", 8443)),
        ("HTTPS://[::1]/", ("https", "::1", 443)),
    ],
)
def test_require_http_gives_the_parts_of_an_address(url: str, origin: tuple[str, str, int]) -> None:
    assert origin_of(require_http(url)) == origin


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://h/a", "data:video/mp4,x", "javascript:alert(1)", "//h/a", "/a", "", "http://", "http:///a",
     "http://h:99999/", "http://h:x/", "http://h:0/", "http://[::1/", "gopher://127.0.0.1:25/"],
)  # fmt: skip
def test_require_http_other_addresses_are_blocked(url: str) -> None:
    with pytest.raises(BlockedByPolicy, match="an address must"):
        require_http(url)


@pytest.mark.parametrize(
    "url", ["http://user:secret@h/a", "http://user@h/a", "http://:secret@h/a", "http://@h/a"]
)
def test_require_http_credentials_are_blocked_and_not_shown(url: str) -> None:
    with pytest.raises(BlockedByPolicy, match=r"must not carry credentials.*\(http://h/a\)") as raised:
        require_http(url)
    assert "secret" not in str(raised.value)
