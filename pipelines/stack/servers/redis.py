"""Redis: Feast's online store. Every write is in its append-only file within a second."""

from __future__ import annotations

import functools

from pipelines.stack.server import PROBE_SECONDS, Server, spoken
from pipelines.stack.site import HOST, Site


def redis(site: Site) -> Server:
    """The server under ``data/redis``, on loopback, with a password."""
    return Server(
        name="redis",
        what="online features (Feast)",
        command=("redis-server", str(site.conf / "redis.conf")),
        ports=("redis",),
        prepare=functools.partial(_prepare, site),
        probe=functools.partial(_probe, site),
    )


def _prepare(site: Site) -> None:
    site.render("local/redis.conf.j2")


def _probe(site: Site) -> None:
    import redis

    client = redis.Redis(
        host=HOST, port=site.port("redis"), password=site.passwords["redis"], socket_timeout=PROBE_SECONDS
    )
    with spoken(f"Redis at {site.address('redis')}", redis.RedisError):
        client.ping()
    client.close()
