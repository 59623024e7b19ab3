"""Secrets out of a text: as they are, URL-quoted, as Python prints them, and in the base64 of basic auth. Pure."""

import base64
import re
from collections.abc import Callable, Iterable, Sequence

_HIDDEN = "***"
# Whatever stands between `//` and `@` of an address, known or not; a path may hold an `@` of its own.
_USER_AND_PASSWORD = re.compile(r"(?<=://)[^\s/?#@]+(?=@)")
# Secrets are told apart by so many first characters before they are tried one by one.
_NUM_GROUPING = 3

_Word = tuple[str, ...]
"""A regular expression for each character of a secret."""


def scrubber(secrets: Iterable[str], logins: Iterable[tuple[str, str]]) -> Callable[[str], str]:
    """A function from a text to the same with `***` for each secret in it, and for user and password of addresses.

    Args:
        secrets: what is hidden wherever it occurs; what has fewer than `_NUM_GROUPING` characters is not.
        logins: users and passwords, hidden where they occur together, as `user:password` or in base64.
    """
    words = {_word(secret) for secret in secrets}
    for login in logins:
        pair = ":".join(login)
        words |= {_word(pair), _base64_word(pair)}
    words = {word for word in words if len(word) >= _NUM_GROUPING}
    if not words:
        return lambda text: _USER_AND_PASSWORD.sub(_HIDDEN, text)
    known = re.compile(_any_of(sorted(words), _NUM_GROUPING))
    # In this order: a password may hold an `@`.
    return lambda text: _USER_AND_PASSWORD.sub(_HIDDEN, known.sub(_HIDDEN, text))


def _any_of(words: Sequence[_Word], num_grouping: int) -> str:
    """A pattern for any of the words, the longest that fits: tens of thousands cost a text no more than a few."""
    if num_grouping == 0:
        return "|".join("".join(word) for word in sorted(words, key=len, reverse=True))
    groups: dict[str, list[_Word]] = {}
    for first, *rest in words:
        groups.setdefault(first, []).append(tuple(rest))
    return "|".join(f"{first}(?:{_any_of(rests, num_grouping - 1)})" for first, rests in groups.items())


def _word(secret: str) -> _Word:
    return tuple(map(_character, secret))


def _character(character: str) -> str:
    """A pattern for one character: quoted or not, whichever set of characters a quoting function leaves alone."""
    if character.isascii() and character.isalnum():
        return character
    octets = character.encode("utf-8", "surrogatepass")
    spellings = [re.escape(character), f"(?i:{''.join(f'%{octet:02X}' for octet in octets)})"]
    if character == " ":
        spellings.append(r"\+")
    if not character.isascii():
        spellings.append(re.escape(octets.decode("latin-1")))  # In a header, one character an octet.
    escaped = repr(character)[1:-1] if character not in "'\"" else f"\\{character}"
    if escaped != character:
        spellings.append(re.escape(escaped))
    return f"(?:{'|'.join(spellings)})"


def _base64_word(secret: str) -> _Word:
    """The same for its base64, with the letters of either alphabet, padded or not."""
    letters = base64.b64encode(secret.encode("utf-8", "surrogatepass")).decode().rstrip("=")
    special = {"+": "(?:[+-]|(?i:%2B))", "/": "(?:[/_]|(?i:%2F))"}
    return (*(special.get(letter, letter) for letter in letters), "(?:=|(?i:%3D)){0,2}")
