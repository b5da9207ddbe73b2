"""Every server of the stack, in the order a person reads them."""

from __future__ import annotations

from pipelines.stack.server import Server
from pipelines.stack.servers.airflow import airflow
from pipelines.stack.servers.exchange import exchange
from pipelines.stack.servers.kafka import kafka
from pipelines.stack.servers.mail import mail, mail_page
from pipelines.stack.servers.mlflow import mlflow
from pipelines.stack.servers.postgresql import postgresql
from pipelines.stack.servers.prometheus import alertmanager, probe, prometheus
from pipelines.stack.servers.quoter import quoter
from pipelines.stack.servers.redis import redis
from pipelines.stack.servers.triton import triton
from pipelines.stack.site import Site


def every_server(site: Site) -> tuple[Server, ...]:
    """All there are, those left out too."""
    return (
        postgresql(site),
        redis(site),
        kafka(site),
        mlflow(site),
        *airflow(site),
        triton(site),
        prometheus(site),
        alertmanager(site),
        probe(site),
        mail(site),
        mail_page(site),
        exchange(site),
        quoter(site),
    )


def chosen_servers(site: Site) -> tuple[Server, ...]:
    """Those of this site, without what was left out."""
    return tuple(server for server in every_server(site) if server.name not in site.chosen.without)
