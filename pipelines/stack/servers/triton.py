"""Triton with every version in service, on the model repository of the stack's home."""

from __future__ import annotations

import functools
import sys

from pipelines.stack.server import Server, get
from pipelines.stack.site import CHECKOUT, Site


def triton(site: Site) -> Server:
    """``keel triton`` on the stack's ports: it loads what is published and ends the server when it is ended."""
    ports = {name: str(site.port(f"triton-{name}")) for name in ("grpc", "http", "metrics")}
    words = [word for name, port in ports.items() for word in (f"--{name}-port", port)]
    return Server(
        name="triton",
        what="central inference",
        command=(sys.executable, "-m", "pipelines.cli", "triton", *words),
        ports=("triton-grpc", "triton-http", "triton-metrics"),
        # without KEEL_TRITON_GRPC: it is the server that the others are told of
        environment={"KEEL_HOME": str(site.home), "PYTHONPATH": str(CHECKOUT)},
        probe=functools.partial(_probe, site),
        stop_signal="INT",  # as Ctrl-C: the server is stopped and its shared memory put away
        stop_seconds=30,
    )


def _probe(site: Site) -> None:
    get(f"{site.url('triton-http')}/v2/health/ready")
