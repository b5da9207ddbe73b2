"""The local stack: asked through each server's own protocol, killed with 9 altogether, up again, down.

It is the stack that the other tests of this folder have worked on, and these come last.
"""

from __future__ import annotations

import os
import signal
import smtplib
import stat
from contextlib import closing, suppress
from email.message import EmailMessage
from typing import Any

import httpx
import psutil
import psycopg2
import pytest
import redis
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from kit.live_ring import LiveRing
from kit.local_stack import Stack, is_free, until
from kit.ring import run_keel

from pipelines.stack.processes import left_behind
from pipelines.stack.site import HOST, PORTS, Site

pytestmark = pytest.mark.heavy

SERVERS = {
    *("postgresql", "redis", "kafka", "mlflow", "triton", "prometheus", "alertmanager", "probe", "mail", "mail-page"),
    *("airflow-api", "airflow-scheduler", "airflow-dags", "airflow-triggerer", "exchange", "quoter"),
}
LEFT_OUT = "alertmanager"  # by the second start
LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


@pytest.fixture
def stack(ring: LiveRing) -> Stack:
    return ring.stack


def test_every_server_answers_and_one_screen_says_so(ring: LiveRing) -> None:
    stack, screen = ring.stack, ring.first_screen
    until(stack.is_well, every=1.0)
    status = stack.keel("status")
    assert (status["stack"], status["well"]) == (True, True)
    assert {each["name"]: each["state"] for each in status["servers"]} == dict.fromkeys(SERVERS, "up")
    assert f"{len(SERVERS)} of {len(SERVERS)} up" in screen
    assert "nobody has looked yet" in screen
    assert "no open approvals" in screen


def test_a_second_up_starts_nothing(stack: Stack) -> None:
    before = {name: each["pid"] for name, each in stack.states().items()}
    assert stack.up()["started"] == []
    assert {name: each["pid"] for name, each in stack.states().items()} == before


def test_nobody_from_outside_gets_in_and_no_password_is_on_a_command_line(stack: Stack) -> None:
    site = stack.site
    for name in (Site.PASSWORDS_FILE, Site.ENVIRONMENT_FILE):
        assert stat.S_IMODE((site.folder / name).stat().st_mode) == 0o600
    processes = left_behind(site)
    assert len(processes) > len(SERVERS)
    words = " ".join(word for process in processes for word in command_line(process))
    assert not [account for account, password in site.passwords.items() if password in words]
    mine = {process.pid for process in processes}
    listening = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.pid in mine]
    assert {c.laddr.port for c in listening} >= {site.port(name) for name in PORTS}
    assert {c.laddr.ip for c in listening} <= LOOPBACK
    assert httpx.get(site.url("mlflow"), trust_env=False).status_code == httpx.codes.UNAUTHORIZED
    assert httpx.get(f"{site.url('airflow')}/api/v2/dags", trust_env=False).status_code == httpx.codes.UNAUTHORIZED
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(host=HOST, port=site.port("redis")).ping()


def command_line(process: psutil.Process) -> list[str]:
    """Empty of one that has ended since it was found."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def test_ports_that_are_taken_are_named_with_who_has_them(stack: Stack) -> None:
    other = Stack(home=stack.home.parent / "other", first_port=stack.first_port)
    said = other.keel("up", "--first-port", str(stack.first_port), code=6)["error"]
    assert f"{stack.first_port} (postgresql) by process" in said
    assert f"keel up --first-port {stack.first_port + 1000}" in said
    assert left_behind(other.site) == []


def test_a_server_that_is_killed_is_started_again(stack: Stack) -> None:
    before = stack.states()["mlflow"]["pid"]
    os.kill(before, signal.SIGKILL)

    def is_back() -> bool:
        """MLflow to be up again"""
        now = stack.states()["mlflow"]
        return now["state"] == "up" and now["pid"] != before

    until(is_back, every=1.0)


def test_prometheus_hears_from_every_server(stack: Stack) -> None:
    def heard() -> bool:
        """Prometheus to have asked the probe"""
        url = f"{stack.site.url('prometheus')}/api/v1/query"
        found = httpx.get(url, params={"query": "keel_server_up"}, trust_env=False).json()["data"]["result"]
        answers = {each["metric"]["server"]: each["value"][1] for each in found}
        return answers == dict.fromkeys(SERVERS - {"probe"}, "1")

    until(heard)


def test_what_was_written_is_there_after_everything_was_killed_at_once(stack: Stack) -> None:
    site = stack.site
    write_a_little(site)
    kill_everything(site)
    assert run_keel(stack.home, "status").returncode in (0, 6)
    assert set(stack.up("--without", LEFT_OUT)["started"]) == SERVERS - {LEFT_OUT}
    until(stack.is_well, every=1.0)
    assert what_was_written(site) == ["kept"] * 4


def kill_everything(site: Site) -> None:
    """The supervisor first, so that it starts nothing again."""
    while processes := sorted(left_behind(site), key=lambda p: p.pid):
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=30)


def write_a_little(site: Site) -> None:
    with closing(feast_database(site)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE word (word text)")
        cursor.execute("INSERT INTO word VALUES ('kept')")
    redis_of(site).set("word", "kept")
    servers = {"bootstrap.servers": str(site.address("kafka"))}
    admin = AdminClient(servers)
    admin.create_topics([NewTopic("word", num_partitions=1)])["word"].result(60)
    answers: list[object] = []
    producer = Producer({**servers, "enable.idempotence": True})
    producer.produce("word", b"kept", on_delivery=lambda error, _message: answers.append(error))
    assert producer.flush(60) == 0
    assert answers == [None]
    runs(site, "create", {"name": "kept"}).raise_for_status()


def what_was_written(site: Site) -> list[str]:
    with closing(feast_database(site)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT word FROM word")
        row = cursor.fetchone()
        assert row is not None
    consumer = Consumer({"bootstrap.servers": str(site.address("kafka")), "group.id": "reader"})
    consumer.assign([TopicPartition("word", 0, 0)])
    message = consumer.poll(60)
    consumer.close()
    assert message is not None
    experiments = runs(site, "search", {"max_results": 100}).json()["experiments"]
    return [
        row[0],
        redis_of(site).get("word").decode(),
        (message.value() or b"").decode(),
        *(each["name"] for each in experiments if each["name"] == "kept"),
    ]


def feast_database(site: Site) -> Any:
    password = site.passwords["postgresql-feast"]
    return psycopg2.connect(host=HOST, port=site.port("postgresql"), dbname="feast", user="feast", password=password)


def redis_of(site: Site) -> Any:
    return redis.Redis(host=HOST, port=site.port("redis"), password=site.passwords["redis"])


def runs(site: Site, verb: str, body: dict[str, Any]) -> httpx.Response:
    """One call of MLflow's API on experiments, as the pipeline."""
    url = f"{site.url('mlflow')}/api/2.0/mlflow/experiments/{verb}"
    return httpx.post(url, json=body, auth=("keel", site.passwords["mlflow-keel"]), timeout=60, trust_env=False)


def test_a_mail_is_kept_and_can_be_read_on_the_page(stack: Stack) -> None:
    site = stack.site
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "keel@desk.example", "quant@desk.example", "drift in <b>spread</b>"
    mail.set_content("see the page")
    mail.add_alternative("<p>drifted</p><script>parent.stolen = 1</script>", subtype="html")
    with smtplib.SMTP(HOST, site.port("mail")) as smtp:
        smtp.send_message(mail)
    with httpx.Client(base_url=site.url("mail-page"), trust_env=False) as page:
        (kept,) = (each for each in page.get("/mails.json").json() if each["subject"].startswith("drift in"))
        assert "drift in &lt;b&gt;spread&lt;/b&gt;" in page.get("/").text
        html = page.get(f"/mails/{kept['key']}/html")
        assert "<p>drifted</p>" in html.text
        assert "sandbox" in html.headers["Content-Security-Policy"]
        assert page.get("/", headers={"Host": "elsewhere.example"}).status_code == httpx.codes.BAD_REQUEST


def test_down_leaves_no_process_and_no_port_but_the_data(stack: Stack) -> None:
    site = stack.site
    processes = left_behind(site)
    stopped = stack.keel("down")
    assert set(stopped["stopped"]) == SERVERS - {LEFT_OUT}
    assert [process for process in processes if process.is_running()] == []
    assert all(is_free(site.port(name)) for name in PORTS)
    assert (site.data("postgresql") / "PG_VERSION").is_file()
    assert stack.keel("down")["stopped"] == []
    assert "no stack" in run_keel(stack.home, "status").stdout
