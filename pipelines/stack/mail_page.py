"""``python -m pipelines.stack.mail_page MAILDIR PORT``: a page on loopback that shows the mail of a Maildir.

A mail is what a stranger wrote: its HTML is shown in a frame without scripts, forms or a way out, and pictures come
from the mail itself only.
"""

from __future__ import annotations

import mailbox
import sys
from dataclasses import dataclass
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default
from email.utils import parsedate_to_datetime
from pathlib import Path

import jinja2
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

HOST = "127.0.0.1"
_TEMPLATES = Path(__file__).parent
# for the mail's own HTML: nothing is run, nothing is fetched from elsewhere
_LOCKED = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; sandbox"


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A line of the list. ``key`` is the Maildir's name of the mail."""

    key: str
    date: str
    sender: str
    recipients: str
    subject: str


def application(folder: Path) -> Starlette:
    """The page of the Maildir ``folder``; its mails are read anew at every request."""
    pages = jinja2.Environment(loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True)

    def index(_request: Request) -> Response:
        return HTMLResponse(pages.get_template("mails.html.j2").render(mails=summaries(folder)))

    def listing(_request: Request) -> Response:
        return JSONResponse([vars(each) for each in summaries(folder)])

    def show(request: Request) -> Response:
        mail = _read(folder, request.path_params["key"])
        html = mail.get_body(("html",))
        plain = mail.get_body(("plain",))
        page = pages.get_template("mail_page.html.j2")
        text = str(plain.get_content()) if plain is not None else ""
        return HTMLResponse(page.render(mail=_summary(request.path_params["key"], mail), text=text, html=bool(html)))

    def body(request: Request) -> Response:
        found = _read(folder, request.path_params["key"]).get_body(("html",))
        if found is None:
            raise HTTPException(404, "this mail has no HTML")
        html = str(found.get_content()).replace("cid:", f"/mails/{request.path_params['key']}/parts/")
        return HTMLResponse(html, headers={"Content-Security-Policy": _LOCKED})

    def part(request: Request) -> Response:
        wanted = f"<{request.path_params['name']}>"
        for each in _read(folder, request.path_params["key"]).walk():
            if each["Content-ID"] == wanted and each.get_content_maintype() == "image":
                content = each.get_payload(decode=True)
                return Response(
                    content, media_type=each.get_content_type(), headers={"Content-Security-Policy": _LOCKED}
                )
        raise HTTPException(404, f"this mail has no picture {wanted}")

    routes = [
        Route("/", index),
        Route("/mails.json", listing),
        Route("/mails/{key}", show),
        Route("/mails/{key}/html", body),
        Route("/mails/{key}/parts/{name}", part),
    ]
    # a page elsewhere must not reach the mails through a name that it points at loopback
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    return Starlette(routes=routes, middleware=[hosts])


def summaries(folder: Path) -> list[Summary]:
    """Every mail, the last to arrive first."""
    if not folder.is_dir():
        return []
    box = mailbox.Maildir(folder, create=False)
    arrived = sorted(box.keys(), key=lambda key: _arrival(folder, key), reverse=True)
    return [_summary(key, _read(folder, key)) for key in arrived]


def _arrival(folder: Path, key: str) -> float:
    return max((path.stat().st_mtime for path in folder.glob(f"*/{key}*")), default=0.0)


def _read(folder: Path, key: str) -> EmailMessage:
    try:
        content = mailbox.Maildir(folder, create=False).get_bytes(key)
    except (KeyError, mailbox.NoSuchMailboxError):
        raise HTTPException(404, "there is no such mail") from None
    return BytesParser(EmailMessage, policy=default).parsebytes(content)


def _summary(key: str, mail: EmailMessage) -> Summary:
    return Summary(
        key=key,
        date=_date(str(mail["Date"] or "")),
        sender=str(mail["From"] or ""),
        recipients=str(mail["To"] or ""),
        subject=str(mail["Subject"] or "(no subject)"),
    )


def _date(header: str) -> str:
    try:
        return parsedate_to_datetime(header).isoformat(sep=" ", timespec="seconds")
    except (ValueError, TypeError):
        return header


def main() -> None:
    """Serve until stopped."""
    import uvicorn

    folder, port = sys.argv[1:]
    uvicorn.run(application(Path(folder)), host=HOST, port=int(port), log_level="warning")


if __name__ == "__main__":
    main()
