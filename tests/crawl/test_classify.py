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
        ("unable to write data: [Errno 28] No space left on device", "disk_full"),
        ("[youtube] a: All player responses are invalid. Your IP is likely being blocked by Youtube", "bot_check"),
        ("[youtube] a: Login details are needed to download this content.", "private"),
        ("[youtube] a: Incomplete yt initial data received", "network"),
        ("[youtube:tab] a: This channel does not have a videos tab", "extractor_bug"),
        ("[TikTok] 1: Your IP address is blocked from accessing this post", "bot_check"),
        ("[TikTok] 1: Unable to solve JS challenge", "bot_check"),
        ("[TikTok] 1: Video not available, status code 10204", "gone"),
        ("[tiktok:user] a: This account does not have any videos posted", "not_media"),
        ("[BiliBili] 1: Request is blocked by server (412), please wait and try later.", "bot_check"),
        ("[BiliBili] 1: Request is rejected by server (352)", "bot_check"),
        ("[BiliBili] 1: Request is blocked by server (401), please wait and try later.", "rate_limited"),
        ("[BiliBili] 1: You have exceeded the rate limit. Try again later", "rate_limited"),
        ("[BiliBili] 1: This is a supporter-only video: x", "private"),
        ("[BiliBili] 1: You need to purchase the course to download this episode", "private"),
        ("[BiliBili] 1: This course episode is not yet available.", "not_media"),
        ("[BiliLive] 1: Streamer is not live", "not_media"),
        ("[vimeo] 1: This video is protected by a password, use the --video-password option", "private"),
        ("[vimeo] 1: Wrong video password", "private"),
        ("[vimeo] 1: This live event is scheduled for 2027-01-01", "not_media"),
        ("[vimeo] 1: This event video is unavailable", "gone"),
        ("[vimeo] 1: This request has been blocked due to its TLS fingerprint. Install a required", "bot_check"),
        ("[twitter] 1: You are not authorized to view this protected tweet", "private"),
        ("[twitter] 1: Video #2 is unavailable", "gone"),
        ("[twitter:broadcast] 1: Broadcast no longer exists", "gone"),
        ("[twitter:spaces] 1: Twitter Space not found", "gone"),
        ("[twitter:spaces] 1: Twitter Space not started yet", "not_media"),
        ("[twitter:spaces] 1: Twitter Space ended and replay is disabled", "gone"),
        ("[twitter] 1: Media #1 is not a video", "not_media"),
        ('[twitch:stream] a: Channel "a" not found', "gone"),
        ("[Instagram] a: There is no video in this post", "not_media"),
        ("[Instagram] a: This content is unreachable", "gone"),
        ("[Instagram] a: The webpage request was redirected to the login page. You have exceeded the rate-limit "
         "for accessing posts anonymously", "rate_limited"),
        ('[facebook] 1: The video is not available, Facebook said: "x"', "gone"),
        ("[Reddit] a: Private subreddit; an account that has been approved is required", "private"),
        ("[Reddit] a: Quarantined subreddit; an account that has opted in is required", "private"),
        ("[Reddit] a: Account authentication is required", "private"),
        ("[Reddit] a: Your IP address is unable to access the Reddit API", "bot_check"),
        ("[Reddit] a: This video is processing", "not_media"),
        ("[niconico] a: Service temporarily unavailable", "network"),
        ("[niconico] a: Sensitive content setting must be enabled", "age_restricted"),
        ("[archive.org] a: The requested video is not archived or indexed", "gone"),
        ("[generic] a: Access to this webpage has been blocked by decision of the Russian", "geo_blocked"),
        ("[generic] a: [Errno 101] Network is unreachable", "network"),
        ("[dailymotion] a: Unable to extract player config", "extractor_bug"),
        ("[generic] a: Unable to read https://h/captcha/private-video/rate-limit.mp4", "extractor_bug"),
        ("[twitter] 1: Requested tweet is unavailable", "gone"),
        ("[twitter] 1: NSFW tweet requires authentication", "age_restricted"),
        ("[youtube:tab] a: This playlist is private", "private"),
        ("[youtube] a: This video is available to this channel's members on level: x", "private"),
        ("[youtube] a: This live stream recording is not available.", "gone"),
        ("[vk] a: Video protected with password", "private"),
        ("[soundcloud] a: Unable to extract client id", "extractor_bug"),
    ],
)  # fmt: skip
def test_classify_message_of_yt_dlp_names_who_acts(message: str, code: str) -> None:
    assert classify(DownloadError(f"ERROR: {message}")).code == code


@pytest.mark.parametrize(
    ("cause", "code"),
    [
        (UnsupportedError("http://h/Private-video-404-timed-out"), "not_media"),
        (GeoRestrictedError("not here"), "geo_blocked"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk_full"),
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
