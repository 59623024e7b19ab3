"""A gate, a clock and hosts that answer: what the tests of politeness share."""

from collections import defaultdict

from crawl.policy import HostLimit
from crawl.politeness import Granted, HostGate, HostPause, Said, Wait

START_S = 1.75e9
OK = Said("ok")
FAILED = Said("failed")
RATE_LIMITED = Said("rate_limited", message="429 Too Many Requests")
BOT_CHECK = Said("bot_check", message="Sign in to confirm\n  you're not a bot")


class Crawl:
    """A gate, its clock, and what was granted."""

    def __init__(self, limit: HostLimit) -> None:
        self.gate = HostGate()
        self.limit = limit
        self.now_s = START_S
        self.granted_s: dict[str, list[float]] = defaultdict(list)
        self.open: dict[int, tuple[str, str]] = {}

    def ask(self, host: str = "h", client: str = "c") -> Granted | Wait | HostPause:
        answer = self.gate.acquire(host, self.limit, client_id=client, now_s=self.now_s)
        if isinstance(answer, Granted):
            self.granted_s[host].append(self.now_s)
            self.open[answer.lease_id] = host, client
        return answer

    def lease(self, host: str = "h", client: str = "c") -> int:
        """A lease, waited for as long as the gate says."""
        while not isinstance(answer := self.ask(host, client), Granted):
            self.now_s = answer.until_s if isinstance(answer, HostPause) else self.now_s + answer.wait_s
        return answer.lease_id

    def release(self, lease_id: int, said: Said = OK) -> HostPause | None:
        self.open.pop(lease_id, None)
        return self.gate.release(lease_id, said, now_s=self.now_s)

    def pause_s(self, lease_id: int, said: Said) -> float:
        """How long an answer pauses the host, 0 for not at all."""
        pause = self.release(lease_id, said)
        return pause.until_s - self.now_s if pause else 0.0
