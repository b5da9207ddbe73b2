"""A mail server that keeps what it is given: real SMTP on loopback, for the demo, for tests and for a laptop.

The server is aiosmtpd with its Maildir handler, as a process of its own, which ends with ours whatever ends that; each
mail becomes a file under ``new/``.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from market.errors import PortInUseError, ServiceError
from pipelines.workspace import MailServer

HOST = "127.0.0.1"
START_SECONDS = 15.0
STOP_SECONDS = 5.0
_TRIES = 3


@contextmanager
def running_mail_sink(folder: Path, *, port: int = 0) -> Iterator[MailServer]:
    """Keep mails in the Maildir ``folder`` while the block runs; ``port`` 0 takes a free one.

    Raises:
        PortInUseError: ``port`` is taken.
        ServiceError: the server did not come up.
    """
    process, address = _start(folder, port)
    try:
        yield address
    finally:
        _stop(process)


def _start(folder: Path, port: int) -> tuple[subprocess.Popen[bytes], MailServer]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.with_name(f"{folder.name}.log")
    for tries_left in reversed(range(_TRIES)):
        address = MailServer(host=HOST, port=_free_port(port))
        with log.open("ab") as sink:
            process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "pipelines.stack.mail_sink", str(address.port), str(folder)],
                stdin=subprocess.PIPE,  # closed by our end, whatever ends us: then the server ends as well
                stdout=sink,
                stderr=sink,
                start_new_session=True,  # Ctrl-C reaches us, and we stop the server in our order
            )
        if _wait(process, address):
            return process, address
        _stop(process)
        if port or not tries_left:
            break
    raise ServiceError(f"the mail sink did not come up on {address} within {START_SECONDS:g} s; its log is {log}")


def _free_port(wanted: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, wanted))
        except OSError:
            raise PortInUseError(
                f"port {wanted} on {HOST} is taken by another process; end it, or take a free port with 0"
            ) from None
        return int(probe.getsockname()[1])


def _wait(process: subprocess.Popen[bytes], address: MailServer) -> bool:
    """Whether the server greets before the time is up."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with socket.create_connection((address.host, address.port), timeout=1) as connection:
                if connection.recv(3) == b"220":
                    return True
        except OSError:
            pass
        time.sleep(0.05)
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.communicate(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def _serve(port: int, folder: str) -> None:
    """The server process: keeps mails until its input ends."""
    from aiosmtpd.controller import Controller
    from aiosmtpd.handlers import Mailbox

    controller = Controller(Mailbox(folder), hostname=HOST, port=port, enable_SMTPUTF8=False)
    controller.start()
    sys.stdin.buffer.read()
    controller.stop()


if __name__ == "__main__":
    _serve(int(sys.argv[1]), sys.argv[2])
