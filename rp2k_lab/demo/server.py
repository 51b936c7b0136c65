"""The demo page's server, of the standard library alone: a page, and three requests that answer in JSON.

It listens at 127.0.0.1 and refuses requests for another host (a name that was rebound to 127.0.0.1) and from pages of
another origin.  No path of a request is opened.
"""

import base64
import binascii
import hashlib
import json
import logging
import re
import threading
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rp2k_lab import pages
from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.demo.jobs import Busy, Jobs
from rp2k_lab.pages.template import render

if TYPE_CHECKING:
    from rp2k_lab.demo.recognizer import Recognizer

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
MAX_BODY = 20_000_000  # bytes
MAX_PHOTOS = 20  # of a new product
_MAX_NAME = 200  # characters
_SILENCE_SECONDS = 30


class Refused(Exception):
    """A request that is not served: HTTP status, reason, way out."""

    def __init__(self, status: int, reason: str, way_out: str):
        super().__init__(reason)
        self.status, self.lines = status, [reason, way_out]


class DemoServer(ThreadingHTTPServer):
    """A server whose requests are answered by a recognizer in the thread of `jobs`.

    Attributes:
        recognizer: set before the first request.
        page: the page and the policy for its scripts and styles.
    """

    recognizer: "Recognizer"

    def __init__(self, port: int, jobs: Jobs):
        self.jobs, self.page = jobs, read_page()
        super().__init__((LOOPBACK, port), Handler)
        self.hosts = {f"{name}:{self.server_port}" for name in (LOOPBACK, "localhost")}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log a connection that the browser closed; `Handler` answers every other error."""
        log.debug("a connection ended", exc_info=True)


def listen(port: int, jobs: Jobs) -> DemoServer:
    """Return a server at a port of this machine; 0: a free one.

    Raises:
        RequestError: the port is not free.
    """
    try:
        return DemoServer(port, jobs)
    except OSError as error:
        reason = str(error.strerror).lower()
        raise RequestError(f"{LOOPBACK}:{port}: {reason}\nuse another port: PORT=8001 or --port 8001") from None


def serve_in_thread(server: DemoServer) -> None:
    """Answer requests in threads that end with the process."""
    threading.Thread(target=server.serve_forever, daemon=True, name="demo").start()


def read_page() -> tuple[bytes, str]:
    """Return the page with the stylesheet of all pages, and its content security policy."""
    style = render({}, Path(pages.__file__).parent / "base.css")
    page = Path(__file__).with_name("page.html").read_text("utf-8").replace("/* base.css */", style)
    sources = {}
    for tag in ("script", "style"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        sources[tag] = f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
    policy = (
        f"default-src 'none'; script-src {sources['script']}; style-src {sources['style']}; img-src data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page.encode(), policy


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: DemoServer
    server_version, sys_version = "rp2k-lab", ""
    timeout = _SILENCE_SECONDS

    def do_GET(self) -> None:
        """Answer with the page, or with what is recognized by which run."""
        if self.path == "/":
            self._answer(self._page)
        else:
            self._answer(partial(self._json, {"/about": self._about}))

    def do_POST(self) -> None:
        """Recognize a photo, or enroll a product."""
        self._answer(partial(self._json, {"/recognize": self._recognize, "/enroll": self._enroll}))

    def _answer(self, make: Callable[[], tuple[str, bytes]]) -> None:
        """Send what `make` returns (content type, body), or why it does not."""
        try:
            self._check_sender()
            status, (kind, body) = 200, make()
        except Exception as error:
            status, lines = _explain(error)
            kind, body = "application/json", json.dumps({"error": lines}).encode()
        self.send_response(status)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Content-Security-Policy": self.server.page[1],
        }
        headers |= {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
        headers |= {"Cross-Origin-Resource-Policy": "same-origin"}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _check_sender(self) -> None:
        hosts, origins = self.headers.get_all("Host", []), self.headers.get_all("Origin", [])
        if len(hosts) != 1 or hosts[0] not in self.server.hosts:
            raise Refused(403, "the request names another host", f"open http://{LOOPBACK}:{self.server.server_port}")
        if not set(origins) <= {f"http://{host}" for host in self.server.hosts}:
            raise Refused(403, "the request is of another page", f"open http://{LOOPBACK}:{self.server.server_port}")

    def _page(self) -> tuple[str, bytes]:
        return "text/html; charset=utf-8", self.server.page[0]

    def _json(self, answers: dict[str, Callable[[], Any]]) -> tuple[str, bytes]:
        if self.path not in answers:
            raise Refused(404, "there is no such address", "open /")
        return "application/json", json.dumps(answers[self.path](), allow_nan=False).encode()

    def _about(self) -> dict[str, Any]:
        return self.server.jobs.ask(self.server.recognizer.about)

    def _recognize(self) -> dict[str, Any]:
        photo = self._body("application/octet-stream")
        return self.server.jobs.ask(lambda: self.server.recognizer.recognize(photo))

    def _enroll(self) -> dict[str, Any]:
        name, photos = read_product(self._body("application/json"))
        return self.server.jobs.ask(lambda: self.server.recognizer.enroll(name, photos))

    def _body(self, kind: str) -> bytes:
        """Return the request's body.

        Raises:
            Refused: it is of another kind, empty, too large or cut off.
        """
        if self.headers.get_content_type() != kind:
            raise Refused(415, "the request has another content type", f"send {kind}")
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,18}", length) or "Transfer-Encoding" in self.headers:
            raise Refused(411, "the request has no length", "send Content-Length")
        if int(length) > MAX_BODY:
            raise Refused(413, f"the request has more than {MAX_BODY // 10**6} MB", "use smaller or fewer photos")
        body = self.rfile.read(int(length))
        if not body:
            raise Refused(400, "the photo has zero bytes", "use another photo")
        if len(body) < int(length):
            raise Refused(400, "the request is cut off", "send it again")
        return body

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the page shows what happened."""


def read_product(body: bytes) -> tuple[str, list[bytes]]:
    """Return the name and photos of {"name": …, "photos": [base64, …]}.

    Raises:
        Refused: it is something else, has no name, or no or too many photos.
    """
    try:
        product = json.loads(body)
        name, encoded = product["name"], product["photos"]
        name.encode()  # JSON may have half of a surrogate pair
        photos = [base64.b64decode(photo, validate=True) for photo in list(encoded)]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, binascii.Error):
        raise Refused(400, "the request is no product", 'send {"name": …, "photos": [base64, …]}') from None
    if not name.strip() or len(name) > _MAX_NAME:
        raise Refused(400, f"the product has no name of 1 to {_MAX_NAME} characters", "enter a name")
    if not 1 <= len(photos) <= MAX_PHOTOS:
        raise Refused(400, f"the product has {len(photos)} photos", f"choose 1 to {MAX_PHOTOS} photos")
    return name.strip(), photos


def _explain(error: Exception) -> tuple[int, list[str]]:
    """Return the HTTP status and at most two lines for the page."""
    if isinstance(error, Refused):
        return error.status, error.lines
    if isinstance(error, Busy):
        return 503, ["too many requests are waiting", "try again in a minute"]
    if isinstance(error, (RequestError, DataError)):
        return 422, str(error).split("\n")[:2]
    if isinstance(error, TimeoutError):
        return 408, ["the request did not arrive", "send it again"]
    log.error("a request failed", exc_info=error)
    return 500, [f"{type(error).__name__}: the server's terminal has the traceback", "try another photo"]
