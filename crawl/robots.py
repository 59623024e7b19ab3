"""What a host forbids: robots.txt (RFC 9309), X-Robots-Tag and the TDM reservation."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from protego import Protego

from infra.errors import BlockedByPolicy, NetworkFailure

# Source: RFC 9309, sections 2.4 (cache) and 2.5 (a parser reads at least so much).
_MAX_AGE_S = 24 * 3600.0
_MAX_BYTES = 500 * 1024
# How long a host that could not be asked is not asked again; assumption, not measured.
_UNREACHABLE_MAX_AGE_S = 300.0
_UNREACHABLE = "# unreachable: "
_MAX_PARSED = 256

_PRODUCT = re.compile(r"[a-z][a-z_-]*(?=/\d)")
_AGENT_LINE = re.compile(r"\s*user(?:-|\s*)agent(?:\s*:|\s)([^#]*)", re.IGNORECASE)
_SOMEBODY_ELSE = "~"  # No product has this name.

# Source: noai and noimageai, deviantart.com 2022; the others, Google's robots meta tag specification.
_OPT_OUTS = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})
_WITH_VALUE = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
# Source: W3C community group report, TDM Reservation Protocol (its HTTP header).
_TDM = "tdm-reservation"


@dataclass(frozen=True, slots=True)
class Robots:
    """A robots.txt and how long it may be believed."""

    text: str
    max_age_s: float = _MAX_AGE_S


def robots_of(status: int, body: bytes) -> Robots:
    """What an answer to `GET /robots.txt` means: 2xx its text, 429 and 5xx `unreachable`, else all is allowed."""
    if status == 429 or status >= 500:
        return unreachable(f"HTTP {status}")
    return Robots(body[:_MAX_BYTES].decode("utf-8-sig", "replace") if 200 <= status < 300 else "")


def unreachable(reason: str) -> Robots:
    """The robots.txt of a host that could not be asked: it forbids all, as RFC 9309 wants, but not for long."""
    return Robots(
        f"{_UNREACHABLE}{' '.join(reason.split())}\nUser-agent: *\nDisallow: /\n", _UNREACHABLE_MAX_AGE_S
    )


def is_unreachable(text: str) -> bool:
    """Whether a text came from `unreachable`."""
    return text.startswith(_UNREACHABLE)


def require_allowed(text: str, url: str, agent: str) -> None:
    """Check an address against the robots.txt of its origin.

    Raises:
        NetworkFailure: robots.txt could not be had, so nothing may be fetched for now.
        BlockedByPolicy: it forbids this address.
    """
    if is_unreachable(text):
        reason = text.partition("\n")[0].removeprefix(_UNREACHABLE)
        raise NetworkFailure(f"robots.txt must be read before {url}, but: {reason}")
    if not allows(text, url, agent):
        raise BlockedByPolicy(f"robots.txt must allow {url} for {_products(agent)}, it does not")


def allows(text: str, url: str, agent: str) -> bool:
    """Whether a robots.txt lets a user agent fetch `url`."""
    products = _products(agent)
    return _parsed(text, products).can_fetch(url, products)


def crawl_delay_s(text: str, agent: str) -> float:
    """Seconds between two requests that a robots.txt asks for, by Crawl-delay or Request-rate; 0 for none."""
    products = _products(agent)
    parsed = _parsed(text, products)
    rate = parsed.request_rate(products)
    return max(parsed.crawl_delay(products) or 0.0, rate.seconds / rate.requests if rate else 0.0)


def opt_out_directives(headers: Iterable[tuple[str, str]], agent: str) -> tuple[str, ...]:
    """The opt-outs from mining and indexing in response headers (name, value) that apply to us, sorted."""
    ours = {"*", *_products(agent).split()}
    found = set[str]()
    for name, value in headers:
        if name.lower() == "x-robots-tag":
            found.update(_directives(value.lower(), ours))
        elif name.lower() == _TDM and value.strip() == "1":
            found.add(_TDM)
    return tuple(sorted(found))


def _directives(value: str, ours: set[str]) -> Iterator[str]:
    """The opt-outs of one X-Robots-Tag; `agent:` before a directive holds for it and those after it."""
    applies = True
    for part in value.split(","):
        prefix, colon, rest = part.partition(":")
        if colon and prefix.strip() not in _WITH_VALUE:
            applies = prefix.strip() in ours
        directive = (rest if colon else prefix).strip()
        if applies and directive in _OPT_OUTS:
            yield directive


@lru_cache(maxsize=_MAX_PARSED)
def _products(agent: str) -> str:
    """The product tokens of a user agent, in lower case: what a robots.txt may call us."""
    lowered = agent.lower()
    return " ".join(_PRODUCT.findall(lowered)) or lowered.partition(" ")[0]


@lru_cache(maxsize=_MAX_PARSED)
def _parsed(text: str, products: str) -> Protego:
    """The rules of a robots.txt.

    Groups for others are made one. That keeps a file of many agents and many rules from growing to their product,
    and Protego, which compares beginnings, from taking a group for "avg" as one for "avgen".
    """
    ours = {"*", *products.split()}
    return Protego.parse("\n".join(_with_agent(line, ours) for line in text.splitlines()))


def _with_agent(line: str, ours: set[str]) -> str:
    match = _AGENT_LINE.match(line)
    if match is None:
        return line
    agent = match.group(1).strip().lower()
    if agent != "*":
        agent = agent.partition("/")[0].replace("*", "")
    return f"User-agent: {agent if agent in ours else _SOMEBODY_ELSE}"
