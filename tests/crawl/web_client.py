"""An `Http` for the fake web: in a hurry, allowed to ask the loopback interface."""

import contextlib
import random
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from crawl.http import Http
from crawl.identity import Identity
from crawl.policy import FetchConfig, HostLimit
from crawl.politeness import Desk, LocalDesk
from crawl.turns import Turns
from infra.errors import AvgenError

_FAST = HostLimit(requests_per_s=100_000, connections=64)


def loopback_config(**settings: Any) -> FetchConfig:
    defaults = {
        "allow_private": True,
        "stall_timeout_s": 5.0,
        "timeout_s": 20.0,
        "requests_per_s": 100_000.0,
        "requests_per_proxy_h": 10**9,
    }
    hosts = {"127.0.0.1": _FAST, "localhost": _FAST}
    return FetchConfig.model_validate({**defaults, "hosts": hosts, **settings})


@contextlib.contextmanager
def http_client(desk: Desk | None = None, **settings: Any) -> Iterator[Http]:
    """A client with a gate of its own, or that of `desk`; `settings` are those of FetchConfig."""
    config = loopback_config(**settings)
    turns = Turns(desk or LocalDesk(time.time), config, sleep=time.sleep, rng=random.Random())
    http = Http(config, turns, Identity(config, {}))
    try:
        yield http
    finally:
        http.close()


@contextlib.contextmanager
def failure(code: str, *words: str) -> Iterator[pytest.ExceptionInfo[AvgenError]]:
    """The body must fail with this code; the message is one line that holds all the words."""
    with pytest.raises(AvgenError) as raised:
        yield raised
    message = str(raised.value)
    assert (raised.value.code, "\n" in message) == (code, False), message
    missing = [word for word in words if word not in message]
    assert missing == [], message


def names_answer(monkeypatch: pytest.MonkeyPatch, known: dict[str, list[str]]) -> list[str]:
    """Name look-ups answer from here, the next address at each; they are kept in the list that is returned."""
    real, asked = socket.getaddrinfo, []

    def look_up(host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        if host.replace(".", "").isdecimal():
            return real(host, port, *args, **kwargs)
        asked.append(host)
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        addresses = known[host]
        return real(addresses.pop(0) if len(addresses) > 1 else addresses[0], port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked
