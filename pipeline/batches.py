"""An iterator in batches of bounded size and age, whatever pauses it makes."""

import queue
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

ThingT = TypeVar("ThingT")
_LOOK_S = 0.5
"""How often a maker that waits for room looks whether anybody still wants its things."""


class _End:
    """The last thing of all."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def batches(things: Iterable[ThingT], *, max_things: int, max_age_s: float) -> Iterator[list[ThingT]]:
    """Batches of at most `max_things`, in which none has waited longer than `max_age_s`.

    The things are made in a thread, at most a batch ahead; what it raises is raised here.
    """
    arrivals: queue.Queue[ThingT | _End] = queue.Queue(maxsize=max_things)
    is_unwanted = threading.Event()
    # A daemon, so that an interrupted run does not wait for what is being worked on.
    threading.Thread(target=_hand_over, args=(things, arrivals, is_unwanted), daemon=True).start()
    batch: list[ThingT] = []
    due_s = 0.0
    try:
        while True:
            try:
                arrival = arrivals.get(timeout=max(0.0, due_s - time.monotonic()) if batch else None)
            except queue.Empty:
                yield batch
                batch = []
                continue
            if isinstance(arrival, _End):
                break
            due_s = due_s if batch else time.monotonic() + max_age_s
            batch.append(arrival)
            if len(batch) == max_things:
                yield batch
                batch = []
    finally:
        is_unwanted.set()
    if batch:
        yield batch
    if arrival.error:
        raise arrival.error


def _hand_over(
    things: Iterable[ThingT], arrivals: "queue.Queue[ThingT | _End]", is_unwanted: threading.Event
) -> None:
    """Put everything into the queue, then what ended it."""
    error: BaseException | None = None
    try:
        for thing in things:
            _put(thing, arrivals, is_unwanted)
            if is_unwanted.is_set():
                return
    except BaseException as err:  # noqa: BLE001 - whoever takes the batches raises it
        error = err
    _put(_End(error), arrivals, is_unwanted)


def _put(thing: ThingT | _End, arrivals: "queue.Queue[ThingT | _End]", is_unwanted: threading.Event) -> None:
    while not is_unwanted.is_set():
        try:
            arrivals.put(thing, timeout=_LOOK_S)
        except queue.Full:
            continue
        return
