import pytest
from yt_dlp.extractor import gen_extractor_classes

from crawl.source_search import Search, hashtag_of, search_of
from crawl.sources import seed_item
from infra.errors import ConfigError

RESULTS = "https://www.youtube.com/results?search_query={}&sp=EgIQAfABAQ%3D%3D"


@pytest.mark.parametrize(
    ("spec", "query", "num_entries"),
    [
        ("search:rain", "rain", 50),
        ("SEARCH:200: rain & wind ", "rain%20%26%20wind", 200),
        ("search:youtube:7:a: b", "a%3A%20b", 7),
        ("search:youtube:vimeo:rain", "vimeo%3Arain", 50),
        ("search:how to: rain", "how%20to%3A%20rain", 50),
        ("search:2024", "2024", 50),
        ("search:{0}", "%7B0%7D", 50),
    ],
)
def test_search_of_number_and_query(spec: str, query: str, num_entries: int) -> None:
    assert search_of(spec) == Search(RESULTS.format(query), num_entries)


def test_search_of_another_site() -> None:
    assert search_of("search:Niconico:9:雨") == Search("https://www.nicovideo.jp/search/%E9%9B%A8", 9)


@pytest.mark.parametrize(
    ("spec", "page", "num_entries"),
    [
        ("hashtag:rain", "rain", 50),
        ("hashtag:20:#Rain", "Rain", 20),
        ("hashtag:2024", "2024", 50),
        ("hashtag:雨", "%E9%9B%A8", 50),
    ],
)
def test_hashtag_of_tag_and_number(spec: str, page: str, num_entries: int) -> None:
    assert hashtag_of(spec) == Search(f"https://www.youtube.com/hashtag/{page}", num_entries)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("search:", "must have a query"),
        ("search: ", "must have a query"),
        ("search:20:", "must have a query"),
        ("search:youtube:", "must have a query"),
        ("search:0:rain", "must be 1 to 10000, got 0"),
        ("search:10001:rain", "must be 1 to 10000, got 10001"),
        ("search:vimeo:rain", "one of youtube, niconico, got 'vimeo'; search:youtube:vimeo:rain finds"),
        ("hashtag:", "one word"),
        ("hashtag:rain on roofs", "one word"),
        ("hashtag:tiktok:rain", "one word"),
        ("hashtag:a/../b", "one word"),
    ],
)
def test_seed_item_malformed_search_raises_config_error(spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        seed_item(spec)


@pytest.mark.parametrize("spec", ["search:rain & wind", "search:niconico:9:rain", "hashtag:rain"])
def test_search_page_has_a_working_extractor_of_its_own(spec: str) -> None:
    seed = seed_item(spec)
    assert seed is not None
    found = next(extractor for extractor in gen_extractor_classes() if extractor.suitable(seed.url))
    assert found.working()
    assert found.IE_NAME != "generic"


def test_seed_item_is_the_page_with_the_hits_whatever_their_number() -> None:
    seed = seed_item("search:rain")
    assert seed is not None
    assert (seed.url, seed.kind) == (RESULTS.format("rain"), "search")
    assert seed_item("search:200:rain") == seed
