"""The simulated exchange, for as long as the stack is up."""

from __future__ import annotations

import functools
import sys

from pipelines.simulate import stream_url
from pipelines.stack.server import PROBE_SECONDS, Server, spoken
from pipelines.stack.site import CHECKOUT, Site


def exchange(site: Site) -> Server:
    """One market on the exchange's port."""
    words = ["-m", "market.feeds.simulator", "--port", str(site.port("exchange"))]
    return Server(
        name="exchange",
        what="the simulated exchange",
        command=(sys.executable, *words),
        environment={"PYTHONPATH": str(CHECKOUT)},
        ports=("exchange",),
        probe=functools.partial(_probe, site),
        page=stream_url(site.port("exchange")),
    )


def _probe(site: Site) -> None:
    """A frame of its stream."""
    from websockets.exceptions import WebSocketException
    from websockets.sync.client import connect

    where = f"the exchange at {site.address('exchange')}"
    with (
        spoken(where, OSError, WebSocketException),
        connect(stream_url(site.port("exchange")), proxy=None, open_timeout=PROBE_SECONDS) as stream,
    ):
        stream.recv(timeout=PROBE_SECONDS)
