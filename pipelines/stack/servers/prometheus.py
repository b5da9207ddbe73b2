"""Prometheus, Alertmanager, and the probe that tells them which servers answer."""

from __future__ import annotations

import functools
import shutil
import sys

from pipelines.stack.environment import mail_server
from pipelines.stack.server import Server, get
from pipelines.stack.site import CHECKOUT, HOST, Site
from pipelines.workspace import MailServer

_KEEP = "15d"


def prometheus(site: Site) -> Server:
    """Scrapes what has metrics; rules from ``infra/prometheus``."""
    return Server(
        name="prometheus",
        what="metrics and alert rules",
        command=(
            "prometheus",
            f"--config.file={site.conf / 'prometheus.yml'}",
            f"--storage.tsdb.path={site.data('prometheus')}",
            f"--storage.tsdb.retention.time={_KEEP}",
            f"--web.listen-address={site.address('prometheus')}",
            f"--web.external-url={site.url('prometheus')}",
        ),
        ports=("prometheus",),
        prepare=functools.partial(_prepare, site),
        probe=lambda: _ready(site, "prometheus"),
        page=site.url("prometheus"),
    )


def alertmanager(site: Site) -> Server:
    """Mails what fires to the stack's mail server. No gossip: its port would be open to the network."""
    # Debian's name for it, else its own
    binary = next((name for name in ("prometheus-alertmanager", "alertmanager") if shutil.which(name)), "alertmanager")
    return Server(
        name="alertmanager",
        what="mails what fires",
        command=(
            binary,
            f"--config.file={site.conf / 'alertmanager.yml'}",
            f"--storage.path={site.data('alertmanager')}",
            f"--web.listen-address={site.address('alertmanager')}",
            f"--web.external-url={site.url('alertmanager')}",
            "--cluster.listen-address=",
        ),
        ports=("alertmanager",),
        prepare=lambda: _prepare_alertmanager(site),
        probe=lambda: _ready(site, "alertmanager"),
        page=site.url("alertmanager"),
    )


def probe(site: Site) -> Server:
    """Asks every server what ``keel status`` asks, and serves the answers as metrics."""
    return Server(
        name="probe",
        what="tells Prometheus which servers answer",
        command=(sys.executable, "-m", "pipelines.stack.probe", str(site.folder)),
        environment={"PYTHONPATH": str(CHECKOUT)},
        ports=("probe",),
        probe=lambda: _answers(site),
    )


def _prepare(site: Site) -> None:
    site.render("prometheus/prometheus.yml.j2", rules=CHECKOUT / "infra" / "prometheus" / "rules")


def _prepare_alertmanager(site: Site) -> None:
    server = mail_server(site) or MailServer(host=HOST, port=site.port("mail"))  # without one, alerts are on its page
    site.render("prometheus/alertmanager.yml.j2", mail=server, password=server.password.get_secret_value())


def _ready(site: Site, name: str) -> None:
    get(f"http://{HOST}:{site.port(name)}/-/ready")


def _answers(site: Site) -> None:
    # all metrics would ask every other server first, and so be as slow as the slowest of them; asking for none is free
    get(f"{site.url('probe')}/metrics", params={"name[]": "none"})
