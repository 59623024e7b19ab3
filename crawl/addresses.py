"""Which addresses may be asked: http(s), without credentials, and no machine of our own network. Pure."""

from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import SplitResult, urlsplit

from infra.errors import BlockedByPolicy

AddressInfo = tuple[int, int, int, str, tuple]
"""One answer of `socket.getaddrinfo`; the last member is what a socket connects to."""
Resolve = Callable[[str, int], Sequence[AddressInfo]]

DEFAULT_PORTS = {"http": 80, "https": 443}
# The last four octets of an address in here are an IPv4 address: mapped, and what NAT64 translates to.
# Source: RFC 4291, section 2.5.5.2; RFC 6052, section 2.1.
_CARRIES_IPV4 = (ip_network("::ffff:0:0/96"), ip_network("64:ff9b::/96"))
# All IPv6 addresses that are given out for the internet. Source: IANA, IPv6 Global Unicast Address Assignments.
_GLOBAL_IPV6 = ip_network("2000::/3")
# What `is_global` lets pass in Python 3.11 and what is no host: protocol assignments, the relays and addresses
# of 6to4 (they carry any IPv4 address), documentation. Source: IANA special-purpose address registries.
_NO_HOSTS = tuple(map(ip_network, ("192.0.0.0/24", "192.88.99.0/24", "2002::/16", "3fff::/20")))


def require_http(url: str) -> SplitResult:
    """The parts of an address that has a host, a valid port and neither credentials nor another scheme.

    Raises:
        BlockedByPolicy: it is something else.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as err:
        raise BlockedByPolicy(f"an address must be a valid URL, got {url!r}: {err}") from err
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname or port == 0:
        raise BlockedByPolicy(f"an address must start with http:// or https:// and name a host, got {url!r}")
    if "@" in parts.netloc:
        shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        raise BlockedByPolicy(f"an address must not carry credentials; use fetch.netrc_path ({shown})")
    return parts


def origin_of(parts: SplitResult) -> tuple[str, str, int]:
    """Scheme, host and port: what one connection serves."""
    return parts.scheme, str(parts.hostname), parts.port or DEFAULT_PORTS[parts.scheme]


def require_public(host: str, port: int, *, allow_private: bool, resolve: Resolve) -> list[AddressInfo]:
    """All that `resolve` says of a host, each of it an address of the public internet.

    Connect to one of these and look nothing up again, or the next answer may be another.

    Raises:
        BlockedByPolicy: one of them is not public and `allow_private` is not set, or the name cannot be looked up.
        OSError: `resolve` failed.
    """
    try:
        found = list(resolve(host, port))
    except UnicodeError as err:
        raise BlockedByPolicy(f"a host must be a valid name, got {host!r}: {err}") from err
    for *_, address in found:
        if not (allow_private or _is_public(str(address[0]))):
            raise BlockedByPolicy(
                f"a host must have public addresses only (or set fetch.allow_private), {host} has {address[0]}"
            )
    return found


def _is_public(text: str) -> bool:
    try:
        address = ip_address(text)
    except ValueError:
        return False
    if any(address in network for network in _CARRIES_IPV4):
        address = IPv4Address(int(address) & 0xFFFF_FFFF)
    if isinstance(address, IPv6Address) and address not in _GLOBAL_IPV6:
        return False
    is_odd = address.is_multicast or address.is_reserved or any(address in network for network in _NO_HOSTS)
    return address.is_global and not is_odd
