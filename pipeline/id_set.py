"""A set of source ids that holds tens of millions in little memory."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

_ID_BASE = 16


class IdSet:
    """Ids of 16 hex digits: those that were there at the beginning as sorted numbers, later ones as a set."""

    def __init__(self, numbers_N: NDArray[np.uint64]) -> None:
        self._sorted_N = np.sort(numbers_N)
        self._later: set[int] = set()

    @classmethod
    def of(cls, ids: Iterable[str]) -> "IdSet":
        """The set of these ids."""
        return cls(np.array([int(source_id, _ID_BASE) for source_id in ids], np.uint64))

    def __contains__(self, source_id: str) -> bool:
        number = int(source_id, _ID_BASE)
        if number in self._later:
            return True
        index = int(np.searchsorted(self._sorted_N, np.uint64(number)))
        return index < len(self._sorted_N) and int(self._sorted_N[index]) == number

    def __len__(self) -> int:
        return len(self._sorted_N) + len(self._later)

    def add(self, source_id: str) -> bool:
        """Put an id in; whether it was not there before."""
        if source_id in self:
            return False
        self._later.add(int(source_id, _ID_BASE))
        return True
