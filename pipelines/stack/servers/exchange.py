"""The simulated exchange, for as long as the stack is up."""

from __future__ import annotations

import functools
import sys

from pipelines.stack.exchange import stream_url
from pipelines.stack.server import Server, get
from pipelines.stack.site import CHECKOUT, Site


def exchange(site: Site) -> Server:
    """One market on the exchange's port."""
    words = ["-m", "market.simulator", "--port", str(site.port("exchange"))]
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
    """The state of its world; its one stream is the quoter's."""
    get(f"{site.url('exchange')}/sim/state")
