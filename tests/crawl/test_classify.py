import errno

import pytest
from yt_dlp.utils import DownloadError, ExtractorError, GeoRestrictedError, UnsupportedError

from crawl.classify import classify, clean_message
from infra.errors import TooLarge


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("[youtube] 0B4dYTMsgHA: Sign in to confirm you’re not a bot. Use --cookies", "bot_check"),
        ("[youtube] 0B4dYTMsgHA: Sign in to confirm you're not a bot.", "bot_check"),
        ("[youtube] 0B4dYTMsgHA: Sign in to confirm your age. It may be inappropriate", "age_restricted"),
        ("[youtube] 0B4dYTMsgHA: The uploader has not made it available in your country", "geo_blocked"),
        ("[tv] 1: This video is not available from your location", "geo_blocked"),
        ("[youtube] 0B4dYTMsgHA: Private video. Sign in if you've been granted access", "private"),
        ("[youtube] 0B4dYTMsgHA: Join this channel to get access to members-only content", "private"),
        ("[youtube] 0B4dYTMsgHA: Video unavailable. This video has been removed by the uploader", "gone"),
        ("[youtube] 0B4dYTMsgHA: Video unavailable", "gone"),
        ("[youtube] x: Video unavailable. This content isn't available, try again later. The current session "
         "has been rate-limited by YouTube for up to an hour", "rate_limited"),
        ("[youtube] 0B4dYTMsgHA: Requested format is not available. Use --list-formats", "format_missing"),
        ("[generic] a: No video formats found!", "not_media"),
        ("Unsupported URL: http://h/private video", "not_media"),
        ("[tiktok] 1: Unable to extract universal data", "extractor_bug"),
        ("[generic] a: HTTP Error 403: Forbidden", "private"),
        ("[generic] a: HTTP Error 418: I'm a teapot", "extractor_bug"),
        ("[generic] a: HTTP Error 451: Unavailable For Legal Reasons", "geo_blocked"),
        ("[generic] a: HTTP Error 503: Service Unavailable", "network"),
        ("[download] Got error: HTTP Error 429: Too Many Requests", "rate_limited"),
        ("[download] Got error: Read timed out.", "timeout"),
        ("1000 bytes read, 99000 more expected. Giving up after 1 retries", "network"),
        ("unable to write data: [Errno 28] No space left on device", "storage_unavailable"),
    ],
)  # fmt: skip
def test_classify_message_of_yt_dlp_names_who_acts(message: str, code: str) -> None:
    assert classify(DownloadError(f"ERROR: {message}")).code == code


@pytest.mark.parametrize(
    ("cause", "code"),
    [
        (UnsupportedError("http://h/Private-video-404-timed-out"), "not_media"),
        (GeoRestrictedError("not here"), "geo_blocked"),
        (OSError(errno.ENOSPC, "No space left on device"), "storage_unavailable"),
        (ConnectionRefusedError("Connection refused"), "network"),
        (ConnectionResetError("reset"), "network"),
        (TimeoutError(), "timeout"),
        (MemoryError(), "media_too_large"),
        (ExtractorError("went wrong", cause=KeyError("x")), "extractor_bug"),
        (TooLarge("more than 3 bytes"), "too_large"),
    ],
)
def test_classify_cause_inside_download_error_decides(cause: Exception, code: str) -> None:
    assert classify(DownloadError("ERROR: failed", (type(cause), cause, None))).code == code
    assert classify(cause).code == code


def test_classify_words_of_the_address_do_not_decide() -> None:
    cause = ExtractorError("Unable to extract title", video_id="Private_video_has_been_removed", ie="generic")
    assert classify(DownloadError(f"ERROR: {cause}", (type(cause), cause, None))).code == "extractor_bug"


def test_classify_error_of_ours_is_returned_itself() -> None:
    ours = TooLarge("more than 3 bytes")
    wrapped = ExtractorError("failed", cause=ours)
    assert classify(wrapped) is ours


def test_clean_message_codes_prefix_and_boilerplate_are_gone() -> None:
    text = (
        "\x1b[0;31mERROR:\x1b[0m [tiktok] 1: Unable to extract\n data; please report this issue on  "
        "https://github.com/yt-dlp/yt-dlp/issues?q= , filling out the appropriate issue template."
    )
    assert clean_message(text) == "[tiktok] 1: Unable to extract data"


def test_clean_message_of_an_extractor_bug_keeps_the_cause_only() -> None:
    assert clean_message(str(ExtractorError("broken", ie="x", video_id="1"))) == "[x] 1: broken"


def test_clean_message_empty_says_so() -> None:
    assert clean_message("ERROR: ") == "no message"
