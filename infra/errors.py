"""Every error of the project, grouped by who must act on it.

    AvgenError
    |- ConfigError        the operator, before work starts
    |- MediaError         nobody: this input is bad, its record becomes `Failed`
    |  |- Undecodable, Truncated, MissingStream, TooShort, MediaTimeout, MediaTooLarge
    |  |- SourceUnavailable   this source cannot be had, and asking again will not help:
    |     |- Gone, Private, GeoBlocked, AgeRestricted, BotCheck, FormatMissing, TooLarge,
    |        NotMedia, BlockedByPolicy, ExtractorBug
    |- TransientError     time: retried with backoff in one layer, then `Failed`
    |  |- ChildKilled, StorageUnavailable, RateLimited, NetworkFailure, FetchTimeout
    |- IntegrityError     us, now: the run stops before the write

Anything else (KeyError, AssertionError, ...) is a bug and is never caught.

Messages say what must hold, what was found, of which subject, and what to do.
"""

from typing import ClassVar


class AvgenError(Exception):
    """Base of all errors raised on purpose; `code` is stable and is what tables store."""

    code: ClassVar[str] = "error"


class ConfigError(AvgenError):
    """A setting, argument or environment is wrong; raised before work starts."""

    code = "config"


class MediaError(AvgenError):
    """One input is bad. It costs that input and nothing else."""

    code = "media"


class Undecodable(MediaError):
    """The container or a stream cannot be decoded."""

    code = "undecodable"


class Truncated(MediaError):
    """Decoding ended before the length that the header promises."""

    code = "truncated"


class MissingStream(MediaError):
    """There is no video stream."""

    code = "missing_stream"


class TooShort(MediaError):
    """Fewer frames or samples than a measurement needs."""

    code = "too_short"


class MediaTimeout(MediaError):
    """The media child made no progress within its time limit and was killed."""

    code = "media_timeout"


class MediaTooLarge(MediaError):
    """Its picture, or what must be held of it, is more than a media child may take."""

    code = "media_too_large"


class SourceUnavailable(MediaError):
    """The source cannot be fetched, and trying again will not help."""

    code = "source_unavailable"


class Gone(SourceUnavailable):
    """The server says that there is nothing at this address (404, 410, removed)."""

    code = "gone"


class Private(SourceUnavailable):
    """The uploader or server does not let us in (401, 403, private, members only)."""

    code = "private"


class GeoBlocked(SourceUnavailable):
    """Not available from this country."""

    code = "geo_blocked"


class AgeRestricted(SourceUnavailable):
    """Needs a signed-in adult."""

    code = "age_restricted"


class BotCheck(SourceUnavailable):
    """The host asks us to prove that we are not a bot."""

    code = "bot_check"


class FormatMissing(SourceUnavailable):
    """No format satisfies the fetch policy."""

    code = "format_missing"


class TooLarge(SourceUnavailable):
    """Larger than the fetch policy allows."""

    code = "too_large"


class NotMedia(SourceUnavailable):
    """The address answers, but holds no video."""

    code = "not_media"


class BlockedByPolicy(SourceUnavailable):
    """Our own rules (robots, scheme, block list) forbid this source."""

    code = "blocked_by_policy"


class ExtractorBug(SourceUnavailable):
    """yt-dlp failed in a way that it does not explain."""

    code = "extractor_bug"


class TransientError(AvgenError):
    """The outside world may behave better later."""

    code = "transient"


class ChildKilled(TransientError):
    """A media child was killed from outside (an operator, the kernel short of memory)."""

    code = "child_killed"


class StorageUnavailable(TransientError):
    """The object store did not answer."""

    code = "storage_unavailable"


class RateLimited(TransientError):
    """The host asks us to slow down (429)."""

    code = "rate_limited"


class NetworkFailure(TransientError):
    """Connection refused, reset, name not resolved, or a 5xx answer."""

    code = "network"


class FetchTimeout(TransientError):
    """The host did not answer in time."""

    code = "timeout"


class IntegrityError(AvgenError):
    """Our own data contradicts itself (hash, schema, duplicate key, non-finite score)."""

    code = "integrity"
