"""``python -m pipelines.stack.probe FOLDER``: what ``keel status`` finds, as metrics, looked at anew at each scrape."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from market.errors import ServiceError
from pipelines.stack.catalog import chosen_servers
from pipelines.stack.server import Server
from pipelines.stack.site import HOST, Site, find


class Probes(Collector):
    """``keel_server_up{server}``: 1 when a server answers through its own protocol, else 0."""

    def __init__(self, site: Site) -> None:
        self._servers = [server for server in chosen_servers(site) if server.name != "probe"]

    def collect(self) -> Iterable[GaugeMetricFamily]:
        up = GaugeMetricFamily("keel_server_up", "1 when the server answers through its protocol", labels=["server"])
        with ThreadPoolExecutor(4) as pool:
            for server, answers in zip(self._servers, pool.map(_answers, self._servers), strict=True):
                up.add_metric([server.name], float(answers))
        yield up


def _answers(server: Server) -> bool:
    try:
        server.probe()
    except ServiceError:
        return False
    return True


def main() -> None:
    """Serve until stopped."""
    site = find(Path(sys.argv[1]))
    if site is None:
        sys.exit(f"no stack was started in {sys.argv[1]}")
    registry = CollectorRegistry()  # which does not collect at registration: nothing is asked before the port is open
    registry.register(Probes(site))
    start_http_server(site.port("probe"), addr=HOST, registry=registry)
    threading.Event().wait()


if __name__ == "__main__":
    main()
