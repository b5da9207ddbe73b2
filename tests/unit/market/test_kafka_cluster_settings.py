"""Invalid settings of a Kafka cluster are rejected before anything is sent, and no secret is shown."""

from __future__ import annotations

import pytest

from market.bus.cluster import Cluster, topic_named
from market.errors import SettingsError
from pipelines import settings

SCRAM = {"sasl_mechanism": "SCRAM-SHA-512", "sasl_user": "keel", "sasl_password": "hunter2"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"servers": "nowhere"}, "host:port"),
        ({"servers": "a:1,b"}, "saw 'b'"),
        ({"servers": "kafka.example:9092"}, "KEEL_KAFKA_SECURITY"),
        ({"security": "TLS"}, "saw 'TLS'"),
        ({"ca_file": "/etc/ca.pem"}, "ca_file is given but its security is PLAINTEXT"),
        ({"security": "SSL", "ca_file": "/nonexistent.pem"}, "there is no file /nonexistent.pem"),
        ({"security": "SSL", "certificate_file": "/c.pem"}, "together"),
        ({"security": "SSL", "key_password": "hunter2"}, "without a key_file"),
        ({"security": "SSL", **SCRAM}, "use SASL_SSL"),
        ({"security": "SASL_SSL", **SCRAM, "sasl_mechanism": "GSSAPI"}, "saw 'GSSAPI'"),
        ({"security": "SASL_SSL", **SCRAM, "sasl_password": ""}, "sasl_user and sasl_password"),
        (
            {"servers": "kafka.example:9", "security": "SASL_PLAINTEXT", **SCRAM, "sasl_mechanism": "PLAIN"},
            "in the clear",
        ),
    ],
)
def test_settings_that_cannot_work_are_rejected_without_showing_secrets(given, said):
    with pytest.raises(SettingsError, match=said) as refused:
        Cluster(**{"servers": "127.0.0.1:9092", **given})
    assert "hunter2" not in str(refused.value)


def test_secrets_reach_only_the_library():
    cluster = Cluster(servers="kafka.example:9093", security="SASL_SSL", **SCRAM)
    assert "hunter2" not in repr(cluster)
    client = cluster.client()
    assert (client["sasl.password"], client["security.protocol"]) == ("hunter2", "SASL_SSL")
    assert "ssl.ca.location" not in client  # the system's


def test_a_production_cluster_is_configured_by_the_environment_alone(monkeypatch):
    monkeypatch.setenv("KEEL_KAFKA_SERVERS", "a.example:9093,b.example:9093")
    monkeypatch.setenv("KEEL_KAFKA_SECURITY", "SASL_SSL")
    for name, value in SCRAM.items():
        monkeypatch.setenv(f"KEEL_KAFKA_{name.upper()}", value)
    settings.workspace()  # every variable is a known one
    assert settings.kafka_topic("kafka:///frames") == (
        Cluster(servers="a.example:9093,b.example:9093", security="SASL_SSL", **SCRAM),
        "frames",
    )


@pytest.mark.parametrize("url", ["kafka://127.0.0.1:9092", "kafka:///frames", "http://127.0.0.1/frames"])
def test_an_address_without_a_topic_or_a_cluster_is_rejected(url, monkeypatch):
    monkeypatch.delenv("KEEL_KAFKA_SERVERS", raising=False)
    with pytest.raises(SettingsError, match="kafka://host:port/topic"):
        settings.kafka_topic(url)


@pytest.mark.parametrize("name", ["", "..", "a/b", "a b", "x" * 250])
def test_a_topic_that_kafka_does_not_allow_is_rejected(name):
    with pytest.raises(SettingsError, match="249"):
        topic_named(name)
