import pickle
import re

import pytest

from crawl.blocklist import Block, Blocklist, hashed
from crawl.items import refused_item, source_item
from infra.errors import BlockedByPolicy, ConfigError

SHA256 = "0123456789abcdef" * 4
VIDEO = "https://www.youtube.com/watch?v=0B4dYTMsgHA"


def blocklist(kind: str, *values: str) -> Blocklist:
    return Blocklist([Block(kind=kind, value=value, reason="asked to") for value in values])


def item_is_blocked(blocks: Blocklist, url: str) -> bool:
    try:
        blocks.check_item(source_item(url, kind="list", span_start_s=1, span_end_s=2))
    except BlockedByPolicy:
        return True
    return False


def video_is_blocked(blocks: Blocklist, **known: str) -> bool:
    nothing = {"webpage_url": "https://h.example/1", "video_key": "", "channel_id": "", "uploader": ""}
    try:
        blocks.check_video(**(nothing | known))
    except BlockedByPolicy:
        return True
    return False


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("url", " HTTP://H:80/a?utm_source=b ", "http://h/a"),
        ("url", "https://youtu.be/0B4dYTMsgHA?t=1", VIDEO),
        ("url", "file:///a b.mp4", "file:///a%20b.mp4"),
        ("channel", "UCabc", "UCabc"),
        (
            "channel",
            "https://WWW.youtube.com/channel/UCabc/videos",
            "https://www.youtube.com/channel/UCabc/videos",
        ),
        ("id", "A37AA246192B5B4F", "a37aa246192b5b4f"),
        ("id", "Twitter:1/1", "twitter:1"),
        ("id", "twitter:1/2", "twitter:1/2"),
        ("sha256", SHA256.upper(), SHA256),
    ],
)
def test_block_value_is_canonical_when_built(kind: str, value: str, expected: str) -> None:
    block = Block(kind=kind, value=value, reason="")
    assert block.value == expected
    assert Block(kind=kind, value=block.value, reason="") == block


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        *(("url", value) for value in ("", "h/a", "ftp://h/a", "https://u:hunter2@h/a")),
        *(
            ("channel", value)
            for value in ("", " ", "https://www.youtube.com/c/name", "https://www.youtube.com/user/x")
        ),
        *(
            ("channel", value)
            for value in ("https://www.youtube.com/", "https://h/a/b/c", "https://u:hunter2@h/a")
        ),
        *(("id", value) for value in ("", "0B4dYTMsgHA", "youtube:", "a37aa246192b5b4", "https://h/a")),
        *(("sha256", value) for value in ("", SHA256[:-1], "x" * 64)),
        ("host", "h"),
    ],
)
def test_block_that_nothing_could_match_raises_config_error(kind: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"a block of kind '{kind}' must have") as caught:
        Block(kind=kind, value=value, reason="")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("url", "https://youtu.be/0B4dYTMsgHA"),
        ("url", "https://www.youtube.com/shorts/0B4dYTMsgHA"),
        ("id", "youtube:0B4dYTMsgHA"),
        ("id", source_item(VIDEO, kind="web", span_start_s=1, span_end_s=2).source_id),
    ],
)
def test_check_item_names_kind_value_and_reason(kind: str, value: str) -> None:
    block = Block(kind=kind, value=value, reason="asked to\n by a lawyer")
    with pytest.raises(BlockedByPolicy) as caught:
        Blocklist([block]).check_item(source_item(VIDEO, kind="list", span_start_s=1, span_end_s=2))
    assert str(caught.value) == (
        f"a source must not be on the block list, {VIDEO} is: {kind} {block.value} (asked to by a lawyer)"
    )


@pytest.mark.parametrize(
    ("kind", "value", "blocked", "free"),
    [
        ("url", "http://h/a", ["http://h/a", "https://h/a", "http://H:80/a?fbclid=b"], ["http://h/b", "http://h/a?b=1"]),
        ("url", "file:///a", ["file:///a", "file://localhost/a"], ["file:///b"]),
        ("url", "https://vimeo.com/1", ["https://player.vimeo.com/video/1?h=0123456789"], ["https://vimeo.com/2"]),
        ("url", "https://x.com/a/status/1", ["https://twitter.com/i/status/1/video/2"], ["https://x.com/a/status/12"]),
        ("id", "twitter:1/2", ["https://x.com/a/status/1/video/2"], ["https://x.com/a/status/1"]),
        ("channel", "https://twitter.com/NASA", ["https://x.com/nasa/status/1"], ["https://x.com/nasa2/status/1"]),
        ("channel", "https://www.tiktok.com/@ada", ["https://m.tiktok.com/@Ada/video/1"], ["https://h/@ada/video/1"]),
        ("channel", "ada", [], ["https://www.tiktok.com/@ada/video/1", "https://h/ada"]),
    ],
)  # fmt: skip
def test_check_item_all_addresses_of_what_is_blocked_and_no_other(
    kind: str, value: str, blocked: list[str], free: list[str]
) -> None:
    blocks = blocklist(kind, value)
    assert [url for url in blocked + free if item_is_blocked(blocks, url)] == blocked


def test_check_item_source_id_is_of_one_span() -> None:
    whole = source_item(VIDEO, kind="web")
    with pytest.raises(BlockedByPolicy):
        blocklist("id", whole.source_id).check_item(whole)
    assert not item_is_blocked(blocklist("id", whole.source_id), VIDEO)


def test_check_item_address_that_is_malformed_passes() -> None:
    blocklist("url", VIDEO).check_item(refused_item("http://[::1/", kind="list"))
    blocklist("url", VIDEO).check_item(refused_item("", kind="list"))


@pytest.mark.parametrize(
    ("value", "known", "expected"),
    [
        ("UCabc", {"channel_id": "UCabc"}, True),
        ("UCabc", {"channel_id": "UCabC"}, False),
        ("ada", {"uploader": "ada"}, True),
        ("ada", {"uploader": "Ada"}, False),
        ("ada", {"uploader_id": "ada"}, True),
        ("https://www.youtube.com/channel/UCabc", {"webpage_url": VIDEO, "channel_id": "UCabc"}, True),
        ("https://m.youtube.com/channel/UCabc/shorts", {"webpage_url": VIDEO, "channel_id": "UCabc"}, True),
        ("https://www.youtube.com/channel/UCabc", {"channel_id": "UCabc"}, False),
        ("https://www.youtube.com/@Ada", {"webpage_url": VIDEO, "uploader_id": "@ada"}, True),
        ("https://www.youtube.com/%40Ad%C3%A4", {"webpage_url": VIDEO, "uploader_id": "@adä"}, True),
        (
            "https://space.bilibili.com/12/video",
            {"webpage_url": "https://b23.tv/av1", "channel_id": "12"},
            True,
        ),
        (
            "https://space.bilibili.com/12/video",
            {"webpage_url": "https://vimeo.com/1", "channel_id": "12"},
            False,
        ),
        (
            "https://vimeo.com/ada",
            {"webpage_url": "https://player.vimeo.com/video/1", "channel_id": "ada"},
            True,
        ),
        (
            "https://vimeo.com/ada",
            {"webpage_url": "https://player.vimeo.com/video/1", "channel_id": "eve"},
            False,
        ),
        ("ada", {}, False),
    ],
)
def test_check_video_channel_by_id_or_address(value: str, known: dict[str, str], expected: bool) -> None:
    assert video_is_blocked(blocklist("channel", value), **known) is expected


def test_check_video_page_and_key() -> None:
    assert video_is_blocked(blocklist("url", VIDEO), webpage_url="https://youtu.be/0B4dYTMsgHA")
    assert video_is_blocked(blocklist("url", VIDEO), video_key="youtube:0B4dYTMsgHA")
    assert video_is_blocked(blocklist("id", "generic:a"), video_key="Generic:a")
    assert not video_is_blocked(blocklist("id", "generic:a"), video_key="generic:b")
    assert not video_is_blocked(blocklist("url", VIDEO), webpage_url="", video_key="")


def test_check_bytes_any_case() -> None:
    with pytest.raises(BlockedByPolicy, match=rf"sha256 {SHA256} \(asked to\)"):
        blocklist("sha256", SHA256).check_bytes(SHA256.upper())
    blocklist("sha256", SHA256).check_bytes("0" * 64)


def test_blocklist_empty_lets_all_pass() -> None:
    blocks = Blocklist([])
    assert not item_is_blocked(blocks, VIDEO)
    assert not video_is_blocked(blocks, webpage_url=VIDEO, channel_id="a")
    blocks.check_bytes(SHA256)


def test_blocklist_pickles() -> None:
    block = Block(kind="url", value=VIDEO, reason="asked to")
    assert pickle.loads(pickle.dumps(block)) == block
    assert item_is_blocked(pickle.loads(pickle.dumps(Blocklist([block]))), VIDEO)


@pytest.mark.parametrize(
    ("kind", "value", "url"),
    [
        ("url", "https://youtu.be/0B4dYTMsgHA", "https://www.youtube.com/shorts/0B4dYTMsgHA"),
        ("url", "http://h/a", "https://H:443/a?utm_source=b"),
        ("id", "twitter:1", "https://x.com/a/status/1/video/2"),
        ("channel", "https://www.tiktok.com/@ada", "https://m.tiktok.com/@Ada/video/1"),
    ],
)
def test_hashed_block_stops_the_same_and_says_nothing(kind: str, value: str, url: str) -> None:
    blocks = hashed(Block(kind=kind, value=value, reason="asked to"))
    assert all(re.fullmatch("sha256:[0-9a-f]{64}", block.value) for block in blocks)
    assert item_is_blocked(Blocklist(blocks), url)
    assert not item_is_blocked(Blocklist(blocks), "https://h/other")
    stored = [Block(kind=block.kind, value=block.value, reason="") for block in blocks]
    assert item_is_blocked(Blocklist(stored), url)


def test_hashed_block_of_bytes_and_people() -> None:
    with pytest.raises(BlockedByPolicy):
        Blocklist(hashed(Block(kind="sha256", value=SHA256, reason=""))).check_bytes(SHA256.upper())
    people = Blocklist(hashed(Block(kind="channel", value="UCabc", reason="")))
    assert video_is_blocked(people, channel_id="UCabc")
    assert not video_is_blocked(people, channel_id="UCabd")
