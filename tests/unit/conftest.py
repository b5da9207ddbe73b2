"""One mail server for all unit tests: what it received is looked at test by test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.stack.mail_sink import running_mail_sink
from pipelines.workspace import MailServer


@pytest.fixture(scope="session")
def mail_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[MailServer, Path]]:
    folder = tmp_path_factory.mktemp("mail") / "received"
    with running_mail_sink(folder) as address:
        yield address, folder


@pytest.fixture
def sink(mail_server: tuple[MailServer, Path], tmp_path: Path) -> MailServer:
    """Its address; ``tmp_path / "sink" / "new"`` holds the mails that come during the test, and no others."""
    address, folder = mail_server
    for mail in (folder / "new").iterdir():
        mail.unlink()
    (tmp_path / "sink").symlink_to(folder)
    return address
