"""What may be fetched and how the web is asked."""

from pydantic import Field, FilePath, model_validator

from infra.config import Config


class FetchConfig(Config):
    """The fetch policy; a recipe may override every field."""

    max_height_px: int = Field(default=1080, gt=0)
    """The best format that is not higher than this is fetched; one of unknown height is accepted."""
    min_height_px: int = Field(default=0, ge=0)
    """Formats lower than this are not fetched; one of unknown height is accepted."""
    max_bytes: int = Field(default=8 * 1024**3, gt=0)
    """A source larger than this is `TooLarge`; assumption, not measured: two hours of 1080p."""
    timeout_s: float = Field(default=1800.0, gt=0)
    """A fetch that has not finished after this time is killed and is a `FetchTimeout`."""
    stall_timeout_s: float = Field(default=30.0, gt=0)
    """A connection that says nothing for this long is a `FetchTimeout`."""
    list_timeout_s: float = Field(default=120.0, gt=0)
    """A page, channel or feed that yields no further entry for this long is a `FetchTimeout`."""
    num_retries: int = Field(default=1, ge=0)
    """Reconnections within one fetch, which resume a download. The pipeline retries whole fetches."""
    request_pause_s: float = Field(default=0.0, ge=0)
    """Pause between the requests of one fetch."""
    user_agent: str = ""
    """Empty: the one that yt-dlp uses."""
    proxy: str = ""
    """Proxy address; empty: the environment's."""
    cookies_path: FilePath | None = None
    """Netscape cookie file; it is copied for each fetch and never written. It must exist on every node."""

    @model_validator(mode="after")
    def _heights_in_order(self) -> "FetchConfig":
        if self.min_height_px > self.max_height_px:
            heights = f"{self.min_height_px} > {self.max_height_px}"
            raise ValueError(f"min_height_px must be at most max_height_px, got {heights}")
        return self

    def format_selector(self) -> str:
        """What yt-dlp is asked for: the best video with the best audio, else one file, else video alone."""
        heights = f"[height<=?{self.max_height_px}][height>=?{self.min_height_px}]"
        return f"bv*{heights}+ba/b{heights}/bv*{heights}"
