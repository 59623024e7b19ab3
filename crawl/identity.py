"""Who we are to the hosts: cookies, credentials and proxies, and how none of it gets into a message."""

import netrc
import time
from collections.abc import Callable, Iterator, Mapping
from http.cookiejar import Cookie
from pathlib import Path
from typing import NoReturn

from crawl.cookies import Cookies, browser_cookies, parse_netscape
from crawl.policy import FetchConfig
from crawl.proxies import Proxies, Proxy, parse_proxies
from crawl.scrub import scrubber
from infra.errors import ConfigError

__all__ = ["Identity", "Proxy"]

_NETRC_VARIABLE = "AVGEN_NETRC"
# Shorter ones are words that any text may hold, and no secrets. Assumption, not measured.
_MIN_COOKIE_LETTERS = 6
_MIN_LOGIN_LETTERS = 4


class Identity:
    """The secrets of one worker process; its threads share it. It is never pickled: build it where it is used."""

    def __init__(
        self, config: FetchConfig, environ: Mapping[str, str], *, clock: Callable[[], float] = time.time
    ) -> None:
        """Read the files and the browser profile that the settings name.

        Raises:
            ConfigError: one of them cannot be read or is malformed.
        """
        self._cookies = Cookies(_cookies(config))
        self._netrc_path, self._logins = _logins(config, environ)
        proxies = parse_proxies(_text(config.proxies_path, "proxies_path"), config.proxies_path or Path())
        self._proxies = Proxies(proxies, clock)
        self._extractor_args = {
            extractor: {name: list(values) for name, values in arguments.items()}
            for extractor, arguments in config.extractor_args.items()
        }
        logins = [*self._logins.values(), *(proxy.login() for proxy in proxies if any(proxy.login()))]
        self._scrub = scrubber(self._secrets(), logins)

    def __repr__(self) -> str:
        num_cookies, num_proxies = len(list(self._cookies)), len(list(self._proxies))
        return f"<Identity: {num_cookies} cookies, {len(self._logins)} logins, {num_proxies} proxies>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an Identity holds secrets and cannot be pickled; build it from its settings where it is used"
        )

    def cookie_header(self, url: str) -> str:
        """The value of `Cookie` for a request; empty when no cookie is meant for the address."""
        return self._cookies.header(url)

    def credentials(self, host: str) -> tuple[str, str] | None:
        """User and password of a host, which the netrc file names exactly."""
        return self._logins.get(host.lower().removesuffix("."))

    def proxy(self) -> Proxy | None:
        """The proxy whose turn it is; None when none are configured.

        Raises:
            Deferred: all of them rest.
        """
        return self._proxies.take()

    def proxy_answered(self, proxy: Proxy, *, ok: bool) -> None:
        """Tell whether a request through the proxy worked: one that fails repeatedly rests."""
        self._proxies.answered(proxy, ok=ok)

    def scrub(self, text: str) -> str:
        """The text with `***` for every secret, also for one that is quoted or in base64."""
        return self._scrub(text)

    def ytdlp_parameters(self, proxy: Proxy | None = None) -> dict[str, object]:
        """Parameters of `yt_dlp.YoutubeDL`, as JSON; what is not configured is left out.

        `cookiefile` is the text of the file, which a child wraps into `StringIO`; cookies of a browser are in it.

        Args:
            proxy: as `proxy()` gave it; when left out, the next one is taken.

        Raises:
            Deferred: all proxies rest.
        """
        proxy = proxy or self.proxy()
        parameters: dict[str, object] = (
            {"extractor_args": self._extractor_args} if self._extractor_args else {}
        )
        if any(self._cookies):
            parameters["cookiefile"] = self._cookies.netscape_text()
        if proxy:
            parameters["proxy"] = proxy.url
        if self._netrc_path:
            parameters |= {"usenetrc": True, "netrc_location": str(self._netrc_path)}
        return parameters

    def _secrets(self) -> Iterator[str]:
        for cookie in self._cookies:
            value = str(cookie.name if cookie.value is None else cookie.value)
            if len(value) >= _MIN_COOKIE_LETTERS:
                yield value
        words = [password for _, password in self._logins.values()]
        words += [word for proxy in self._proxies for word in proxy.login()]
        yield from (word for word in words if len(word) >= _MIN_LOGIN_LETTERS)


def _cookies(config: FetchConfig) -> Iterator[Cookie]:
    """Those of the browser first: of two that mean the same, the later one is sent."""
    if config.cookies_from_browser:
        yield from browser_cookies(config.cookies_from_browser)
    if config.cookies_path:
        yield from parse_netscape(_text(config.cookies_path, "cookies_path"), config.cookies_path)


def _logins(
    config: FetchConfig, environ: Mapping[str, str]
) -> tuple[Path | None, dict[str, tuple[str, str]]]:
    """The netrc file, and user and password by host."""
    name = "fetch.netrc_path" if config.netrc_path else _NETRC_VARIABLE
    path = config.netrc_path or Path(environ.get(_NETRC_VARIABLE, ""))
    if path == Path():
        return None, {}
    try:
        hosts = netrc.netrc(path).hosts
    except netrc.NetrcParseError as err:  # Not chained: its text holds words of the file.
        raise ConfigError(f"{name} must name a netrc file, {path} is not one (line {err.lineno})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{name} must name a netrc file, {path} is not text") from None
    except OSError as err:
        raise ConfigError(f"{name} must name a readable file, got {path}: {err.strerror}") from err
    if "default" in hosts:
        raise ConfigError(
            f"{name} must name the host of each password, {path} has a default entry, which every host would get"
        )
    return path, {host.lower(): (login, password) for host, (login, _, password) in hosts.items()}


def _text(path: Path | None, name: str) -> str:
    """The text of a file; empty when there is none."""
    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:  # Not chained: it holds the file.
        raise ConfigError(f"fetch.{name} must name a file of UTF-8 text, {path} is not") from None
    except OSError as err:
        raise ConfigError(f"fetch.{name} must name a readable file, got {path}: {err.strerror}") from err
