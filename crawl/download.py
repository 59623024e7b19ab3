"""An address -> a complete file on this disk: broken connections are resumed, lies are never glued together."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from crawl.answer import Answer, BodyBroken, BodyStalled, WrongPart, is_html
from crawl.part_file import Described, PartFile
from crawl.policy import FetchConfig
from infra.errors import NotMedia, SourceUnavailable, TooLarge

_PAGES = ("text/html", "application/xhtml+xml")
Span = tuple[int, int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """A file that was fetched completely."""

    url: str
    """The address that gave it, after redirects."""
    content_type: str
    """Lower case, without parameters; empty when the server did not say."""
    num_bytes: int
    sha256: str
    opt_out: tuple[str, ...]
    """See `crawl.robots.opt_out_directives`."""


class Ask(Protocol):
    """GET one address with these headers more, and only the bytes of `span`, both ends included."""

    def __call__(self, *, headers: Mapping[str, str], span: Span | None) -> AbstractContextManager[Answer]:
        """An answer with status 200, 206 or (when there is a span) 416."""


def complete(ask: Ask, file: PartFile, *, chunk_bytes: int, config: FetchConfig) -> Download:
    """Fetch what is missing of `file`.

    Args:
        chunk_bytes: ask for parts of this length, as some hosts want it; 0: for the whole.

    Raises:
        SourceUnavailable, TransientError: as `Http.download`.
    """
    num_reconnects_left, was_lied_to = config.num_reconnects, False
    while not file.is_complete:
        try:
            if _fetch_more(ask, file, chunk_bytes=chunk_bytes, max_bytes=config.max_bytes):
                break
        except (BodyBroken, BodyStalled):
            if num_reconnects_left == 0:
                raise
            num_reconnects_left -= 1
        except WrongPart:
            file.start_over()
            if was_lied_to:
                raise
            was_lied_to = True
        except SourceUnavailable:
            file.start_over()
            raise
    described = file.described
    return Download(
        url=described.url,
        content_type=described.content_type,
        num_bytes=file.num_bytes,
        sha256=file.sha256,
        opt_out=described.opt_out,
    )


def _fetch_more(ask: Ask, file: PartFile, *, chunk_bytes: int, max_bytes: int) -> bool:
    """One request; whether the server has no more to send."""
    first, validator = file.num_bytes, file.described.validator
    if first and not validator:
        file.start_over()
        first, chunk_bytes = 0, 0
    last = first + chunk_bytes - 1 if chunk_bytes else None
    span = (first, last) if first or chunk_bytes else None
    with ask(headers={"If-Range": validator} if first else {}, span=span) as answer:
        if answer.status == 416:
            return _has_all(answer, file)
        end_bytes = _described(answer, file, span)
        _require_fits(file.described.total_bytes, max_bytes, answer.url)
        for block in answer.blocks():
            _require_fits(file.num_bytes + len(block), max_bytes, answer.url)
            if file.num_bytes + len(block) > (end_bytes or max_bytes):
                raise WrongPart(f"a part must end at byte {end_bytes}, it goes on ({answer.url})")
            file.write(block)
            _require_no_page(file, answer)
    return _is_whole(file, answer, end_bytes)


def _described(answer: Answer, file: PartFile, span: Span | None) -> int:
    """Where in the file this body must end; 0 when the server does not say."""
    if answer.status != 206:  # The whole, asked for or not: the file has changed, or there are no parts.
        file.start_over()
        end_bytes = total_bytes = answer.num_bytes or 0
        if answer.num_bytes == 0:
            raise NotMedia(f"the address must hold media, it holds 0 bytes ({answer.url})")
    else:
        known = file.described
        first, last = span or (0, None)
        part = answer.part(first, last, total_bytes=known.total_bytes, validator=known.validator)
        if span is None:
            raise WrongPart(f"a whole file must come with status 200, got 206 ({answer.url})")
        end_bytes, total_bytes = part.last + 1, part.total_bytes
    if file.num_bytes == 0:
        _require_media_type(answer)
        file.describe(
            Described(
                url=answer.url,
                content_type=answer.content_type,
                validator=answer.validator,
                total_bytes=total_bytes,
                opt_out=answer.opt_out,
            )
        )
    return end_bytes


def _has_all(answer: Answer, file: PartFile) -> bool:
    """Whether a 416 means that the file ends where ours does.

    Raises:
        NotMedia: the file is empty.
        WrongPart: the answer fits no file that we know.
    """
    said = answer.headers.get("content-range", "").removeprefix("bytes */")
    if said == "0":
        raise NotMedia(f"the address must hold media, it holds 0 bytes ({answer.url})")
    if file.num_bytes and said == str(file.num_bytes) and file.described.total_bytes in (0, file.num_bytes):
        return True
    raise WrongPart(f"a part within a file must be there, got 416 for byte {file.num_bytes} ({answer.url})")


def _is_whole(file: PartFile, answer: Answer, end_bytes: int) -> bool:
    """Whether the body that has ended was the last one.

    Raises:
        BodyBroken: it ended early.
        NotMedia: it was empty.
    """
    if file.num_bytes == 0:
        raise NotMedia(f"the address must hold media, it holds 0 bytes ({answer.url})")
    if file.num_bytes < end_bytes:
        raise BodyBroken(
            f"{file.num_bytes} bytes read, {end_bytes - file.num_bytes} more expected ({answer.url})"
        )
    return file.described.total_bytes in (0, file.num_bytes)


def _require_fits(num_bytes: int, max_bytes: int, url: str) -> None:
    if num_bytes > max_bytes:
        raise TooLarge(f"a source must have at most {max_bytes} bytes, this has {num_bytes} or more ({url})")


def _require_media_type(answer: Answer) -> None:
    if answer.content_type in _PAGES:
        raise NotMedia(f"the address must hold media, the server says {answer.content_type} ({answer.url})")


def _require_no_page(file: PartFile, answer: Answer) -> None:
    if is_html(file.head):
        raise NotMedia(f"the address must hold media, it begins like an HTML page ({answer.url})")
