"""Cookies of a Netscape file or a browser profile, and the header that a request gets of them."""

import re
import sqlite3
from collections.abc import Iterable, Iterator
from http.cookiejar import Cookie, CookieJar
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import Request

from infra.errors import ConfigError

# Source: https://curl.se/docs/http-cookies.html; the first line is what yt-dlp and http.cookiejar ask for.
_HEADER = "# Netscape HTTP Cookie File\n"
_HTTP_ONLY = "#HttpOnly_"
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_EXPIRES = re.compile(r"(-?[0-9]{1,15})(?:\.[0-9]+)?|")
# Source: yt-dlp 2026.10.26, yt_dlp/__init__.py, validate_options.
_BROWSER = re.compile(
    r"(?P<name>[^+:]+)(?:\+(?P<keyring>[^:]+))?(?::(?!:)(?P<profile>.+?))?(?:::(?P<container>.+))?"
)


class Cookies:
    """Cookies by domain. Reading them changes nothing, so threads may share them."""

    def __init__(self, cookies: Iterable[Cookie]) -> None:
        self._of_domain: dict[str, list[Cookie]] = {}
        for cookie in cookies:
            self._of_domain.setdefault(cookie.domain.lstrip("."), []).append(cookie)

    def __iter__(self) -> Iterator[Cookie]:
        for cookies in self._of_domain.values():
            yield from cookies

    def header(self, url: str) -> str:
        """The value of `Cookie` for a request, empty for none: by domain, path, `secure` and expiry."""
        near = list(self._near(urlsplit(url).hostname or ""))
        if not near:
            return ""
        jar = CookieJar()
        for cookie in near:
            jar.set_cookie(cookie)
        request = Request(url)
        jar.add_cookie_header(request)
        # Sent as UTF-8: an HTTP client writes each character of a header as one octet.
        return str(request.get_header("Cookie", "")).encode().decode("latin-1")

    def _near(self, host: str) -> Iterator[Cookie]:
        """Those of the host itself, and those of its parent domains that are meant for all below."""
        yield from self._of_domain.get(host, ())
        parent = host.partition(".")[2]
        while parent:
            yield from (cookie for cookie in self._of_domain.get(parent, ()) if cookie.domain.startswith("."))
            parent = parent.partition(".")[2]

    def netscape_text(self) -> str:
        """All of them in one file's format, which `parse_netscape` and yt-dlp read."""
        return _HEADER + "".join(_line(cookie) for cookie in self)


def parse_netscape(text: str, path: Path) -> list[Cookie]:
    """The cookies of a file's text.

    Raises:
        ConfigError: a line is no cookie; the message has its number and no word of it.
    """
    cookies = []
    for line_number, line in enumerate(text.split("\n"), start=1):
        fields = line.removesuffix("\r").removeprefix(_HTTP_ONLY)
        if not fields.strip() or fields.startswith("#"):
            continue
        try:
            cookies.append(_cookie(fields))
        except ValueError:  # Not chained: its text may hold a secret.
            raise ConfigError(
                f"a cookie file must be in Netscape format, {path} is not in line {line_number}; "
                "export it as cookies.txt, with 7 fields between tabs"
            ) from None
    return cookies


def browser_cookies(spec: str) -> list[Cookie]:
    """The cookies of a browser profile, as yt-dlp finds and decrypts them.

    Args:
        spec: `BROWSER[+KEYRING][:PROFILE][::CONTAINER]`, as for yt-dlp's `--cookies-from-browser`.

    Raises:
        ConfigError: there is no such browser or profile, or it cannot be read.
    """
    from yt_dlp.cookies import SUPPORTED_BROWSERS, SUPPORTED_KEYRINGS, extract_cookies_from_browser
    from yt_dlp.utils import YoutubeDLError

    match = _BROWSER.fullmatch(spec)
    name, keyring = (match["name"].lower(), (match["keyring"] or "").upper()) if match else ("", "")
    if not match or name not in SUPPORTED_BROWSERS or keyring not in {"", *SUPPORTED_KEYRINGS}:
        known = ", ".join(sorted(SUPPORTED_BROWSERS))
        raise ConfigError(
            f"fetch.cookies_from_browser must be BROWSER[+KEYRING][:PROFILE], one of {known}, got {spec!r}"
        )
    try:
        jar = extract_cookies_from_browser(
            name, match["profile"], keyring=keyring or None, container=match["container"]
        )
    except (OSError, ValueError, sqlite3.Error, YoutubeDLError) as err:
        raise ConfigError(
            f"fetch.cookies_from_browser must name a profile that can be read, got {spec!r}: {err}"
        ) from err
    return list(jar)


def _cookie(line: str) -> Cookie:
    """The cookie of a line.

    Raises:
        ValueError: it is none.
    """
    domain, below, path, secure, expires, name, value = line.split("\t")
    flags = {"TRUE": True, "FALSE": False}
    match = _EXPIRES.fullmatch(expires)
    domain = domain.lstrip(".").lower()
    is_cookie = (
        below.upper() in flags and secure.upper() in flags and path.startswith("/") and (name or value)
    )
    if not match or not domain or not is_cookie or _CONTROL.search(line):
        raise ValueError("no cookie")
    for_all_below = flags[below.upper()]
    expires_s = max(0, int(match[1] or 0))
    return Cookie(
        version=0,
        name=name or value,
        value=value if name else None,
        port=None,
        port_specified=False,
        domain=f".{domain}" if for_all_below else domain,
        domain_specified=for_all_below,
        domain_initial_dot=for_all_below,
        path=path,
        path_specified=True,
        secure=flags[secure.upper()],
        expires=expires_s or None,  # None, as 0 in the file: until the browser is closed.
        discard=not expires_s,
        comment=None,
        comment_url=None,
        rest={},
    )


def _line(cookie: Cookie) -> str:
    name, value = (cookie.name, cookie.value) if cookie.value is not None else ("", cookie.name)
    flags = {True: "TRUE", False: "FALSE"}
    below, secure = flags[cookie.domain.startswith(".")], flags[bool(cookie.secure)]
    return (
        "\t".join([cookie.domain, below, cookie.path, secure, str(cookie.expires or 0), name, value]) + "\n"
    )
