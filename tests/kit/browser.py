"""Pages of a stack as a person sees them: the machine's own chromium, headless, and pictures of what it shows."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from kit.ring import ROOT
from pipelines.stack.site import Site

# where pictures are kept; the walkthrough's are taken with SCREENSHOTS=docs/pictures
PICTURES = Path(os.environ.get("SCREENSHOTS", ROOT / ".screenshots"))
WIDE = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}


@contextmanager
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium here; run infra/local/install_stack.sh --with-browser")
    with sync_playwright() as player:
        # without a sandbox: tests may run as root, and open pages of this machine only
        opened = player.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        try:
            yield opened
        finally:
            opened.close()


def sign_in_to_airflow(opened: Browser, site: Site, account: str) -> Page:
    """Airflow's pages for an account of the stack."""
    page = opened.new_page(viewport=WIDE)
    page.goto(f"{site.url('airflow')}/auth/login")
    page.fill("input[name=username]", account)
    page.fill("input[name=password]", site.passwords[f"airflow-{account}"])
    page.click("button[type=submit]")
    page.wait_for_url(lambda url: "/auth/login" not in url)
    return page


def open_mlflow(opened: Browser, site: Site, account: str, path: str) -> Page:
    """A page of MLflow for an account of the stack."""
    login = {"username": account, "password": site.passwords[f"mlflow-{account}"]}
    page = opened.new_context(viewport=WIDE, http_credentials=login).new_page()
    page.goto(f"{site.url('mlflow')}/{path}")
    return page


def picture(page: Page, name: str, *, whole: bool = False) -> Path:
    """Keep what a page shows now."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    path = PICTURES / f"{name}.png"
    page.screenshot(path=path, full_page=whole)
    return path
