"""A file that is read by byte ranges, for PyAV. Runs in the remuxing child."""

import math
from collections import OrderedDict
from collections.abc import Callable

from infra.units import BYTES_PER_MIB

ReadSpan = Callable[[int, int], tuple[bytes, int]]
"""The bytes from the first to the last, both included, or up to the end; and the length of the whole."""

_BLOCK_BYTES = 64 * 1024
_FIRST_BYTES = 256 * 1024
_MAX_AHEAD_BYTES = 1024 * 1024
_SMALL_BYTES = 2 * 1024 * 1024
_MAX_HELD_BYTES = 32 * BYTES_PER_MIB
_HEADER_BYTES = 32 * BYTES_PER_MIB  # Assumption, not measured: the index of half a day.
_REQUEST_BYTES = (
    256 * 1024
)  # What a request costs at least: it takes a host's turn, however little it brings.


class WholeNeeded(Exception):
    """The span cannot be had by ranges, or not exactly; the file as a whole may be in order."""


class RangeFile:
    """A file for PyAV of which only what is asked for is read, in blocks.

    What is read in a row, also in several places by turns, comes in ever larger pieces; a small file comes in two.
    """

    def __init__(self, read_span: ReadSpan) -> None:
        self._read_span = read_span
        self.budget_bytes: float = _HEADER_BYTES
        """What may still be read before it is `WholeNeeded`; set anew where that is not so."""
        self.total_bytes: float = math.inf
        """The length of the file, once something was read."""
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._position = 0
        self._runs: dict[int, int] = {}  # The block after one that was read -> how many came with it.

    def read(self, num_bytes: int) -> bytes:
        """At most so many bytes from where we are; none at the end."""
        self._require_start()
        if self._position >= self.total_bytes:
            return b""
        index, offset = divmod(self._position, _BLOCK_BYTES)
        if index not in self._blocks:
            self._load(index)
        self._blocks.move_to_end(index)
        found = self._blocks[index][offset : offset + num_bytes]
        self._position += len(found)
        return found

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place, counted from the start, from here or from the end."""
        if whence == 2:
            self._require_start()
            offset += int(self.total_bytes)
        self._position = max(0, offset + self._position if whence == 1 else offset)
        return self._position

    def tell(self) -> int:
        """Where we are."""
        return self._position

    def _require_start(self) -> None:
        """The first request is for the start of the file, and tells its length."""
        if self.total_bytes == math.inf:
            self._load(0)

    def _load(self, index: int) -> None:
        """Read a block and some after it."""
        num_blocks = min(2 * self._runs.pop(index, 0) or 1, _MAX_AHEAD_BYTES // _BLOCK_BYTES)
        if self.total_bytes == math.inf:
            num_blocks = _FIRST_BYTES // _BLOCK_BYTES
        elif self.total_bytes <= _SMALL_BYTES:
            index, num_blocks = len(self._blocks), _SMALL_BYTES // _BLOCK_BYTES
        end = index + 1
        while end < index + num_blocks and end not in self._blocks:
            end += 1
        first, end_bytes = index * _BLOCK_BYTES, int(min(end * _BLOCK_BYTES, self.total_bytes))
        self.budget_bytes -= max(end_bytes - first, _REQUEST_BYTES)
        if self.budget_bytes < 0:
            raise WholeNeeded("a span must be found in a small part of its file, it was not")
        found, self.total_bytes = self._read_span(first, end_bytes - 1)
        for block in range(index, end):
            place = (block - index) * _BLOCK_BYTES
            self._blocks[block] = found[place : place + _BLOCK_BYTES]
        self._runs[end] = num_blocks
        while len(self._blocks) * _BLOCK_BYTES > _MAX_HELD_BYTES:
            self._blocks.popitem(last=False)
