"""What we put between yt-dlp and the network: a turn for every request, checked addresses, bounded pages."""

import io
import json
import queue
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import yt_dlp
from yt_dlp.downloader.external import ExternalFD
from yt_dlp.extractor import gen_extractor_classes
from yt_dlp.globals import plugin_dirs
from yt_dlp.networking._requests import RequestsHTTPAdapter, RequestsRH
from yt_dlp.networking.common import Response
from yt_dlp.networking.exceptions import HTTPError, NoSupportingHandlers, ProxyError

from crawl.addresses import AddressInfo, require_public
from crawl.answer import asks_for_human, retry_after_s
from crawl.classify import error_named
from crawl.policy import FetchConfig
from infra.errors import (
    AvgenError,
    BlockedByPolicy,
    BotCheck,
    FormatMissing,
    Gone,
    NetworkFailure,
    Private,
    RateLimited,
    TooLarge,
)

# Pages, API answers, feeds, manifests, player scripts. Assumption, not measured: the largest known are a few MiB.
_PAGE_MAX_BYTES = 64 * 1024**2
_ERROR_PAGE_BYTES = 64 * 1024
# Sites pass visitors through consent and cookie pages.
_MAX_REDIRECTS = 10
_BOT_STATUSES = (403, 429, 503)
_FINAL = {403: Private, 404: Gone, 410: Gone}

_getaddrinfo = socket.getaddrinfo

Send = Callable[[Mapping[str, object]], None]
"""Writes a reply to the parent."""


class Gate:
    """Asks the parent for a turn before each request, and tells it what the host said.

    A turn is held until the next request, entry or the end of the task: bodies are read meanwhile.
    """

    def __init__(self, send: Send, answers: "queue.SimpleQueue[str]") -> None:
        self._send = send
        self._answers = answers
        self._said: dict[str, object] | None = None
        self.refusal: AvgenError | None = None
        """The first turn that was refused; nothing that an extractor makes of it counts."""
        self.is_media = False
        """The requests are for the media itself, not for what leads to it."""
        self.proxy_url = ""
        self.allow_private = False

    def begin(self, *, proxy_url: str, allow_private: bool) -> None:
        """Forget the task before."""
        self._said, self.refusal, self.is_media = None, None, False
        self.proxy_url, self.allow_private = proxy_url, allow_private

    def ask(self, url: str) -> None:
        """Wait for the turn of the host of `url`.

        Raises:
            AvgenError: the parent refuses.
        """
        self.end_turn()
        self._send({"reply": "turn", "url": url, "is_media": self.is_media})
        answer = json.loads(self._answers.get())
        if "code" in answer:
            self.refusal = error_named(answer["code"], answer["message"], answer["until_s"])
            raise self.refusal
        self._said = {"kind": "ok", "retry_after_s": None, "message": "", "is_proxy_ok": True}

    def note(self, kind: str, message: str, **more: object) -> None:
        """What the host of the current turn said."""
        if self._said:
            self._said |= {"kind": kind, "message": message, **more}

    def end_turn(self) -> None:
        """Give the turn back."""
        if self._said:
            self._send({"reply": "said", **self._said})
            self._said = None

    def resolve(self, host: str, port: Any, *arguments: Any, **options: Any) -> list[AddressInfo]:
        """What takes the place of `socket.getaddrinfo`: public addresses only, but for the proxy's."""

        def look_up(name: str, number: int) -> Sequence[AddressInfo]:
            return _getaddrinfo(name, number, *arguments, **options)

        allow_private = self.allow_private or host == urlsplit(self.proxy_url).hostname
        return require_public(host, port, allow_private=allow_private, resolve=look_up)

    def check_behind_proxy(self, url: str) -> None:
        """Check the host of a request that a proxy will look up.

        Raises:
            BlockedByPolicy: it is not public, or has no address here.
        """
        parts = urlsplit(url)
        try:
            self.resolve(str(parts.hostname), parts.port or 80)
        except OSError as err:
            raise BlockedByPolicy(f"a host must have an address, got {err} ({url})") from err


class _GatedAdapter(RequestsHTTPAdapter):
    """One request, also that of a redirect, in its turn."""

    def __init__(self, gate: Gate, **options: Any) -> None:
        self._gate = gate
        super().__init__(**options)

    def send(self, request: Any, **options: Any) -> Any:
        if self._gate.proxy_url:
            self._gate.check_behind_proxy(request.url)
        self._gate.ask(request.url)
        try:
            response = super().send(request, **options)
        except OSError as err:  # All of `requests` are.
            self._gate.note("failed", str(err))
            raise
        if response.status_code >= 500 or response.status_code == 429:
            kind = "rate_limited" if response.status_code == 429 else "failed"
            words = f"HTTP {response.status_code} {response.reason}"
            headers = {name.lower(): value for name, value in response.headers.items()}
            self._gate.note(kind, words, retry_after_s=retry_after_s(headers))
        return response


class GatedRH(RequestsRH):
    """yt-dlp's handler for the `requests` package; the only one that is used."""

    gate: Gate

    def _create_instance(self, cookiejar: Any, legacy_ssl_support: Any = None) -> Any:
        session = super()._create_instance(cookiejar, legacy_ssl_support)
        context = self._make_sslcontext(legacy_ssl_support=legacy_ssl_support)
        adapter = _GatedAdapter(self.gate, ssl_context=context)
        session.mount("https://", adapter)
        session.mount("http://", adapter)
        session.max_redirects = _MAX_REDIRECTS
        return session

    def _get_proxies(self, request: Any) -> dict[str, str]:
        return {"all": self.gate.proxy_url} if self.gate.proxy_url else {}


class Downloader(yt_dlp.YoutubeDL):
    """A YoutubeDL that is reused: each task begins with the configured cookies, and extractors begin anew."""

    def __init__(self, parameters: dict[str, Any], gate: Gate) -> None:
        self._gate = gate
        super().__init__(parameters, auto_init="no_verbose_header")
        self._pristine_cookies = list(self.cookiejar)
        self._keeps_sessions = bool(parameters.get("usenetrc"))

    def begin(self) -> None:
        """Forget what sites set since the start. What extractors have read (player scripts) stays.

        Cookies of log-ins stay, too: a log-in for each video would be what no site puts up with.
        """
        if self._keeps_sessions:
            return
        self.cookiejar.clear()
        for cookie in self._pristine_cookies:
            self.cookiejar.set_cookie(cookie)
        for extractor in self._ies_instances.values():
            extractor._ready = False

    def add_default_info_extractors(self) -> None:
        """Register the extractors that are on by default.

        The inherited method also matches their names against options that are not used here, which is 52 of
        the 133 ms of a small fetch (measured with cProfile, 2026-11-23).
        """
        for extractor in gen_extractor_classes():
            if extractor._ENABLED:
                self.add_info_extractor(extractor)

    def build_request_director(self, handlers: Any, preferences: Any = None) -> Any:
        """The way to the network: one handler, whatever is installed."""
        director = super().build_request_director([GatedRH], preferences)
        for handler in director.handlers.values():
            handler.gate = self._gate
        return director

    def urlopen(self, req: Any) -> Any:
        """One request and its redirects, each in its turn."""
        try:
            response = super().urlopen(req)
        except NoSupportingHandlers as err:
            ours = [cause for cause in err.unexpected_errors if isinstance(cause, AvgenError | MemoryError)]
            raise (ours[0] if ours else err) from err
        except HTTPError as err:
            raise self._refused(err) from err
        except ProxyError as err:
            self._gate.note("failed", str(err), is_proxy_ok=False)
            raise
        if self._gate.is_media and _is_page(response):
            raise NetworkFailure(f"a fragment must be media, the server says text/html ({response.url})")
        return _bounded(response)

    def _refused(self, err: HTTPError) -> Exception:
        """The error for a status; one that it makes no sense to ask again for is ours, so that nobody does."""
        body = err.response.read(_ERROR_PAGE_BYTES)
        words = f"{err.msg} ({err.response.url})"
        if err.redirect_loop:
            return BlockedByPolicy(f"redirects must end within {_MAX_REDIRECTS}: {words}")
        if err.status == 407:
            self._gate.note("failed", words, is_proxy_ok=False)
        if err.status in _BOT_STATUSES and (
            err.response.headers.get("cf-mitigated") == "challenge" or asks_for_human(body)
        ):
            self._gate.note("bot_check", words)
            return BotCheck(f"the host must let us in, it asks for a human: {words}")
        if err.status == 429:
            return RateLimited(words)
        if self._gate.is_media and err.status in _FINAL:
            return _FINAL[err.status](f"every fragment must be there: {words}")
        again = Response(
            io.BytesIO(body), err.response.url, err.response.headers, err.status, reason=err.response.reason
        )
        return HTTPError(again, redirect_loop=err.redirect_loop)


def install(gate: Gate, config: FetchConfig) -> None:
    """Guard this process: look-ups, programs with a network of their own, plugins."""
    socket.getaddrinfo = gate.resolve  # type: ignore[assignment]
    ExternalFD.real_download = _refuse_program
    plugin_dirs.value = [str(config.extractor_plugins_path)] if config.extractor_plugins_path else []


def _refuse_program(downloader: Any, filename: str, info: Mapping[str, Any]) -> bool:
    raise FormatMissing(
        f"yt-dlp must read a stream itself, this needs {type(downloader).__name__} ({info.get('url')})"
    )


def _is_page(response: Response) -> bool:
    return str(response.headers.get("Content-Type", "")).lower().startswith("text/html")


def _bounded(response: Response) -> Response:
    """The response, whose `read` of all raises TooLarge for a body that is too much for a page."""
    read = response.read

    def read_page(amt: int | None = None) -> bytes:
        if amt is not None:
            return read(amt)
        blocks: list[bytes] = []
        num_bytes = 0
        while block := read(1 << 20):
            blocks.append(block)
            num_bytes += len(block)
            if num_bytes > _PAGE_MAX_BYTES:
                raise TooLarge(
                    f"a page must have at most {_PAGE_MAX_BYTES} bytes, this has more ({response.url})"
                )
        return b"".join(blocks)

    response.read = read_page
    return response
