import itertools
import json
import random
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crawl.http import Http, Page
from crawl.identity import Identity
from crawl.items import UnexpandedSource, source_item
from crawl.policy import FetchConfig
from crawl.politeness import LocalDesk
from crawl.source_feed import _PAGE_MAX_BYTES, _parsed, expand_feed, feed_seed
from crawl.turns import Turns
from crawl.web import Web
from infra.errors import ConfigError, NotMedia
from tests.crawl.web import Site

RSS = (
    '<?xml version="1.0" encoding="UTF-8"?><!-- made by hand --><rss version="2.0"'
    ' xmlns:atom="http://www.w3.org/2005/Atom" xmlns:media="http://search.yahoo.com/mrss/">'
    "<channel><title>F</title>{}</channel></rss>"
)
ATOM = '<?xml version="1.0"?><feed xmlns="http://www.w3.org/2005/Atom"><title>F</title>{}</feed>'


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    config = FetchConfig(allow_private=True, requests_per_s=1000, connections_per_host=32)
    turns = Turns(LocalDesk(time.time), config, sleep=time.sleep, rng=random.Random(0))
    http = Http(config, turns, Identity(config, {}))
    yield Web(config, http, None, None)  # A feed asks no extractor.
    http.close()


@pytest.fixture
def new_path(site: Site) -> Iterator[str]:
    """A path of the site that no test has used; its pages are taken away at the end."""
    path = f"/feeds/{next(_NUMBERS)}"
    yield path
    for name in [name for name in site.pages if name.startswith(path)]:
        del site.pages[name]


_NUMBERS = itertools.count()


def _found(web: Web, url: str, first_index: int = 0) -> list[str]:
    """The addresses of the items, and the codes of the failures in brackets."""
    found = expand_feed(f"feed:{url}", web, first_index)
    return [
        f"[{source.code}]" if isinstance(source, UnexpandedSource) else source.url.rpartition("/")[2]
        for source in found
    ]


def _entries(web: Web, site: Site, path: str, body: str | bytes, content_type: str = "text/xml") -> list[str]:
    site.pages[path] = (content_type, body if isinstance(body, bytes) else body.encode())
    return _found(web, site.url(path))


def _item(inside: str) -> str:
    return f"<item>{inside}</item>"


# ---- the formats ----


def test_expand_feed_rss_enclosure_goes_before_the_page(web: Web, site: Site, new_path: str) -> None:
    body = RSS.format(
        _item('<link>/page1</link><enclosure url="/a.mp4" type="video/mp4" length="1"/>')
        + _item('<enclosure url="/b.mp3" type="audio/mpeg" length="1"/>')
        + _item("<link>/page3</link>")
        + _item('<guid>http://h/page4</guid><enclosure url="/cover.jpg" type="image/jpeg"/>')
    )
    assert _entries(web, site, new_path, body) == ["a.mp4", "b.mp3", "page3", "page4"]


def test_expand_feed_items_are_of_the_kind_feed_and_absolute(web: Web, site: Site, new_path: str) -> None:
    site.pages[new_path] = ("text/xml", RSS.format(_item('<enclosure url="a b.mp4"/>')).encode())
    (item,) = expand_feed(f"feed:{site.url(new_path)}", web, 0)
    assert item == source_item(site.url("/feeds/a%20b.mp4"), kind="feed")


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        ('<media:content url="/a.mp4" type="video/mp4"/>', "a.mp4"),
        ('<media:content url="/a" medium="video"/><enclosure url="/b.mp3" type="audio/mpeg"/>', "a"),
        (
            '<media:group><media:content url="/small.mp4" type="video/mp4"/>'
            '<media:content url="/main.mp4" type="video/mp4" isDefault="true"/></media:group>',
            "main.mp4",
        ),
        ('<media:content url="/a.jpg" medium="image"/><link>/page</link>', "page"),
        ('<media:content url="/v" type="application/x-shockwave-flash"/><link>/page</link>', "page"),
        ('<media:content url="/a.m3u8" type="application/x-mpegURL"/>', "a.m3u8"),
        ('<enclosure url="/a.torrent" type="application/x-bittorrent"/><link>/page</link>', "page"),
        ('<enclosure url="/first"/><enclosure url="/second.webm?x=1"/>', "second.webm?x=1"),
        ('<enclosure url="/a" type="application/octet-stream"/><enclosure url="/b" type="audio/ogg"/>', "a"),
        ('<enclosure url="/a.mp4" type="VIDEO/MP4; codecs=avc1"/>', "a.mp4"),
        ('<enclosure url="" type="video/mp4"/><link>/page</link>', "page"),
    ],
)
def test_expand_feed_best_enclosure_stands_for_the_entry(
    inside: str, expected: str, web: Web, site: Site, new_path: str
) -> None:
    assert _entries(web, site, new_path, RSS.format(_item(inside))) == [expected]


def test_expand_feed_atom(web: Web, site: Site, new_path: str) -> None:
    body = ATOM.format(
        '<entry><id>1</id><link href="/page1"/><link rel="enclosure" href="/a" type="video/webm"/></entry>'
        '<entry><id>2</id><link rel="alternate" href="/page2"/><link rel="related" href="/x"/></entry>'
        '<entry><id>3</id><link rel="enclosure" href="/b"/></entry>'
        '<entry><id>4</id><content type="video/mp4" src="/c.mp4"/></entry>'
    )
    assert _entries(web, site, new_path, body) == ["a", "page2", "b", "c.mp4"]


def test_expand_feed_youtube_entry_is_its_watch_page(web: Web, site: Site, new_path: str) -> None:
    """As https://www.youtube.com/feeds/videos.xml answered in 2026."""
    body = (
        '<feed xmlns:yt="http://www.youtube.com/xml/schemas/2015"'
        ' xmlns:media="http://search.yahoo.com/mrss/" xmlns="http://www.w3.org/2005/Atom">'
        "<entry><id>yt:video:0B4dYTMsgHA</id><yt:videoId>0B4dYTMsgHA</yt:videoId>"
        '<link rel="alternate" href="https://www.youtube.com/watch?v=0B4dYTMsgHA"/><media:group>'
        '<media:content url="https://www.youtube.com/v/0B4dYTMsgHA?version=3"'
        ' type="application/x-shockwave-flash" width="640" height="390"/></media:group></entry></feed>'
    )
    assert _entries(web, site, new_path, body) == ["watch?v=0B4dYTMsgHA"]


def test_expand_feed_json(web: Web, site: Site, new_path: str) -> None:
    image = {"url": "/a.jpg", "mime_type": "image/jpeg"}
    items = [
        {"id": "1", "url": "/page1", "attachments": [image, {"url": "/a.mp4", "mime_type": "video/mp4"}]},
        {"id": "2", "url": "/page2", "attachments": [image]},
        {"id": "3", "external_url": "http://h/page3"},
        {"id": 4, "url": ["/page4"], "attachments": "none"},
        "not an object",
    ]
    body = json.dumps({"version": "https://jsonfeed.org/version/1.1", "items": items})
    found = _entries(web, site, new_path, body, "application/feed+json")
    assert found == ["a.mp4", "page2", "page3", "[not_media]", "[not_media]"]


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "cp1251"])
def test_expand_feed_character_sets(codec: str, web: Web, site: Site, new_path: str) -> None:
    body = RSS.format(_item("<link>http://h/Ж</link>")).replace("UTF-8", codec)
    assert _entries(web, site, new_path, body.encode(codec)) == ["%D0%96"]


def test_expand_feed_malformed_xml_is_read_as_well_as_may_be(web: Web, site: Site, new_path: str) -> None:
    body = RSS.format(
        _item("<title>a & b&nbsp;<br></title><link>/page1</link>") + _item("<link>/page2</link>")
    )
    assert _entries(web, site, new_path, body) == ["page1", "page2"]


# ---- entries that are no sources ----


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://h/a.mp4", "javascript:x", "http://[", "http://u:secret@h/a.mp4"]
)
def test_expand_feed_entry_that_is_not_on_the_web_is_refused(
    url: str, web: Web, site: Site, new_path: str
) -> None:
    body = RSS.format(_item(f'<enclosure url="{url}"/>') + _item("<link>/page</link>"))
    site.pages[new_path] = ("text/xml", body.encode())
    refused, item = expand_feed(f"feed:{site.url(new_path)}", web, 0)
    assert isinstance(refused, UnexpandedSource)
    assert (refused.code, refused.item.kind) == ("blocked_by_policy", "feed")
    assert "secret" not in refused.message + refused.item.url
    assert item.url == site.url("/page")


def test_expand_feed_entries_without_address_are_records_of_their_own(
    web: Web, site: Site, new_path: str
) -> None:
    body = RSS.format("".join(_item(f"<title>t{n}</title>") for n in range(3)))
    site.pages[new_path] = ("text/xml", body.encode())
    found = list(expand_feed(f"feed:{site.url(new_path)}", web, 0))
    assert [source.code for source in found] == ["not_media"] * 3
    assert len({source.item.source_id for source in found}) == 3


# ---- pages ----


def _paged(site: Site, path: str, num_pages: int, entries_per_page: int = 3) -> list[str]:
    """Pages of an Atom feed; the names of all entries."""
    numbers = range(num_pages * entries_per_page)
    for page in range(num_pages):
        own = numbers[page * entries_per_page : (page + 1) * entries_per_page]
        entries = "".join(f'<entry><id>{n}</id><link href="/v{n}"/></entry>' for n in own)
        following = f'<link rel="next" href="{path}-{page + 1}"/>' if page + 1 < num_pages else ""
        body = ATOM.format(following + entries).encode()
        site.pages[f"{path}-{page}" if page else path] = ("application/atom+xml", body)
    return [f"v{n}" for n in numbers]


def test_expand_feed_pages_are_followed_in_order_and_no_sooner_than_needed(
    web: Web, site: Site, new_path: str
) -> None:
    expected = _paged(site, new_path, num_pages=4)
    found = expand_feed(f"feed:{site.url(new_path)}", web, 0)
    first = list(itertools.islice(found, 3))
    assert site.num_requests[f"{new_path}-1"] == 0
    assert [item.url.rpartition("/")[2] for item in (*first, *found)] == expected
    assert site.num_requests[f"{new_path}-3"] == 1


@pytest.mark.parametrize("first_index", [0, 1, 3, 7, 12, 13])
def test_expand_feed_goes_on_at_first_index(first_index: int, web: Web, site: Site, new_path: str) -> None:
    expected = _paged(site, new_path, num_pages=4)
    assert _found(web, site.url(new_path), first_index) == expected[first_index:]


def test_expand_feed_five_thousand_entries_on_one_page(web: Web, site: Site, new_path: str) -> None:
    expected = _paged(site, new_path, num_pages=1, entries_per_page=5000)
    assert _found(web, site.url(new_path)) == expected


@pytest.mark.parametrize(
    ("following", "content_type"),
    [
        ('<atom:link rel="next" href="{0}"/>', "rss"),
        ('<atom:link rel="self" href="/"/><atom:link rel="prev-archive" href="{0}"/>', "rss"),
        ("{0}", "json"),
    ],
)
def test_expand_feed_next_page_of_every_format(
    following: str, content_type: str, web: Web, site: Site, new_path: str
) -> None:
    next_url = following.format(f"{new_path}-2")
    items = [[{"url": f"/page{n}"}] for n in (1, 2)]
    bodies = (
        [json.dumps({"items": items[0], "next_url": next_url}), json.dumps({"items": items[1]})]
        if content_type == "json"
        else [RSS.format(next_url + _item("<link>/page1</link>")), RSS.format(_item("<link>/page2</link>"))]
    )
    site.pages[f"{new_path}-2"] = ("x/x", bodies[1].encode())
    assert _entries(web, site, new_path, bodies[0]) == ["page1", "page2"]


def test_expand_feed_loop_of_pages_ends(web: Web, site: Site, new_path: str) -> None:
    for page, following in (("", "-b"), ("-b", "")):
        entries = f'<link rel="next" href="{new_path}{following}"/><entry><link href="/v{page}"/></entry>'
        site.pages[new_path + page] = ("text/xml", ATOM.format(entries).encode())
    assert _found(web, site.url(new_path)) == ["v", "v-b"]
    assert site.num_requests[new_path] == 2


def test_expand_feed_empty_page_that_names_a_next_one_ends(web: Web, site: Site, new_path: str) -> None:
    body = ATOM.format(f'<link rel="next" href="{new_path}"/>')
    assert _entries(web, site, new_path, body) == ["[not_media]"]
    assert site.num_requests[new_path] == 1


def test_expand_feed_has_at_most_so_many_pages(
    web: Web, site: Site, new_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crawl.source_feed._MAX_PAGES", 2)
    expected = _paged(site, new_path, num_pages=3)
    assert _found(web, site.url(new_path)) == [*expected[:6], "[too_large]"]
    _paged(site, new_path, num_pages=2)
    assert _found(web, site.url(new_path)) == expected[:6]


@pytest.mark.parametrize(
    ("next_url", "code"),
    [("/status/500", "network"), ("/status/404", "gone"), ("file:///etc/passwd", "blocked_by_policy")],
)
@pytest.mark.parametrize("first_index", [0, 5])
def test_expand_feed_page_that_fails_is_one_record_of_the_feed_after_the_entries(
    first_index: int, next_url: str, code: str, web: Web, site: Site, new_path: str
) -> None:
    body = ATOM.format(f'<link rel="next" href="{next_url}"/><entry><link href="/v"/></entry>')
    site.pages[new_path] = ("text/xml", body.encode())
    *items, failure = expand_feed(f"feed:{site.url(new_path)}", web, first_index)
    assert len(items) == (0 if first_index else 1)
    assert isinstance(failure, UnexpandedSource)
    assert (failure.code, failure.item) == (code, feed_seed(f"feed:{site.url(new_path)}"))
    assert failure.message and "\n" not in failure.message


# ---- what is no feed ----


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<!DOCTYPE html><html><title>words</title><p>none</html>",
        b"\x00\x01\x02",
        b"{",
        b"{}",
        b'{"items": 1}',
        b'{"items": []}',
        b'{"a":' * 50_000,
        RSS.format("").encode(),
        b"<rss",
        b"<rss><channel",
        b"<rss><channel><x " + b" ".join(b"a%d='>'" % n for n in range(30_000)) + b"/></channel></rss>",
        b"<rss><channel>" + b"<a xml:base='b/'>" * 20_000 + b"</a>" * 20_000 + b"</channel></rss>",
        b"<rss><channel><item><link>http://h/</link></item>" + b"<a " * 400_000,
        b"<rss><channel><a <" + b"<a xml:base='b/'>" * 10_000,
    ],
    ids=lambda body: repr(body[:24]),
)
def test_expand_feed_what_is_no_feed_is_not_media(body: bytes, web: Web, site: Site, new_path: str) -> None:
    assert _entries(web, site, new_path, body) == ["[not_media]"]


def test_expand_feed_larger_than_a_page_may_be_is_too_large(web: Web, site: Site, new_path: str) -> None:
    assert _entries(web, site, new_path, RSS.format(" " * _PAGE_MAX_BYTES)) == ["[too_large]"]


@pytest.mark.parametrize(
    "spec", ["feed:", "feed:h/a.xml", "feed:file:///etc/passwd", "feed:http://", "feed:http://u:p@h/"]
)
def test_expand_feed_malformed_address_raises_config_error(spec: str, web: Web) -> None:
    with pytest.raises(ConfigError) as raised:
        expand_feed(spec, web, 0)
    assert "\n" not in str(raised.value)


# ---- hostile ----


def _read(body: bytes) -> list[tuple[str, str]]:
    answer = Page(url="http://h/f", content_type="application/xml", body=body, opt_out=())
    return [(entry.name, entry.page_url) for entry in _parsed(answer).entries]


@pytest.mark.parametrize("codec", ["utf-8", "utf-16", "utf-7", "cp037"])
def test_parsed_entities_are_never_expanded(codec: str) -> None:
    bomb = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">\n' for n in range(1, 10))
    body = (
        f'<?xml version="1.0" encoding="{codec}"?>\n<!DOCTYPE rss [\n<!ENTITY l0 "lol">\n{bomb}'
        '<!ENTITY x SYSTEM "file:///etc/passwd">\n]>\n'
        "<rss><channel><item><title>&l9;&x;&l0;</title></item></channel></rss>"
    )
    try:
        ((name, _),) = _read(body.encode(codec))
    except NotMedia:
        return
    assert "lol" not in name
    assert "root" not in name


def test_parsed_blanks_before_the_root_cost_nothing() -> None:
    """feedparser alone takes minutes for a quarter of a megabyte of them."""
    body = b"\n" * 4_000_000 + RSS.format(_item("<title>a</title>")).encode()
    assert _read(body) == [("a", "")]


_PIECES = """<item> </item> <link> </link> <enclosure·url="a"/> <media:content· &x; <![CDATA[ ]]> <!-- <? > '
<!DOCTYPE·[ \x00 <link·rel="next"/> <entry> <content·type='xhtml'> <content·mode='base64'> http://["""


@settings(max_examples=150, deadline=None)
@given(
    parts=st.lists(
        st.one_of(
            st.sampled_from([piece.replace("·", " ") for piece in _PIECES.split()]), st.text(max_size=5)
        ),
        max_size=15,
    )
)
def test_parsed_any_text_is_a_page_or_not_media(parts: list[str]) -> None:
    for root in ("<rss version='2.0'><channel>", "<feed xmlns='http://www.w3.org/2005/Atom'>"):
        try:
            found = _read((root + "".join(parts)).encode("utf-8", "replace"))
        except NotMedia as err:
            assert "\n" not in str(err)
        else:
            assert all(isinstance(text, str) for entry in found for text in entry)
