"""Every error of the project, grouped by who must act on it.

    AvgenError
    |- ConfigError        the operator, before work starts
    |- MediaError         nobody: this input is bad, its record becomes `Failed`
    |  |- Undecodable, Truncated, MissingStream, TooShort, MediaTimeout, MediaTooLarge
    |  |- SourceUnavailable   this source cannot be had, and asking again will not help:
    |     |- Gone, Private, GeoBlocked, AgeRestricted, FormatMissing, TooLarge,
    |        NotMedia, BlockedByPolicy, ExtractorBug
    |- TransientError     time: tried again later, with backoff in one layer
    |  |- ChildKilled, StorageUnavailable, DiskFull, RateLimited, BotCheck, NetworkFailure, FetchTimeout
    |  |- Deferred           not tried at all: a host is paused, the disk is almost full
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


class DiskFull(TransientError):
    """The disk of the root or of the scratch folder has no room."""

    code = "disk_full"


class Deferred(TransientError):
    """Nothing was tried: a host is paused or the disk is almost full; `until_s` says for how long at least."""

    code = "deferred"

    def __init__(self, message: str, until_s: float = 0.0) -> None:
        super().__init__(message, until_s)
        self.until_s = until_s
        """Unix time."""

    def __str__(self) -> str:
        return str(self.args[0])


class RateLimited(TransientError):
    """The host asks us to slow down (429)."""

    code = "rate_limited"


class BotCheck(TransientError):
    """The host asks us to prove that we are not a bot; all of it is left alone for a while."""

    code = "bot_check"


class NetworkFailure(TransientError):
    """Connection refused, reset, name not resolved, or a 5xx answer."""

    code = "network"


class FetchTimeout(TransientError):
    """The host did not answer in time."""

    code = "timeout"


class IntegrityError(AvgenError):
    """Our own data contradicts itself (hash, schema, duplicate key, non-finite score)."""

    code = "integrity"


def transient_codes() -> frozenset[str]:
    """The codes of everything that is worth another attempt later."""
    found: set[str] = set()
    pending: list[type[AvgenError]] = [TransientError]
    while pending:
        error_class = pending.pop()
        found.add(error_class.code)
        pending += error_class.__subclasses__()
    return frozenset(found)
