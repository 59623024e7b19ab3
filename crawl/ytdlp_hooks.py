"""What yt-dlp must do our way: ask for its turn, stay on public hosts, run no program, keep within limits."""

import functools
import io
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yt_dlp
from yt_dlp.downloader.external import FFmpegFD
from yt_dlp.extractor import gen_extractor_classes
from yt_dlp.globals import plugin_dirs
from yt_dlp.networking.exceptions import HTTPError
from yt_dlp.plugins import load_all_plugins

from crawl.addresses import require_public
from crawl.answer import asks_for_human, retry_after_s
from crawl.formats import Info
from crawl.policy import FetchConfig
from infra import errors
from infra.errors import AvgenError, BotCheck, Deferred, FormatMissing, NotMedia, TooLarge

# No page, script or manifest that an extractor reads is larger. Assumption, not measured.
_PAGE_MAX_BYTES = 64 * 1024**2
_BODY_SNIFF_BYTES = 64 * 1024
_TOO_MANY_REQUESTS = 429

_ERROR_BY_CODE: dict[str, type[AvgenError]] = {
    value.code: value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, AvgenError)
}
_resolve = socket.getaddrinfo


def load_plugins(config: FetchConfig) -> None:
    """Extractors and PO-token providers of the configured folder, and of no other; a process does it once."""
    plugin_dirs.value = [str(config.extractor_plugins_path)] if config.extractor_plugins_path else []
    load_all_plugins()


class Host:
    """The parent, as far as it says when a host may be asked, and hears what it answered."""

    def __init__(self, send: Callable[[dict[str, Any]], None], wait: Callable[[], Mapping[str, Any]]) -> None:
        self._send, self._wait = send, wait

    def take_turn(self, url: str) -> None:
        """Wait until the host may be asked.

        Raises:
            AvgenError: what the parent says instead, such as Deferred.
        """
        self._send({"reply": "turn", "url": url})
        answer = self._wait()
        if answer["go"]:
            return
        error_class = _ERROR_BY_CODE[answer["code"]]
        if error_class is Deferred:
            raise Deferred(answer["message"], answer["until_s"])
        raise error_class(answer["message"])

    def said(self, kind: str, *, retry_after_s: float | None = None, message: str = "") -> None:
        """Report the answer."""
        self._send({"reply": "said", "kind": kind, "retry_after_s": retry_after_s, "message": message})


class _Silence:
    """A yt-dlp logger that says nothing: errors are raised, and the rest is for terminals."""

    def debug(self, message: str) -> None:
        """Drop it."""

    info = warning = error = debug


class Downloader(yt_dlp.YoutubeDL):
    """YoutubeDL that takes turns, remembers which addresses were served as HTML, and chooses formats our way."""

    def __init__(self, config: FetchConfig, identity: Mapping[str, Any], host: Host) -> None:
        self._host = host
        self._html_urls: set[str] = set()
        self._max_bytes = _PAGE_MAX_BYTES
        self.choose: Callable[[Sequence[Info]], tuple[Info, ...]] | None = None
        super().__init__(_parameters(config, identity, self._select))

    def add_default_info_extractors(self) -> None:
        """Register the extractors that are on by default.

        The inherited method also matches their names against options that are not used here, which is 52 of
        the 133 ms of a small fetch (measured with cProfile, 2026-11-23).
        """
        for extractor in gen_extractor_classes():
            if extractor._ENABLED:
                self.add_info_extractor(extractor)

    def begin(self) -> None:
        """Forget the request before."""
        self._html_urls.clear()
        self._max_bytes = _PAGE_MAX_BYTES

    def begin_download(self, *, ffmpeg: str, max_bytes: int) -> None:
        """From here on media are read, up to so many bytes."""
        self._max_bytes = max_bytes
        self.params["ffmpeg_location"] = ffmpeg

    def urlopen(self, req: Any) -> Any:
        """Open an address in its host's turn."""
        url = req if isinstance(req, str) else req.url
        self._host.take_turn(url)
        try:
            response = super().urlopen(req)
        except HTTPError as err:
            self._report(err, url)
            raise
        self._host.said("ok")
        if response.headers.get("Content-Type", "").lower().startswith("text/html"):
            self._html_urls.add(response.url)
        response.read = _Limited(response.read, self._max_bytes, url)
        return response

    def require_no_page(self, info: Info, url: str) -> None:
        """Raise `NotMedia` when the address of the media was served as HTML."""
        if info.get("url") in self._html_urls:
            raise NotMedia(f"the address must hold media, the server says text/html ({url})")

    def cookies_for(self, url: str) -> str:
        """What the host of an address gets as `Cookie`."""
        return self.cookiejar.get_cookie_header(url) or ""

    def read_text(self, url: str) -> str:
        """A small text, as UTF-8."""
        return self.urlopen(url).read().decode("utf-8", "replace")

    def _report(self, err: HTTPError, url: str) -> None:
        """Tell the parent what a refusal means for the host.

        Raises:
            BotCheck: it is a page that only lets humans pass.
        """
        after_s = retry_after_s({name.lower(): value for name, value in err.response.headers.items()})
        # The body stays readable for the extractor: some tell by it what went wrong.
        body = err.response.read(_BODY_SNIFF_BYTES)
        err.response.fp = io.BytesIO(body)
        err.response.read = err.response.fp.read
        message = f"HTTP Error {err.status}: {err.reason}"
        if asks_for_human(body):
            self._host.said("bot_check", message=message)
            raise BotCheck(f"the host must let us in, got {message} and a page that asks for a human ({url})")
        if err.status == _TOO_MANY_REQUESTS or after_s is not None:
            kind = "rate_limited" if err.status == _TOO_MANY_REQUESTS else "failed"
            self._host.said(kind, retry_after_s=after_s, message=message)
        else:
            self._host.said("ok")

    def _select(self, context: Mapping[str, Any]) -> Any:
        """The formats that `choose` takes, as yt-dlp wants a choice of two; the last one when nobody chooses."""
        formats = context["formats"]
        chosen = self.choose(formats) if self.choose else formats[-1:]
        if len(chosen) == 1:
            yield chosen[0]
            return
        yield {
            "format_id": "+".join(known["format_id"] for known in chosen),
            "ext": chosen[0]["ext"],
            "requested_formats": list(chosen),
            "protocol": "+".join(known["protocol"] for known in chosen),
        }


class _Limited:
    """`read` of a response that ends when too much was read, as the unpacking of a bomb does."""

    def __init__(self, read: Callable[..., bytes], max_bytes: int, url: str) -> None:
        self._read, self._left, self._max_bytes, self._url = read, max_bytes, max_bytes, url

    def __call__(self, num_bytes: int | None = None) -> bytes:
        wanted = self._left + 1 if num_bytes is None or num_bytes < 0 else num_bytes
        block = self._read(wanted)
        self._left -= len(block)
        if self._left < 0:
            raise TooLarge(
                f"an answer must have at most {self._max_bytes} bytes, this has more ({self._url})"
            )
        return block


def guard_network(*, allow_private: bool) -> None:
    """From here on no name leads to a private address, also after a redirect, and no ffmpeg is on the network."""
    socket.getaddrinfo = functools.partial(_public_addresses, allow_private)
    FFmpegFD.real_download = _refuse


def _public_addresses(allow_private: bool, host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
    name = host.decode() if isinstance(host, bytes) else str(host)
    return require_public(
        name, port, allow_private=allow_private, resolve=lambda *_: _resolve(host, port, *args, **kwargs)
    )


def _refuse(self: Any, filename: str, info: Info) -> bool:
    raise FormatMissing(f"a format must be one that is read without ffmpeg, got {info.get('protocol')}")


def _parameters(
    config: FetchConfig, identity: Mapping[str, Any], select: Callable[[Mapping[str, Any]], Any]
) -> dict[str, Any]:
    parameters: dict[str, Any] = {
        "quiet": True,
        "no_warnings": True,
        "noprogress": True,
        "logger": _Silence(),
        "color": "never",
        "cachedir": False,
        "noplaylist": True,
        "playlist_items": None,
        "socket_timeout": config.stall_timeout_s,
        "extractor_retries": config.num_reconnects,
        "format": select,
        "outtmpl": "media.%(ext)s",
        "updatetime": False,
        "retries": config.num_reconnects,
        "fragment_retries": config.num_reconnects,
        "skip_unavailable_fragments": False,
        "hls_prefer_native": True,
        "external_downloader": {"default": "native"},
        "allow_unplayable_formats": False,
        "enable_file_urls": False,
        "http_headers": {"User-Agent": config.agent()},
        **identity,
    }
    if "cookiefile" in identity:
        # Text, not a path: yt-dlp rewrites the cookie file that it is given.
        parameters["cookiefile"] = io.StringIO(identity["cookiefile"])
    return parameters
