"""A real broker that asks for TLS and a password: the same verbs, told nothing but environment variables."""

from __future__ import annotations

import socket
import subprocess
from contextlib import ExitStack

import pytest
from kit.kafka_broker import needs_kafka
from kit.landed_lake import contents
from kit.wire_frames import ToyExchange, stamped, write_lines

from market.errors import ServiceError
from market.lake.lake import Lake
from pipelines.ingestion.forward import ForwardConfig, forward
from pipelines.ingestion.ingest import IngestConfig, ingest
from pipelines.stack.kafka_node import KafkaConfig, KafkaNode, default_install
from pipelines.workspace import Workspace

pytestmark = [pytest.mark.heavy, needs_kafka]

KEY = "binance-usdm.BTCUSDT"
PASSWORD = "of the test's own broker"  # noqa: S105
STORE = "keystore of the test"


def free_ports(count):
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def keytool(*words):
    subprocess.run(["keytool", *words, "-alias", "broker", "-storepass", STORE], check=True, capture_output=True)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """``(host:port, certificate)`` of a broker's listener with SASL_SSL."""
    folder = tmp_path_factory.mktemp("guarded")
    store, certificate = folder / "store.p12", folder / "ca.pem"
    names = ["-dname", "CN=localhost", "-ext", "san=dns:localhost,ip:127.0.0.1"]
    keytool("-genkeypair", "-keyalg", "EC", "-storetype", "PKCS12", "-keystore", str(store), "-validity", "2", *names)
    keytool("-exportcert", "-rfc", "-keystore", str(store), "-file", str(certificate))
    plain, controller, secure = free_ports(3)
    module = "org.apache.kafka.common.security.plain.PlainLoginModule"
    settings = {
        "listeners": f"PLAINTEXT://127.0.0.1:{plain},CONTROLLER://127.0.0.1:{controller},SASL_SSL://127.0.0.1:{secure}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{plain},SASL_SSL://localhost:{secure}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL",
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl_ssl.plain.sasl.jaas.config": f'{module} required user_keel="{PASSWORD}";',
        "ssl.keystore.type": "PKCS12",
        "ssl.keystore.location": str(store),
        "ssl.keystore.password": STORE,
    }
    config = KafkaConfig(
        folder=folder / "kafka",
        install=default_install(),
        port=plain,
        controller_port=controller,
        settings=tuple(settings.items()),
    )
    with KafkaNode(config):
        yield f"localhost:{secure}", certificate


@pytest.fixture
def variables(guarded, monkeypatch):
    servers, certificate = guarded
    given = {
        "SERVERS": servers,
        "SECURITY": "SASL_SSL",
        "CA_FILE": str(certificate),
        "SASL_MECHANISM": "PLAIN",
        "SASL_USER": "keel",
        "SASL_PASSWORD": PASSWORD,
    }
    for name, value in given.items():
        monkeypatch.setenv(f"KEEL_KAFKA_{name}", value)
    return monkeypatch


def test_frames_go_through_a_cluster_with_tls_and_a_password(variables, tmp_path):
    lines = list(stamped(ToyExchange(seed=3).session(seconds=20, rate=20)))
    recording = write_lines(tmp_path / "toy.txt", lines)
    workspace = Workspace(home=tmp_path)
    sent = forward(ForwardConfig(files=(str(recording),), to="kafka:///frames", partitions=1), workspace=workspace)
    assert sent.frames == len(lines)
    ingest(IngestConfig(url="kafka:///frames", instrument=KEY, drain=True), workspace=workspace)
    assert len(contents(Lake(workspace.lake))["raw"]) == len(lines)


@pytest.mark.parametrize(("name", "value"), [("SASL_PASSWORD", "wrong"), ("CA_FILE", "")])
def test_a_wrong_password_and_an_unknown_certificate_are_said_without_the_secret(variables, tmp_path, name, value):
    variables.setenv(f"KEEL_KAFKA_{name}", value)
    with pytest.raises(ServiceError, match=r"refused us .* check the KEEL_KAFKA_ settings") as refused:
        ingest(IngestConfig(url="kafka:///frames", instrument=KEY, drain=True), workspace=Workspace(home=tmp_path))
    assert PASSWORD not in str(refused.value)
