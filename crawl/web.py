"""How one worker process asks the web: the settings, who we are, plain HTTP and the extractors."""

import os
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from crawl.policy import FetchConfig

if TYPE_CHECKING:
    from crawl.http import Http
    from crawl.identity import Identity
    from crawl.politeness import Desk, HostPause
    from crawl.ytdlp import Extractors


class Web(NamedTuple):
    """The way to the web. Opening it asks nothing of anybody."""

    config: FetchConfig
    http: "Http"
    extractors: "Extractors"
    identity: "Identity"

    @classmethod
    def opened(
        cls,
        config: FetchConfig,
        desk: "Desk | None" = None,
        *,
        on_pause: "Callable[[HostPause], None]" = lambda pause: None,
    ) -> "Web":
        """The way to the web of this process.

        Args:
            desk: keeps the limits of hosts for all workers; when left out, they are kept for this process alone.
            on_pause: hears of each pause that a host asked this process for.

        Raises:
            ConfigError: cookies, proxies or credentials cannot be read.
        """
        from crawl.http import Http
        from crawl.identity import Identity
        from crawl.politeness import LocalDesk
        from crawl.turns import Turns
        from crawl.ytdlp import Extractors

        identity = Identity(config, os.environ)
        desk = desk or LocalDesk(time.time)
        turns = Turns(desk, config, sleep=time.sleep, rng=random.Random(), on_pause=on_pause)
        http = Http(config, turns, identity)
        return cls(config, http, Extractors(config, turns, identity, http), identity)

    def close(self) -> None:
        """End the connections and the processes."""
        self.http.close()
        self.extractors.close()
