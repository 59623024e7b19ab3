"""How far a training has read: small, exact, and the same for every rank."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Self

from infra.config import canonical_json
from infra.errors import IntegrityError
from shards.strict_json import checked, parse_object, require_keys

NUM_LANES = 64
"""Lanes of a new training. More of them mix more shards in a batch and hold more index rows in memory: 0.3 MB a
lane at 1000 samples a shard. Where the number of ranks divides it, ranks share no lane."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadState:
    """The first `position` samples of `epoch`, in the order of `shards/order.py`, are done on all ranks together.

    Any number of ranks can go on from it; those that do must all have the same one.

    Raises:
        IntegrityError: when built, if a number is no whole number or out of range.
    """

    seed: int
    epoch: int
    position: int
    num_lanes: int

    def __post_init__(self) -> None:
        for field in fields(self):
            number = checked(getattr(self, field.name), int, name=field.name, subject="a read state")
            lowest = 1 if field.name == "num_lanes" else 0
            if number < lowest:
                raise IntegrityError(f"{field.name} of a read state must be at least {lowest}, got {number}")
            object.__setattr__(self, field.name, number)

    @classmethod
    def start(cls, *, seed: int, num_lanes: int = NUM_LANES) -> Self:
        """Nothing has been read."""
        return cls(seed=seed, epoch=0, position=0, num_lanes=num_lanes)

    def advanced(self, num_positions: int) -> Self:
        """The state after so many more samples of the epoch, counted over all ranks."""
        return replace(self, position=self.position + num_positions)

    def next_epoch(self) -> Self:
        """The beginning of the epoch after this one."""
        return replace(self, epoch=self.epoch + 1, position=0)

    def to_json(self) -> str:
        """One JSON object, canonical."""
        return canonical_json(asdict(self)).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The inverse of `to_json`.

        Raises:
            IntegrityError: not a JSON object of exactly these fields.
        """
        data = text.encode() if isinstance(text, str) else text
        value = parse_object(data, subject="a read state")
        require_keys(value, [field.name for field in fields(cls)], subject="a read state")
        return cls(**value)
