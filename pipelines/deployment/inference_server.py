"""The Triton that a stage works with: the one it was given, the one that is running, or a private one for the stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from market.errors import ServiceError
from pipelines.workspace import Address, Workspace
from serving.triton.client import TritonClient
from serving.triton.repository import ModelRepository, Platform
from serving.triton.server import TritonConfig, TritonServer, default_install, find_running, running_triton


def repository_of(workspace: Workspace, platform: Platform | None = None) -> ModelRepository:
    """Triton's model repository of a workspace; ``platform`` moves what is published there to another one."""
    return ModelRepository(workspace.triton_repository, platform)


@contextmanager
def inference_server(workspace: Workspace) -> Iterator[TritonClient]:
    """A client of ``workspace.triton_grpc``; without one, of the server that is up on this workspace; else of a private
    server that ends with the block. What a private server proved stays in the repository for the next one.

    Raises:
        ServiceError: the named server does not respond, or none can be started.
    """
    if workspace.triton_grpc is not None:
        with TritonClient(workspace.triton_grpc) as client:
            if not client.ready():
                raise ServiceError(
                    f"no Triton answers at {client.address} (KEEL_TRITON_GRPC); start it there, or unset the variable"
                )
            yield client
        return
    running = find_running(workspace.triton_repository)
    if running is not None:
        with TritonClient(running.endpoint) as client:
            yield client
        return
    private = running_triton(workspace.triton_repository, logs=workspace.logs)
    with private as endpoint, TritonClient(endpoint) as client:
        yield client


@dataclass(frozen=True, kw_only=True)
class TritonPorts:
    """Where a held server listens; 0 takes a free port."""

    grpc: int = 0
    http: int = 0
    metrics: int = 0


def hold_server(
    workspace: Workspace,
    *,
    announce: Callable[[str], None],
    wait: Callable[[], None] | None = None,
    ports: TritonPorts = TritonPorts(),  # frozen
) -> None:
    """Keep a server up with everything that is in service, until ``wait`` returns, Ctrl-C, or its end.

    Raises:
        PortInUseError: a requested port is taken.
        ServiceError: one is up already, it cannot be started, a version does not get ready, or it ended by itself.
    """
    there = find_running(workspace.triton_repository)
    if there is not None:
        raise ServiceError(f"process {there.pid} already serves {workspace.triton_repository} at {there.endpoint}")
    config = TritonConfig(
        install=default_install(),
        repository=workspace.triton_repository,
        logs=workspace.logs,
        grpc_port=ports.grpc,
        http_port=ports.http,
        metrics_port=ports.metrics,
    )
    with TritonServer(config) as server:
        endpoint = server.running.endpoint
        with TritonClient(endpoint) as client:
            repository = repository_of(workspace)
            for model in repository.published():
                client.load(model, repository.published_versions(model))
                announce(f"{model}: versions {', '.join(map(str, client.served(model)))}")
        announce(f"Triton answers gRPC at {Address(host=endpoint.host, port=endpoint.port)}; Ctrl-C stops it")
        (wait or server.watch)()
