import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crawl.robots import (
    Robots,
    allows,
    crawl_delay_s,
    is_unreachable,
    opt_out_directives,
    require_allowed,
    robots_of,
    unreachable,
)
from infra.errors import BlockedByPolicy, NetworkFailure

AGENT = "avgen/0.1.0 (Example Lab, crawler@google.com)"
URL = "https://h.example.com/videos/a.mp4?q=1"


# --- What an answer means ---


@pytest.mark.parametrize("status", [200, 204])
def test_robots_of_success_is_the_text_for_a_day(status: int) -> None:
    assert robots_of(status, b"\xef\xbb\xbfUser-agent: \xff") == Robots(
        "User-agent: \ufffd", max_age_s=86400.0
    )


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 410, 451])
def test_robots_of_client_error_allows_all_for_a_day(status: int) -> None:
    assert robots_of(status, b"User-agent: *\nDisallow: /") == Robots("", max_age_s=86400.0)
    assert allows("", URL, AGENT)


@pytest.mark.parametrize("status", [429, 500, 503, 599])
def test_robots_of_server_error_allows_nothing_for_five_minutes(status: int) -> None:
    robots = robots_of(status, b"")
    assert (is_unreachable(robots.text), robots.max_age_s) == (True, 300.0)
    assert not allows(robots.text, URL, AGENT)
    with pytest.raises(
        NetworkFailure, match=f"^robots.txt must be read before {URL[:20]}.*, but: HTTP {status}$"
    ):
        require_allowed(robots.text, URL, AGENT)


def test_robots_of_large_body_is_read_up_to_500_kib() -> None:
    head = b"User-agent: *\nDisallow: /a\n"
    body = head + b"#" * (500 * 1024 - len(head)) + b"\nDisallow: /b\n"
    text = robots_of(200, body).text
    assert [allows(text, f"http://h/{name}", AGENT) for name in "ab"] == [False, True]


def test_unreachable_reason_of_several_lines_cannot_add_rules() -> None:
    text = unreachable("refused\nUser-agent: avgen\nAllow: /").text
    assert not allows(text, URL, AGENT)
    with pytest.raises(NetworkFailure, match=r"but: refused User-agent: avgen Allow: /$"):
        require_allowed(text, URL, AGENT)


# --- RFC 9309 ---


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        ("", "/a", True),
        ("User-agent: *\nDisallow: /", "/a", False),
        ("User-agent: *\nDisallow: /", "/robots.txt", True),
        ("User-agent: *\nDisallow:", "/a", True),
        ("User-agent: *\nDisallow: /videos", "/videos/a", False),
        ("User-agent: *\nDisallow: /videos/", "/videos", True),
        ("user-agent:*\r\ndisallow:/videos # all", "/videos/a", False),
        ("User-agent: *\nDisallow: /videos\nAllow: /videos/free", "/videos/free/a", True),
        ("User-agent: *\nAllow: /videos/free\nDisallow: /videos", "/videos/free/a", True),
        ("User-agent: *\nDisallow: /a\nAllow: /a", "/a", True),
        ("User-agent: *\nDisallow: /*.mp4$", "/x/a.mp4", False),
        ("User-agent: *\nDisallow: /*.mp4$", "/x/a.mp4?x=1", True),
        ("User-agent: *\nDisallow: /a%3cd", "/a%3Cd", False),
        ("User-agent: *\nDisallow: /ü", "/%C3%BC", False),
        # The group that names us counts alone, in any case, wherever it stands.
        ("User-agent: *\nDisallow: /\n\nUser-agent: AvGen\nDisallow: /x", "/a", True),
        ("User-agent: avgen/2.0\nDisallow: /x\n\nUser-agent: *\nDisallow: /", "/x", False),
        ("User-agent: avgen*\nDisallow: /x\n\nUser-agent: *\nDisallow:", "/x", False),
        (
            "User-agent: avgen\nDisallow: /x\nUser-agent: *\nDisallow: /y\nUser-agent: avgen\nDisallow: /z",
            "/z",
            False,
        ),
        (
            "User-agent: avgen\nDisallow: /x\nUser-agent: *\nDisallow: /y\nUser-agent: avgen\nDisallow: /z",
            "/y",
            True,
        ),
        ("User-agent: other\nUser-agent: avgen\nDisallow: /", "/a", False),
        # Groups of others: neither the operator's mail host nor a beginning of our name is our name.
        ("User-agent: other\nDisallow: /", "/a", True),
        ("User-agent: google\nAllow: /\n\nUser-agent: *\nDisallow: /", "/a", False),
        ("User-agent: avg\nAllow: /\n\nUser-agent: *\nDisallow: /", "/a", False),
        ("User-agent: avgen-images\nAllow: /\n\nUser-agent: *\nDisallow: /", "/a", False),
        ("User-agent:\nDisallow: /", "/a", True),
        ("User-agent: *\nDisallow: /x\nUser-agent: other\nDisallow: /a", "/a", True),
        ("Disallow: /", "/a", True),
        ("<!DOCTYPE html>\n<title>User-agent: *</title>\nDisallow: /", "/a", True),
        ("User-agent: *\nSitemap: https://h/s.xml\nDisallow: /a", "/a", False),
    ],
)
def test_allows_follows_the_rules(text: str, path: str, expected: bool) -> None:
    assert allows(text, f"https://h.example.com{path}", AGENT) == expected


@pytest.mark.parametrize(
    ("agent", "named", "expected"),
    [
        ("Mozilla/5.0 (compatible; LabBot/1.0; +https://google.com/bot)", "labbot", False),
        ("Mozilla/5.0 (compatible; LabBot/1.0; +https://google.com/bot)", "google", True),
        ("LabBot", "LabBot", False),
        ("lab-bot_x/1 y", "Lab-Bot_x", False),
        ("LabBot contact@lab.org", "contact", True),
        ("", "x", True),
    ],
)
def test_allows_agent_is_known_by_its_products(agent: str, named: str, expected: bool) -> None:
    assert allows(f"User-agent: {named}\nDisallow: /", URL, agent) == expected


def test_require_allowed_forbidden_raises_blocked_by_policy() -> None:
    text = "User-agent: *\nDisallow: /videos"
    require_allowed(text, "https://h.example.com/a", AGENT)
    with pytest.raises(
        BlockedByPolicy, match=r"^robots.txt must allow https://h.*\?q=1 for avgen, it does not$"
    ):
        require_allowed(text, URL, AGENT)


@settings(deadline=None)
@given(st.text(max_size=200), st.text(max_size=50))
def test_allows_any_text_answers_the_same_twice(text: str, path: str) -> None:
    url = f"http://h/{path}"
    assert allows(text, url, AGENT) == allows(text, url, AGENT)
    assert crawl_delay_s(text, AGENT) >= 0.0


LINES = st.sampled_from(
    [
        "User-agent: *",
        "user agent other",
        "Useragent: avgen",
        "Disallow: /a",
        "Allow: /a",
        "Disallow: /",
        "# x",
        "",
    ]
)


@settings(deadline=None)
@given(st.lists(LINES, max_size=12))
def test_allows_groups_of_others_change_nothing(lines: list[str]) -> None:
    text = "\n".join(lines)
    crowded = f"User-agent: other\nDisallow: /\n{text}\nDisallow:\nUser-agent: third\nAllow: /a\n"
    for url in ("http://h/a", "http://h/b"):
        assert allows(crowded, url, AGENT) == allows(text, url, AGENT)


def test_allows_many_agents_and_many_rules_stay_small() -> None:
    agents = "".join(f"User  agent: a{k}\nUseragent a{k}\nuser-agent :b{k}\n" for k in range(6_000))
    rules = "".join(f"Disallow: /{k}\n" for k in range(18_000))
    assert not allows(f"{agents}User-agent: *\n{rules}", "http://h/17999", AGENT)


# --- Crawl-delay ---


@pytest.mark.parametrize(
    ("text", "expected_s"),
    [
        ("", 0.0),
        ("User-agent: *\nCrawl-delay: 2.5", 2.5),
        ("User-agent: *\nRequest-rate: 1/5", 5.0),
        ("User-agent: *\nRequest-rate: 10/1m\nCrawl-delay: 3", 6.0),
        ("User-agent: *\nCrawl-delay: 9\n\nUser-agent: avgen\nCrawl-delay: 1", 1.0),
        ("User-agent: other\nCrawl-delay: 9", 0.0),
        ("User-agent: *\nCrawl-delay: soon", 0.0),
        ("User-agent: *\nCrawl-delay: -1", 0.0),
        ("User-agent: *\nCrawl-delay: inf", 0.0),
        ("User-agent: *\nCrawl-delay: nan", 0.0),
    ],
)
def test_crawl_delay_s_reads_delay_and_rate(text: str, expected_s: float) -> None:
    assert crawl_delay_s(text, AGENT) == expected_s


# --- Response headers ---


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], ()),
        ([("X-Robots-Tag", "noai")], ("noai",)),
        ([("x-robots-tag", " NoIndex , NoImageAI ")], ("noimageai", "noindex")),
        ([("X-Robots-Tag", "nofollow, noarchive, max-snippet: 20")], ()),
        ([("X-Robots-Tag", "none")], ("none",)),
        (
            [("X-Robots-Tag", "noimageindex"), ("X-Robots-Tag", "noai, noimageindex")],
            ("noai", "noimageindex"),
        ),
        ([("X-Robots-Tag", "avgen: noai")], ("noai",)),
        ([("X-Robots-Tag", "*: noai")], ("noai",)),
        ([("X-Robots-Tag", "googlebot: noindex, noai")], ()),
        ([("X-Robots-Tag", "googlebot: noindex, AvGen: noai")], ("noai",)),
        ([("X-Robots-Tag", "avgen: nofollow, noai, other: noindex")], ("noai",)),
        ([("X-Robots-Tag", "unavailable_after: 25 Jun 2010 15:00:00 PST, noai")], ("noai",)),
        ([("X-Robots-Tag", "other: unavailable_after: 25 Jun 2010 15:00:00 PST, noai")], ()),
        ([("X-Robots-Tag", "max-image-preview:large,noindex")], ("noindex",)),
        ([("TDM-Reservation", " 1 ")], ("tdm-reservation",)),
        ([("tdm-reservation", "0")], ()),
        ([("X-Other", "noai"), ("Content-Type", "video/mp4")], ()),
    ],
)
def test_opt_out_directives_finds_what_applies_to_us(headers: list, expected: tuple) -> None:
    assert opt_out_directives(headers, AGENT) == expected


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["X-Robots-Tag", "tdm-reservation"]), st.text(max_size=60))))
def test_opt_out_directives_any_header_is_sorted_and_distinct(headers: list) -> None:
    found = opt_out_directives(headers, AGENT)
    assert list(found) == sorted(set(found))
