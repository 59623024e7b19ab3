"""What may be fetched, how the web is asked, and when to stop: the settings of the crawl."""

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from fractions import Fraction
from importlib.metadata import version
from typing import Annotated

from pydantic import DirectoryPath, Field, FilePath, model_validator

from infra.config import Config

_NO_LIMIT = 10**15
_MAX_DOUBLINGS = 32


class FormatPolicy(Config):
    """Which videos are fetched, and in which format. What a site does not say is no reason to refuse."""

    min_short_side_px: Annotated[int, Field(ge=0)] = 480
    """Formats whose shorter side is smaller are not fetched."""
    max_short_side_px: Annotated[int, Field(gt=0)] = 1080
    """The best format that is not larger than this is fetched."""
    min_frame_rate_fps: Annotated[Fraction, Field(ge=0)] = Fraction(24)
    """Formats with fewer frames are not fetched; 24000/1001 counts as 24."""
    require_audio: bool = True
    """Whether a video without sound is `format_missing`."""
    min_duration_s: Annotated[float, Field(ge=0)] = 0.0
    """A shorter video is `blocked_by_policy`."""
    max_duration_s: Annotated[float, Field(gt=0)] = 6 * 3600.0
    """A longer video is `blocked_by_policy`, unless only a span of it is wanted; assumption, not measured."""
    uploaded_after: date = date(1, 1, 1)
    """A video of an earlier date is `blocked_by_policy`."""
    uploaded_before: date = date(9999, 12, 31)
    """A video of this or a later date is `blocked_by_policy`."""

    @model_validator(mode="after")
    def _bounds_in_order(self) -> "FormatPolicy":
        for low, high in (("min_short_side_px", "max_short_side_px"), ("min_duration_s", "max_duration_s")):
            if getattr(self, low) > getattr(self, high):
                found = f"{getattr(self, low)} > {getattr(self, high)}"
                raise ValueError(f"{low} must be at most {high}, got {found}")
        return self


class FormatChange(Config):
    """A change to the format policy; what is not named stays as it is."""

    min_short_side_px: int | None = None
    """See `FormatPolicy`, as for all that follow."""
    max_short_side_px: int | None = None
    """The best format that is not larger than this is fetched."""
    min_frame_rate_fps: Fraction | None = None
    """Formats with fewer frames are not fetched."""
    require_audio: bool | None = None
    """Whether a video without sound is `format_missing`."""
    min_duration_s: float | None = None
    """A shorter video is `blocked_by_policy`."""
    max_duration_s: float | None = None
    """A longer video is `blocked_by_policy`."""
    uploaded_after: date | None = None
    """A video of an earlier date is `blocked_by_policy`."""
    uploaded_before: date | None = None
    """A video of this or a later date is `blocked_by_policy`."""

    def over(self, default: FormatPolicy) -> FormatPolicy:
        """The policy with these changes."""
        return FormatPolicy.model_validate(default.model_dump() | self.model_dump(exclude_none=True))


class HostLimit(Config):
    """How fast one host may be asked by all workers together."""

    requests_per_s: Annotated[float, Field(gt=0)] = 2.0
    """Requests that may begin in a second."""
    connections: Annotated[int, Field(gt=0)] = 4
    """Requests that may be open at once."""


# A guest may watch some 300 videos an hour before YouTube asks for a sign-in, and each takes a few requests.
# Source: yt-dlp wiki, "Extractors", on rate limits; the media hosts' figures are assumptions, not measured.
_KNOWN_HOSTS: Mapping[str, HostLimit] = {
    "youtube.com": HostLimit(requests_per_s=0.5, connections=2),
    "googlevideo.com": HostLimit(requests_per_s=10.0, connections=8),
    "tiktok.com": HostLimit(requests_per_s=0.5, connections=2),
}


class FetchConfig(Config):
    """The settings of the crawl; a recipe may override every field."""

    formats: FormatChange = FormatChange()
    """Changes to the format policies of all source kinds."""
    kinds: Mapping[str, FormatChange] = Field(default_factory=dict)
    """Changes to the format policy of one source kind, by its name; they win over `formats`."""
    sections: bool = True
    """Fetch only the wanted span of a video where the protocol allows it."""
    section_gap_s: Annotated[float, Field(ge=0)] = 10.0
    """Wanted spans of one video that lie no further apart than this are fetched as one section."""

    operator: str = ""
    """Who crawls, as hosts shall read it in the user agent: a name with a mail or web address."""
    user_agent: str = ""
    """Replaces the whole user agent; empty: `avgen/VERSION (operator)`."""
    obey_robots: bool = True
    """Heed robots.txt and X-Robots-Tag. What they say is stored as opt-out signals in any case."""
    allow_private: bool = False
    """Also fetch from loopback, private and link-local addresses."""
    requests_per_s: Annotated[float, Field(gt=0)] = HostLimit().requests_per_s
    """Requests to one host that may begin in a second, by all workers together."""
    connections_per_host: Annotated[int, Field(gt=0)] = HostLimit().connections
    """Requests to one host that may be open at once, by all workers together."""
    hosts: Mapping[str, HostLimit] = Field(default_factory=dict)
    """Limits of one host and its subdomains together, by its name; YouTube and TikTok have built-in ones."""
    connections: Annotated[int, Field(gt=0, le=256)] = 32
    """Fetches that one worker has open at once, over all hosts."""
    extractors: Annotated[int, Field(gt=0, le=32)] = 2
    """yt-dlp processes of one worker."""
    cutters: Annotated[int, Field(gt=0, le=32)] = 4
    """Processes of one worker that take sections out of videos and join picture with sound, at most."""

    max_bytes: int = Field(default=8 * 1024**3, gt=0)
    """A source larger than this is `too_large`; assumption, not measured: two hours of 1080p."""
    timeout_s: float = Field(default=1800.0, gt=0)
    """A fetch that has not finished after this time is ended and is a `timeout`."""
    stall_timeout_s: float = Field(default=30.0, gt=0)
    """A connection that says nothing for this long is a `timeout`."""
    list_timeout_s: float = Field(default=120.0, gt=0)
    """A page, channel or feed that yields no further entry for this long is a `timeout`."""
    num_reconnects: int = Field(default=3, ge=0)
    """Reconnections within one fetch, which resume a download."""

    max_attempts: Annotated[int, Field(ge=1)] = 8
    """A source that failed this often for a passing reason is not tried again by `avgen run`."""
    first_backoff_s: Annotated[float, Field(gt=0)] = 30.0
    """Pause before the second attempt; it doubles with each one more, with jitter."""
    max_backoff_s: Annotated[float, Field(gt=0)] = 24 * 3600.0
    """Longest pause between two attempts."""
    patience_s: Annotated[float, Field(ge=0)] = 120.0
    """How long a run waits in all, with nothing else to do, for paused hosts and sources to be tried again."""

    cookies_path: FilePath | None = None
    """Netscape cookie file; never written. It must exist on every node."""
    cookies_from_browser: str = ""
    """Browser profile to take cookies from, as in yt-dlp: `firefox` or `chrome:Profile 1`."""
    netrc_path: FilePath | None = None
    """Credentials by host (`machine HOST login USER password SECRET`)."""
    proxies_path: FilePath | None = None
    """One proxy address a line (`http://user:secret@host:port`); each request takes one of those that work."""
    requests_per_proxy_h: Annotated[int, Field(gt=0)] = 1000
    """Requests through one proxy in an hour."""
    extractor_plugins_path: DirectoryPath | None = None
    """Folder with yt-dlp plugins, for example a provider of PO tokens."""
    extractor_args: Mapping[str, Mapping[str, list[str]]] = Field(default_factory=dict)
    """yt-dlp's --extractor-args: extractor -> name -> values."""

    budget_items: Annotated[int, Field(ge=0)] = _NO_LIMIT
    """Sources that one run fetches at most; what is left stays pending, as for the other budgets."""
    budget_bytes: Annotated[int, Field(ge=0)] = _NO_LIMIT
    """Bytes that one run fetches at most; a fetch that has begun is finished."""
    budget_h: Annotated[float, Field(ge=0)] = float(_NO_LIMIT)
    """Hours after which a run begins no further fetch."""
    min_free_bytes: Annotated[int, Field(ge=0)] = 2 * 1024**3
    """No fetch begins while the disk of the root has less free space than this."""

    def next_retry_at(self, num_failures: int, *, now: datetime, jitter: float) -> datetime | None:
        """When a source that failed so often may be tried again; `None` when it is not to be.

        Args:
            jitter: in [0, 1); it lengthens the pause by up to a half, so that not all come back at once.
        """
        if num_failures >= self.max_attempts:
            return None
        pause_s = self.first_backoff_s * 2.0 ** min(num_failures - 1, _MAX_DOUBLINGS)
        return now + timedelta(seconds=min(pause_s * (1.0 + jitter / 2.0), self.max_backoff_s))

    def agent(self) -> str:
        """The user agent that names the operator."""
        return self.user_agent or f"avgen/{version('avgen')}" + (
            f" ({self.operator})" if self.operator else ""
        )

    def limit_of(self, host: str) -> tuple[str, HostLimit]:
        """The name under which requests to a host are counted, and their limit.

        The longest name with a limit that is the host or a parent domain of it counts for all below it; any other
        host counts for itself.
        """
        labels = host.lower().rstrip(".").split(".")
        for first in range(len(labels)):
            name = ".".join(labels[first:])
            limit = self.hosts.get(name) or _KNOWN_HOSTS.get(name)
            if limit:
                return name, limit
        default = HostLimit(requests_per_s=self.requests_per_s, connections=self.connections_per_host)
        return ".".join(labels), default
