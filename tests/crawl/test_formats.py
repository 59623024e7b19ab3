"""Which formats are chosen, and which videos are refused before anything is downloaded."""

from datetime import date
from typing import Any

import pytest

from crawl.formats import check_bytes, check_video, choose_streams, stream_of
from crawl.policy import FetchConfig, FormatChange, FormatPolicy
from infra.errors import AvgenError
from tests.crawl.web_client import failure

_POLICY = FormatPolicy()
_WHOLE = ((0.0, float("inf")),)


def known(
    format_id: str, width_px: int | None = 1280, height_px: int | None = 720, **more: Any
) -> dict[str, Any]:
    defaults = {"protocol": "https", "ext": "mp4", "fps": 30, "vcodec": "avc1.64001f", "acodec": "mp4a.40.2"}
    url = f"https://h/{format_id}"
    return {"format_id": format_id, "url": url, "width": width_px, "height": height_px, **defaults, **more}


def sound(format_id: str, abr: float = 128, **more: Any) -> dict[str, Any]:
    return known(format_id, None, None, vcodec="none", fps=None, abr=abr, **more)


def silent(format_id: str, width_px: int, height_px: int, **more: Any) -> dict[str, Any]:
    return known(format_id, width_px, height_px, acodec="none", **more)


def chosen(*formats: dict[str, Any], policy: FormatPolicy = _POLICY) -> list[str]:
    return [found["format_id"] for found in choose_streams(formats, policy)]


@pytest.mark.parametrize(
    ("formats", "expected"),
    [
        ([known("a", 640, 480), known("b", 1920, 1080), known("c", 3840, 2160)], ["b"]),
        ([known("portrait", 1080, 1920), known("small", 608, 1080)], ["portrait"]),
        ([known("wide", 2560, 1080), known("uhd", 3840, 2160)], ["wide"]),
        ([known("b25", fps=25), known("b50", fps=50)], ["b50"]),
        ([known("film", fps=23.976)], ["film"]),
        ([known("unknown", None, None, fps=None)], ["unknown"]),
        ([known("unknown", None, None), known("known", 854, 480)], ["known"]),
        ([silent("v", 1920, 1080), sound("a"), known("both", 1280, 720)], ["v", "a"]),
        ([silent("v", 1280, 720), sound("a"), known("both", 1280, 720)], ["both"]),
        ([sound("low", 48), sound("high", 160), silent("v", 1280, 720)], ["v", "high"]),
        ([known("hls", protocol="m3u8_native"), known("file")], ["file"]),
        ([known("file"), known("hls", protocol="m3u8_native")], ["file"]),
        ([known("av1", vcodec="av01.0.05M.08"), known("h264")], ["h264"]),
        ([known("drm", 1920, 1080, has_drm=True), known("free")], ["free"]),
        ([known("live", 1920, 1080, protocol="rtmp"), known("file")], ["file"]),
        ([silent("v", 1280, 720), sound("hls", protocol="m3u8_native"), known("both", 854, 480)], ["both"]),
    ],
)
def test_choose_streams_takes_the_best_that_is_allowed(
    formats: list[dict[str, Any]], expected: list[str]
) -> None:
    assert chosen(*formats) == expected


@pytest.mark.parametrize(
    ("formats", "words"),
    [
        ([known("a", 640, 360)], ("a (640x360", "below min_short_side_px 480")),
        ([known("a", 3840, 2160)], ("3840x2160", "above max_short_side_px 1080")),
        ([known("a", fps=15)], ("15 fps", "min_frame_rate_fps 24")),
        ([known("a", fps=23.9)], ("23.9 fps",)),
        ([silent("a", 1280, 720)], ("must have sound", "a (1280x720")),
    ],
)
def test_choose_streams_none_allowed_names_the_best_and_the_bound(
    formats: list[dict[str, Any]], words: tuple[str, ...]
) -> None:
    with failure("format_missing", *words):
        chosen(*formats)


def test_choose_streams_without_video_is_not_media() -> None:
    with failure("not_media", "mp4 by https"):
        chosen(sound("a"))


def test_choose_streams_sound_may_be_missing_when_the_policy_says_so() -> None:
    policy = FormatPolicy(require_audio=False)
    assert chosen(silent("v", 1280, 720), policy=policy) == ["v"]
    assert chosen(silent("v", 1280, 720), sound("a"), policy=policy) == ["v", "a"]


@pytest.mark.parametrize(
    ("info", "code", "words"),
    [
        ({"is_live": True}, "not_media", "live"),
        ({"live_status": "is_upcoming"}, "not_media", "has not begun"),
        ({"age_limit": 18}, "age_restricted", "18 and older"),
        ({"duration": 30_000}, "blocked_by_policy", "30000 s"),
        ({"duration": 2}, "blocked_by_policy", "2 s"),
        ({"upload_date": "20091231"}, "blocked_by_policy", "2009-12-31"),
        ({"upload_date": "20200101"}, "blocked_by_policy", "2020-01-01"),
    ],
)
def test_check_video_refuses_before_the_download(info: dict[str, Any], code: str, words: str) -> None:
    policy = FormatPolicy(min_duration_s=3, uploaded_after=date(2010, 1, 1), uploaded_before=date(2020, 1, 1))
    with failure(code, words, "https://h/v"):
        check_video({"webpage_url": "https://h/v"} | info, policy, _WHOLE)


def test_check_video_what_is_not_said_or_within_passes() -> None:
    check_video({}, _POLICY, _WHOLE)
    check_video(
        {"duration": 600, "age_limit": 0, "live_status": "was_live", "upload_date": "x"}, _POLICY, _WHOLE
    )
    # Of a long video a span is no longer than the span.
    check_video({"duration": 30_000}, _POLICY, ((10.0, 20.0),))


def test_check_bytes_adds_up_what_is_known() -> None:
    formats = [known("v", filesize=60), sound("a", filesize=50)]
    check_bytes(formats, max_bytes=110, subject="u")
    with failure("too_large", "110"):
        check_bytes(formats, max_bytes=109, subject="u")


def test_stream_of_carries_what_the_host_wants() -> None:
    stream = stream_of(
        known("v", http_headers={"Referer": "https://h/"}, downloader_options={"http_chunk_size": 10}),
        cookie="a=b",
    )
    assert stream.http_headers == {"Referer": "https://h/", "Cookie": "a=b"}
    assert (stream.chunk_bytes, stream.has_video, stream.has_audio) == (10, True, True)


def test_format_policy_crossed_bounds_are_refused() -> None:
    with pytest.raises(ValueError, match="must be at most max_short_side_px, got 1200 > 1080"):
        FormatChange(min_short_side_px=1200).over(_POLICY)


def test_next_retry_at_doubles_up_to_a_day_and_ends() -> None:
    from datetime import UTC, datetime

    now = datetime(2026, 1, 1, tzinfo=UTC)
    config = FetchConfig(first_backoff_s=30, max_backoff_s=100, max_attempts=5)
    pauses = [config.next_retry_at(failures, now=now, jitter=0.0) for failures in range(1, 6)]
    assert [pause and (pause - now).total_seconds() for pause in pauses] == [30, 60, 100, 100, None]
    jittered = config.next_retry_at(1, now=now, jitter=0.5)
    assert jittered and (jittered - now).total_seconds() == 37.5


def test_errors_of_the_policy_are_those_of_the_project() -> None:
    with pytest.raises(AvgenError):
        chosen(known("a", 1, 1))
