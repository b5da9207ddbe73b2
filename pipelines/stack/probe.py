"""``python -m pipelines.stack.probe FOLDER``: what ``keel status`` finds, as metrics, looked at anew at each scrape."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from market.errors import KeelError, ServiceError
from pipelines.alerting import escalate
from pipelines.stack.catalog import chosen_servers
from pipelines.stack.server import Server
from pipelines.stack.site import HOST, Site, find
from pipelines.stack.status import checks_of
from pipelines.workspace import Workspace

_STATES: Final = {"pass": 0, "warn": 1, "fail": 2}


class Checks(Collector):
    """``keel_check{instrument,check}``: 0 passes, 1 warns, 2 fails at the last look; unknown ones are left out.
    ``keel_alerts{instrument,kind}``: alerts that were raised so far, drifts and failing checks."""

    def __init__(self, ring: Workspace) -> None:
        self._ring = ring

    def collect(self) -> Iterable[Metric]:
        state = GaugeMetricFamily("keel_check", "0 passes, 1 warns, 2 fails", labels=["instrument", "check"])
        raised = CounterMetricFamily("keel_alerts", "alerts raised so far", labels=["instrument", "kind"])
        try:
            for each in checks_of(self._ring):
                for name, verdict in each.verdicts.items():
                    if verdict in _STATES:
                        state.add_metric([each.instrument, name], _STATES[verdict])
            for (instrument, kind), count in sorted(escalate.raised(self._ring).items()):
                raised.add_metric([instrument, kind], count)
        except KeelError as error:  # the other metrics are told all the same
            sys.stderr.write(f"checks are not told: {error}\n")
        yield state
        yield raised


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
    registry.register(Checks(Workspace(home=site.home)))
    start_http_server(site.port("probe"), addr=HOST, registry=registry)
    threading.Event().wait()


if __name__ == "__main__":
    main()
