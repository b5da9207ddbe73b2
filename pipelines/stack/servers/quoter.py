"""The session that quotes at the stack's exchange with whatever is in service, for as long as the stack is up."""

from __future__ import annotations

import functools
import sys

from market.clock import SystemClock
from market.errors import ServiceError
from pipelines.stack.environment import variables
from pipelines.stack.exchange import Exchange, stream_url
from pipelines.stack.server import Server
from pipelines.stack.site import CHECKOUT, Site
from serving.session.heartbeat import alive_path, read_alive


def quoter(site: Site) -> Server:
    """``keel serve --follow``. While nobody is champion it lands market data and makes no quote."""
    words = ["serve", "--follow", "--url", stream_url(site.port("exchange")), "--instrument", Exchange.instrument]
    return Server(
        name="quoter",
        what="quotes with what is in service",
        command=(sys.executable, "-m", "pipelines.cli", *words, "--set", f"pace={site.chosen.pace:g}"),
        environment={**variables(site), "PYTHONPATH": str(CHECKOUT)},
        needs=("exchange",),
        probe=functools.partial(_probe, site),
        stop_seconds=60,  # orders are cancelled, everything is written down
    )


def _probe(site: Site) -> None:
    """Its word that it lives, from within the last seconds."""
    alive = read_alive(alive_path(site.home / "sessions", Exchange.instrument))
    log = site.log("quoter")
    if alive is None or not alive.is_fresh(SystemClock().now_ns()):
        raise ServiceError(f"the session has not said for seconds that it lives; see {log}")
    if alive.doing == "away":
        raise ServiceError(f"the session waits for its exchange; see {log}")
