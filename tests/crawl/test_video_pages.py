import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawl.items import canonical_url, video_key

_YOUTUBE = ("youtube:0B4dYTMsgHA", "https://www.youtube.com/watch?v=0B4dYTMsgHA")
_TIKTOK = ("tiktok:6748451240264420610", "https://www.tiktok.com/@leenabhushan/video/6748451240264420610")
_TIKTOK_ANY = ("tiktok:6748451240264420610", "https://www.tiktok.com/@_/video/6748451240264420610")
_VIMEO = ("vimeo:56015672", "https://vimeo.com/56015672")
_VIMEO_SECRET = ("vimeo:56015672", "https://vimeo.com/56015672/0123456789")
_VIMEO_PLAYER = ("vimeo:56015672", "https://player.vimeo.com/video/56015672")
_HASH = "?h=0123456789"
_VIMEO_SHOWCASE = "https://vimeo.com/showcase/12/video/56015672"
_VIMEO_REVIEW = "https://vimeo.com/u/review/56015672/0123456789"
_DAILYMOTION = ("dailymotion:x5kesuj", "https://www.dailymotion.com/video/x5kesuj")
_TWITTER = ("twitter:1600649710662213632", "https://x.com/ctvjlaidlaw/status/1600649710662213632")
_TWITTER_ANY = ("twitter:1600649710662213632", "https://x.com/i/status/1600649710662213632")
_BILIBILI = ("bilibili:BV17x411w7KC", "https://www.bilibili.com/video/BV17x411w7KC")
_BILIBILI_SECOND = ("bilibili:BV17x411w7KC/2", "https://www.bilibili.com/video/BV17x411w7KC?p=2")
_INSTAGRAM = ("instagram:Chunk8-jurw", "https://www.instagram.com/p/Chunk8-jurw/")


_INSTAGRAM_SECOND = ("instagram:Chunk8-jurw/2", "https://www.instagram.com/p/Chunk8-jurw/?img_index=2")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://www.youtube.com/watch?v=0B4dYTMsgHA&list=PL1&index=3&t=30s&pp=x", _YOUTUBE),
        ("https://www.youtube.com/watch?v=0B4dYTMsgHA&v=YE7VzlLtp-4", _YOUTUBE),
        ("https://www.youtube.com/watch/?feature=share&v=%30B4dYTMsgHA#t=10", _YOUTUBE),
        ("http://m.youtube.com:80/watch?v=0B4dYTMsgHA", _YOUTUBE),
        ("https://music.youtube.com/watch?v=0B4dYTMsgHA&si=x", _YOUTUBE),
        ("https://youtube.com/shorts/0B4dYTMsgHA?feature=share", _YOUTUBE),
        ("https://www.youtube.com/embed/0B4dYTMsgHA?start=3", _YOUTUBE),
        ("https://www.youtube.com/live/0B4dYTMsgHA/", _YOUTUBE),
        ("https://WWW.YouTube-NoCookie.com./embed/0B4dYTMsgHA?autoplay=1", _YOUTUBE),
        ("https://youtu.be/0B4dYTMsgHA?si=x&list=PL1", _YOUTUBE),
        ("https://www.tiktok.com/@leenabhushan/video/6748451240264420610?is_from_webapp=1&_r=1", _TIKTOK),
        ("https://m.tiktok.com/%40LeenaBhushan/video/6748451240264420610/", _TIKTOK),
        ("https://www.tiktok.com/@/video/6748451240264420610", _TIKTOK_ANY),
        ("https://www.tiktok.com/embed/v2/6748451240264420610?lang=en", _TIKTOK_ANY),
        ("https://www.tiktok.com/player/v1/6748451240264420610", _TIKTOK_ANY),
        ("https://m.tiktok.com/v/6748451240264420610.html?u_code=1", _TIKTOK_ANY),
        ("https://www.vimeo.com/56015672?share=copy#t=1", _VIMEO),
        ("https://vimeo.com/channels/staffpicks/56015672", _VIMEO),
        ("https://vimeo.com/groups/a/videos/56015672", _VIMEO),
        ("https://vimeo.com/56015672/0123456789?fl=pl", _VIMEO_SECRET),
        ("https://vimeo.com/56015672?h=0123456789", _VIMEO_SECRET),
        ("https://player.vimeo.com/video/56015672?title=0&byline=0", _VIMEO_PLAYER),
        ("https://player.vimeo.com/video/56015672?dnt=1&h=0123456789", (_VIMEO[0], _VIMEO_PLAYER[1] + _HASH)),
        (_VIMEO_SHOWCASE, (_VIMEO[0], _VIMEO_SHOWCASE)),
        (_VIMEO_REVIEW, (_VIMEO[0], _VIMEO_REVIEW)),
        ("https://www.dailymotion.com/video/x5kesuj_office-christmas_news?start=3", _DAILYMOTION),
        ("https://www.dailymotion.com/embed/video/x5kesuj", _DAILYMOTION),
        ("https://geo.dailymotion.com/player/x86gw.html?video=x5kesuj&mute=true", _DAILYMOTION),
        ("https://dai.ly/x5kesuj", _DAILYMOTION),
        ("https://twitter.com/CTVJLaidlaw/status/1600649710662213632?s=20&ref_src=twsrc%5Etfw", _TWITTER),
        ("https://mobile.twitter.com/CTVJLaidlaw/status/1600649710662213632", _TWITTER),
        ("https://x.com/i/web/status/1600649710662213632", _TWITTER_ANY),
        ("https://twitter.com/statuses/1600649710662213632", _TWITTER_ANY),
        ("https://twitter.com/I/status/1600649710662213632/video/1", (_TWITTER[0], _TWITTER_ANY[1] + "/video/1")),
        ("https://x.com/i/status/1600649710662213632/photo/2", (_TWITTER[0] + "/2", _TWITTER_ANY[1] + "/video/2")),
        ("https://www.bilibili.com/video/BV17x411w7KC/?spm_id_from=333&vd_source=1", _BILIBILI),
        ("https://www.bilibili.com/video/av170001", _BILIBILI),
        ("https://m.bilibili.com/video/AV170001", _BILIBILI),
        ("https://b23.tv/bv17x411w7KC", _BILIBILI),
        ("https://player.bilibili.com/player.html?isOutside=true&aid=170001&bvid=BV17x411w7KC&cid=1", _BILIBILI),
        ("https://player.bilibili.com/player.html?aid=170001&page=2", _BILIBILI_SECOND),
        ("https://www.bilibili.com/video/BV17x411w7KC?p=1", (_BILIBILI[0], _BILIBILI[1] + "?p=1")),
        ("https://instagram.com/reel/Chunk8-jurw/?igshid=x&utm_source=ig", _INSTAGRAM),
        ("https://www.instagram.com/reels/Chunk8-jurw/", _INSTAGRAM),
        ("https://www.instagram.com/nasa/p/Chunk8-jurw/embed/captioned/", _INSTAGRAM),
        ("https://www.instagram.com/tv/Chunk8-jurw", _INSTAGRAM),
        ("https://instagram.com/p/Chunk8-jurw?img_index=2", _INSTAGRAM_SECOND),
    ],
)  # fmt: skip
def test_video_key_and_canonical_url_all_addresses_of_a_video_agree(
    url: str, expected: tuple[str, str]
) -> None:
    assert (video_key(url), canonical_url(url)) == expected
    assert (video_key(expected[1]), canonical_url(expected[1])) == expected


# Pairs of yt-dlp's test suite (2026.10.26) and of the description of the ids.
@pytest.mark.parametrize(
    ("av_number", "bvid"),
    [
        (170001, "BV17x411w7KC"),
        (1074402, "BV11x411K7CN"),
        (8903802, "BV13x41117TL"),
        (111298867365120, "BV1L9Uoa9EUx"),
    ],
)
def test_video_key_both_ids_of_bilibili_are_one(av_number: int, bvid: str) -> None:
    assert video_key(f"https://www.bilibili.com/video/av{av_number}") == f"bilibili:{bvid}"


NEAR_MISSES = [
    # Other videos, whose addresses differ little.
    ["https://www.youtube.com/watch?v=0B4dYTMsgHA", "https://www.youtube.com/watch?v=0B4dYTMsgHa"],
    ["https://www.youtube.com/watch?v=0B4dYTMsgHA", "https://www.youtube.com/watch?v=0B4dYTMsgHAA"],
    ["https://x.com/a/status/1", "https://x.com/a/status/1/video/2", "https://x.com/a/status/1/video/3"],
    ["https://x.com/a/status/1", "https://x.com/a/status/10"],
    [
        "https://www.bilibili.com/video/av1",
        "https://www.bilibili.com/video/av1?p=2",
        "https://www.bilibili.com/video/av2",
    ],
    ["https://www.instagram.com/p/Chunk8-jurw/", "https://www.instagram.com/p/Chunk8-jurw/?img_index=2"],
    ["https://www.dailymotion.com/video/x5kesuj", "https://www.dailymotion.com/video/x5kesuJ"],
    [
        "https://www.tiktok.com/@a/video/1",
        "https://www.tiktok.com/@a/video/2",
        "https://www.tiktok.com/@a/photo/1",
    ],
    [
        "https://vimeo.com/1",
        "https://vimeo.com/2",
        "https://vimeo.com/ondemand/1",
        "https://vimeo.com/event/1",
    ],
    # Of 11 characters, and no video.
    [
        "https://www.youtube.com/embed/videoseries?list=PL1",
        "https://www.youtube.com/embed/videoseries?list=PL2",
    ],
    [
        "https://www.youtube.com/embed/live_stream?channel=UC1",
        "https://www.youtube.com/embed/live_stream?channel=UC2",
    ],
    ["https://www.youtube.com/somechannel", "https://youtu.be/somechannel"],
    [
        "https://www.youtube.com/watch?v=0B4dYTMsgHA",
        "https://www.youtube.com.evil.example/watch?v=0B4dYTMsgHA",
    ],
    ["https://www.youtube.com/watch?v=0B4dYTMsgHA", "https://www.youtube.com:8443/watch?v=0B4dYTMsgHA"],
    ["https://www.youtube.com/watch?v=0B4dYTMsgHA", "https://www.youtube.com/Watch?v=0B4dYTMsgHA"],
    ["https://www.youtube.com/source/0B4dYTMsgHA/shorts", "https://www.youtube.com/shorts/0B4dYTMsgHA"],
    ["https://www.instagram.com/reels/audio/1/", "https://www.instagram.com/reels/audio/2/"],
    ["https://www.instagram.com/share/reel/abcdef", "https://www.instagram.com/reel/abcdef"],
    ["https://www.instagram.com/stories/a/1/", "https://www.instagram.com/stories/a/2/"],
    ["https://vm.tiktok.com/ZTR45GpSF/", "https://vm.tiktok.com/ZTR45GpSG/"],
    ["https://b23.tv/abcdefg", "https://b23.tv/abcdefh"],
    ["https://www.dailymotion.com/playlist/xv4bw", "https://www.dailymotion.com/video/xv4bw"],
    ["https://www.twitch.tv/videos/1", "https://www.twitch.tv/videos/2"],
    ["https://x.com/a/status/1", "https://x.com/i/broadcasts/1", "https://x.com/i/spaces/1"],
]


@pytest.mark.parametrize(
    ("one", "other"), [pair for urls in NEAR_MISSES for pair in itertools.combinations(urls, 2)]
)
def test_canonical_url_and_video_key_near_misses_stay_apart(one: str, other: str) -> None:
    assert canonical_url(one) != canonical_url(other)
    assert video_key(one) != video_key(other) or video_key(one) == ""


_PIECES = [
    *(
        "watch",
        "shorts",
        "embed",
        "live",
        "v",
        "video",
        "videos",
        "@a",
        "%40B",
        "status",
        "i",
        "web",
        "p",
        "reel",
    ),
    *(
        "tv",
        "channels",
        "review",
        "showcase",
        "player.html",
        "2",
        ".",
        "..",
        "%2e",
        "%c3%BC",
        "videoseries",
        "share",
    ),
    *(
        "audio",
        "0B4dYTMsgHA",
        "6748451240264420610",
        "x5kesuj_a",
        "av170001",
        "BV17x411w7KC",
        "0123456789",
        "",
    ),
]
_PARAMETERS = [
    *(
        "v=0B4dYTMsgHA",
        "v=x",
        "list=PL1",
        "si=1",
        "p=2",
        "p=0",
        "img_index=3",
        "h=0123456789",
        "h=x",
        "video=x5",
    ),
    *("bvid=BV1", "aid=170001", "utm_source=a", "ref_src=b", "a", "%61=%2f", "t=1", ""),
]
_KNOWN_HOSTS = [
    *(
        "www.youtube.com",
        "youtu.be",
        "WWW.TikTok.com",
        "vimeo.com",
        "player.vimeo.com.",
        "www.dailymotion.com",
    ),
    *("dai.ly", "instagram.com", "geo.dailymotion.com", "twitter.com", "x.com", "www.bilibili.com", "b23.tv"),
    "player.bilibili.com",
]


@given(
    host=st.sampled_from(_KNOWN_HOSTS),
    path=st.lists(st.sampled_from(_PIECES), max_size=5),
    query=st.lists(st.sampled_from(_PARAMETERS), max_size=4),
)
def test_canonical_url_of_known_sites_is_idempotent_and_keeps_the_video_key(
    host: str, path: list[str], query: list[str]
) -> None:
    url = f"https://{host}/{'/'.join(path)}?{'&'.join(query)}"
    once = canonical_url(url)
    assert canonical_url(once) == once
    assert video_key(once) == video_key(url)
