"""The demo's server with a stand-in for the recognizer: requests that it answers, and those that it refuses."""

import base64
import http.client
import json
import re
import socket
import threading
import time
from types import SimpleNamespace

import pytest

from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.demo import jobs as jobs_module
from rp2k_lab.demo.jobs import Busy, Jobs
from rp2k_lab.demo.server import LOOPBACK, MAX_BODY, listen, read_page, serve_in_thread

BYTES, JSON = "application/octet-stream", "application/json"


class StandIn:
    """Answers what it was asked, or raises `error`."""

    def __init__(self):
        self.error, self.threads = None, set()

    def _answer(self, answer):
        self.threads.add(threading.current_thread().name)
        if self.error:
            raise self.error
        return answer

    def about(self):
        return self._answer({"run": "a <b>run</b>"})

    def recognize(self, photo):
        return self._answer({"photo": photo.decode()})

    def enroll(self, name, photos):
        return self._answer({"name": name, "photos": [photo.decode() for photo in photos]})


@pytest.fixture(scope="module")
def served():
    """A served stand-in; `ask(path, …)` returns (status, answer, headers)."""
    jobs = Jobs()
    with listen(0, jobs) as server:
        server.recognizer = StandIn()
        threading.Thread(target=jobs.run, daemon=True, name="main").start()
        serve_in_thread(server)

        def ask(path, body=None, kind=BYTES, method=None, **headers):
            connection = http.client.HTTPConnection(LOOPBACK, server.server_port, timeout=10)
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            if body is not None:
                given = {"Content-Type": kind} | given
            connection.request(method or ("GET" if body is None else "POST"), path, body, given)
            response = connection.getresponse()
            text = response.read()
            answer = json.loads(text) if response.getheader("Content-Type") == JSON else text.decode()
            connection.close()
            return response.status, answer, response.headers

        yield SimpleNamespace(ask=ask, server=server, jobs=jobs, recognizer=server.recognizer)
        server.shutdown()


@pytest.fixture
def demo(served):
    """`served` without an error."""
    served.recognizer.error = None
    return served


def product(name="Zig", photos=(b"one", b"two")):
    return json.dumps({"name": name, "photos": [base64.b64encode(photo).decode() for photo in photos]}).encode()


def test_the_page_needs_no_network_and_makes_no_markup_of_data(demo):
    status, page, headers = demo.ask("/")
    assert status == 200
    assert "--ground: #f5f6f8" in page  # base.css
    assert not re.search(r"https?://|innerHTML|insertAdjacentHTML|document\.write|eval\(| on\w+=", page)
    policy = headers["Content-Security-Policy"]
    assert policy == read_page()[1]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_requests_are_answered_in_one_thread(demo):
    assert demo.ask("/about")[:2] == (200, {"run": "a <b>run</b>"})
    assert demo.ask("/recognize", b"photo")[:2] == (200, {"photo": "photo"})
    name = "../../\"'<script>\n伊利"
    assert demo.ask("/enroll", product(name), JSON)[:2] == (200, {"name": name, "photos": ["one", "two"]})
    assert demo.recognizer.threads == {"main"}


def test_it_listens_on_this_machine_alone(demo):
    assert demo.server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1", "127.0.0.1:1", ""])
def test_another_host_is_refused(demo, host):
    assert demo.ask("/", Host=host)[0] == 403
    assert demo.ask("/recognize", b"photo", Host=host)[0] == 403


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1", "http://127.0.0.1:1"])
def test_another_origin_is_refused(demo, origin):
    assert demo.ask("/recognize", b"photo", Origin=origin)[0] == 403
    assert demo.ask("/enroll", product(), JSON, Origin=origin)[0] == 403


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_its_own_origin_is_served(demo, name):
    host = f"{name}:{demo.server.server_port}"
    assert demo.ask("/recognize", b"photo", Host=host, Origin=f"http://{host}")[0] == 200


@pytest.mark.parametrize("path", ["/../../etc/passwd", "/page.html", "/etc/passwd", "/%2e%2e/", "/about?x=1"])
def test_no_path_is_opened(demo, path):
    assert demo.ask(path)[0] == 404
    assert demo.ask(path, b"photo")[0] == 404


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "HEAD"])
def test_other_methods_are_refused(demo, method):
    assert demo.ask("/", method=method)[0] == 501


def test_other_bodies_are_refused(demo):
    for kind in ("text/plain", JSON, "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"):
        assert demo.ask("/recognize", b"photo", kind)[0] == 415
    assert demo.ask("/enroll", product(), BYTES)[0] == 415
    status, answer, _ = demo.ask("/recognize", b"")
    assert (status, answer) == (400, {"error": ["the photo has zero bytes", "use another photo"]})


def raw(demo, *lines, body=b""):
    """Send a request as written, and return the first line of the response."""
    with socket.create_connection(demo.server.server_address, timeout=10) as connection:
        host = f"Host: 127.0.0.1:{demo.server.server_port}"
        head = "\r\n".join(["POST /recognize HTTP/1.1", host, f"Content-Type: {BYTES}", *lines, "", ""])
        connection.sendall(head.encode() + body)
        connection.shutdown(socket.SHUT_WR)
        return connection.makefile("rb").readline().decode()


def test_lengths_are_checked_before_a_body_is_read(demo):
    assert "411" in raw(demo)
    assert "413" in raw(demo, f"Content-Length: {MAX_BODY + 1}")
    assert "413" in raw(demo, f"Content-Length: {'9' * 18}")
    for length in ("-1", "1e3", "٣", "9" * 19, "", "1, 1"):
        assert "411" in raw(demo, f"Content-Length: {length}"), length
    assert "411" in raw(demo, "Content-Length: 5", "Transfer-Encoding: chunked", body=b"0\r\n\r\n")
    assert "400" in raw(demo, "Content-Length: 10", body=b"cut")
    assert "200" in raw(demo, "Content-Length: 5", body=b"photo")
    assert "403" in raw(demo, "Host: evil.example", "Content-Length: 5", body=b"photo")


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b"7", b"null", b'"x"', b"\xff", b"[" * 100_000, b'{"name": "x"}', b'{"name": 7, "photos": ["aGk="]}',
     b'{"name": "x", "photos": 7}', b'{"name": "x", "photos": [7]}', b'{"name": "x", "photos": ["no base64!"]}',
     b'{"name": "\\ud800", "photos": ["aGk="]}', "{\"name\": \"x\", \"photos\": [\"é\"]}".encode()],
)  # fmt: skip
def test_what_is_no_product_is_refused(demo, body):
    status, answer, _ = demo.ask("/enroll", body, JSON)
    assert (status, answer["error"][0]) == (400, "the request is no product")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (product(" \n"), "the product has no name of 1 to 200 characters"),
        (product("x" * 201), "the product has no name of 1 to 200 characters"),
        (product(photos=()), "the product has 0 photos"),
        (product(photos=[b"x"] * 21), "the product has 21 photos"),
    ],
)
def test_wrong_products_are_refused(demo, body, reason):
    assert demo.ask("/enroll", body, JSON)[:2][1]["error"][0] == reason


@pytest.mark.parametrize("kind", [RequestError, DataError])
def test_errors_of_the_project_come_in_two_lines(demo, kind):
    demo.recognizer.error = kind("photo 1: is of one color\nremove it")
    status, answer, _ = demo.ask("/recognize", b"photo")
    assert (status, answer) == (422, {"error": ["photo 1: is of one color", "remove it"]})


def test_other_errors_are_logged_and_the_server_lives(demo, caplog):
    demo.recognizer.error = ZeroDivisionError("/secret/path")
    status, answer, _ = demo.ask("/recognize", b"photo")
    assert status == 500
    assert answer["error"][0].startswith("ZeroDivisionError")
    assert "/secret" not in str(answer)
    assert "/secret/path" in caplog.text
    demo.recognizer.error = None
    assert demo.ask("/recognize", b"photo")[0] == 200


def test_too_many_waiting_requests_are_refused(monkeypatch):
    monkeypatch.setattr(jobs_module, "_WAITING", 1)
    jobs = Jobs()
    threading.Thread(target=jobs.ask, args=[lambda: None], daemon=True).start()
    while not jobs._waiting.full():
        time.sleep(0.001)
    with pytest.raises(Busy):
        jobs.ask(lambda: None)


def test_a_port_in_use_is_named_in_two_lines(demo):
    with pytest.raises(RequestError, match=rf"127.0.0.1:{demo.server.server_port}: address already in use\nuse "):
        listen(demo.server.server_port, demo.jobs)
