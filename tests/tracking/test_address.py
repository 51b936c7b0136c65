"""Addresses of stores: which are refused before anything is trained, and what errors of a store mean."""

import http.server
import os
import re
import socket
import threading
from contextlib import contextmanager

import mlflow  # noqa: F401  (its import starts a process)
import pytest

from rp2k_lab.config.schema import parse
from rp2k_lab.core.errors import RequestError
from rp2k_lab.tracking import address as module
from rp2k_lab.tracking.address import StoreUnavailable, check_address, error_line, is_transient
from rp2k_lab.tracking.mlflow_store import connect, page_location, server_location, store_uri, unreachable


@contextmanager
def answering(status=200, body=b"<!doctype html><html>\nnot MLflow"):
    """A web server with one answer; yields its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def closed():
    """The address of a port where nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{free.getsockname()[1]}"


WRONG = {
    "localhost:5000": ("has no scheme", "use tracking.uri=http://localhost:5000"),
    "10.0.0.1:5000/prefix": ("has no scheme", "use tracking.uri=http://10.0.0.1:5000/prefix"),
    "[::1]:5000": ("has no scheme", "use tracking.uri=http://[::1]:5000"),
    "http://host:5000/#/experiments/1": ("the address of a page", "use the server's: tracking.uri=http://host:5000"),
    "https://host/a/?b=1": ("the address of a page", "use the server's: tracking.uri=https://host/a"),
    "http://": ("not an address", "name the server"),
    "http://a b:1": ("not an address", "name the server"),
    "http:/host:1": ("not an address", "add the slashes"),
    "http://host:port": ("Port could not be cast", "use an address of the form"),
    "http://[::1": ("Invalid IPv6", "use an address of the form"),
    "./mlruns": ("MLflow 3 keeps no store in a folder", "use tracking.uri=sqlite:///FILE"),
    "file:///a/mlruns": ("MLflow 3 keeps no store in a folder", "use tracking.uri=sqlite:///FILE"),
    "/a/b.db": ("has no scheme", "use tracking.uri=sqlite:////a/b.db"),
    "sqlite:/a/b": ("has no scheme", "use tracking.uri=sqlite:////a/b"),
    "sqlite://": ("ends with its process", "use sqlite:///FILE"),
    "sqlite:///:memory:": ("ends with its process", "use sqlite:///FILE"),
    "sqlite:////tmp": ("is a folder", "use the file in it"),
    "ftp://host": ("MLflow has no such stores", "use http://127.0.0.1:5000, sqlite:///FILE or postgresql"),
    "postgresql+nosuch://host/a": ("nosuch", "use http://"),
    "mysql://host/a": ("no module named MySQLdb", "install it: pip install 'mysqlclient'"),
}


@pytest.mark.parametrize(("address", "words"), WRONG.items())
def test_a_wrong_address_is_refused_with_the_configuration(defaults, address, words):
    defaults["tracking"]["uri"] = address
    with pytest.raises(RequestError) as caught:
        parse(defaults)
    first, second = str(caught.value).split("\n")
    assert first.startswith(f"tracking.uri={address}: ")
    assert words[0] in first
    assert second.startswith(words[1])


@pytest.mark.parametrize(
    "address", ["http://h", "https://u@h:1/a", "sqlite:///a.db", "postgresql+psycopg://u@h/d", "databricks://profile"]
)
def test_other_addresses_are_accepted(address):
    check_address(address)


@pytest.mark.parametrize("way_out", sorted({line for _, line in WRONG.values() if "tracking.uri=" in line}))
def test_an_address_of_a_way_out_is_accepted(way_out):
    (address,) = re.findall("tracking.uri=(.*)", way_out)
    check_address(address)


@pytest.mark.parametrize(
    ("status", "words"),
    [(200, "answers with a web page"), (404, "web page (HTTP 404)"), (401, "refuses access (401)"), (403, "refuses")],
)
def test_a_page_of_html_is_a_refusal(status, words):
    with answering(status) as address, pytest.raises(RequestError) as caught:
        connect(address, "a")
    first, second = str(caught.value).split("\n")
    assert words in first
    assert second.startswith(("use the address of an MLflow server", "set MLFLOW_TRACKING_USERNAME"))


def test_a_plain_text_is_a_refusal_and_another_scheme_is_named():
    with answering(200, b"hello") as address:
        with pytest.raises(RequestError, match="is no MLflow server"):
            connect(address, "a")
        with pytest.raises(RequestError, match="does not speak https\nuse http://"):
            connect(address.replace("http", "https"), "a")


@pytest.mark.parametrize("status", [502, 503, 429])
def test_a_server_that_starts_later_is_no_refusal(status):
    with answering(status, b"<html>starting") as address, pytest.raises(StoreUnavailable, match=f"^HTTP {status}$"):
        connect(address, "a")


def test_a_closed_port_is_no_refusal(closed):
    with pytest.raises(StoreUnavailable, match=r"^Connection refused$"):
        connect(closed, "a")


def test_nothing_is_dropped_when_a_page_answers_during_a_run():
    """The uploader leaves out what a store refuses for good: a proxy's page is no such refusal."""
    from mlflow.exceptions import MlflowException, RestException

    page = MlflowException("failed with error code 404 != 200. Response body: '<html>'", error_code=5)
    assert is_transient(page)
    assert is_transient(RestException({"error_code": "PERMISSION_DENIED", "message": "expired"}))
    assert not is_transient(RestException({"error_code": "INVALID_PARAMETER_VALUE", "message": "key too long"}))


def test_a_proxy_is_named(closed, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", closed.replace("http://", "http://me:secret-word@"))
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(StoreUnavailable) as caught:
        connect("http://192.0.2.1:5000", "a")
    assert str(caught.value) == f"Connection refused, through the proxy {closed} of HTTP_PROXY"
    message = str(unreachable("http://192.0.2.1:5000", caught.value))
    assert message.endswith("\nset NO_PROXY=192.0.2.1, or correct HTTP_PROXY")
    with answering(502, b"<html>proxy") as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy)
        with pytest.raises(StoreUnavailable, match=f"^HTTP 502, through the proxy {proxy} of HTTP_PROXY$"):
            connect("http://192.0.2.1:5000", "a")
    monkeypatch.setenv("NO_PROXY", "192.0.2.1")
    assert error_line(ConnectionError(111, "refused"), "http://192.0.2.1:5000") == "refused"


@pytest.mark.parametrize(
    ("text", "is_refusal"),
    [
        ('connection failed: connection to server at "h", port 1 failed: Connection refused\n\tIs it running?', False),
        ('failed: FATAL:  password authentication failed for user "me"', True),
        ('failed: FATAL:  database "a" does not exist', True),
        ("failed: FATAL:  the database system is starting up", False),
    ],
)
def test_postgresql_says_why(monkeypatch, text, is_refusal):
    import sqlalchemy

    def refuse(*arguments, **options):
        raise sqlalchemy.exc.OperationalError("", {}, Exception(text))

    monkeypatch.setattr(sqlalchemy, "create_engine", refuse)
    with pytest.raises(RequestError if is_refusal else StoreUnavailable) as caught:
        connect("postgresql+psycopg://me@h/a", "x")
    assert text.split("\n")[0] in str(caught.value)


def test_a_real_database_that_refuses_is_a_warning_within_seconds():
    with pytest.raises(StoreUnavailable, match=r"[Cc]onnection refused"):
        connect("postgresql+psycopg://me@127.0.0.1:9/a", "x")


def test_mlflows_variables_are_the_defaults_said_and_recorded(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret-word@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "it's, mine")
    added = module.overrides_from_environment(["seed=1"], is_shown=True)
    assert added == ["tracking.uri='http://127.0.0.1:9'", "tracking.experiment='it\\'s, mine'"]
    assert capsys.readouterr().out.splitlines() == [
        "tracking.uri=http://127.0.0.1:9: from MLFLOW_TRACKING_URI",
        "tracking.experiment=it's, mine: from MLFLOW_EXPERIMENT_NAME",
    ]
    assert store_uri("http://127.0.0.1:9") == "http://me:secret-word@127.0.0.1:9"
    given = ["tracking.uri=sqlite:///a.db", "+tracking.experiment=b"]
    assert module.overrides_from_environment(given, is_shown=True) == []
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "7")
    module.overrides_from_environment(given, is_shown=True)
    assert "MLFLOW_EXPERIMENT_ID: is not used" in capsys.readouterr().out
    monkeypatch.delenv("RP2K_LAB_ADDRESSES")


def test_where_to_see_a_run(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert page_location(None, "1", "a") == "make ui, then http://127.0.0.1:5000/#/experiments/1/runs/a"
    assert page_location("http://me:pw@h:1/", "1", "a") == "http://h:1/#/experiments/1/runs/a"
    other = "MLFLOW_TRACKING_URI='sqlite:////a b.db' make ui, then http://127.0.0.1:5000/#/experiments/1"
    assert server_location("sqlite:////a b.db", "#/experiments/1") == other
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////a b.db")
    assert server_location("sqlite:////a b.db", "#/experiments/1").startswith("make ui, then")
    assert os.environ["MLFLOW_TRACKING_URI"] in str(unreachable("sqlite:////a b.db", ValueError("x")))


def test_a_command_records_the_store_and_experiment_of_mlflows_variables(monkeypatch, capsys, tmp_path):
    """With the real command line, as far as the composed configuration."""
    from rp2k_lab.cli import app

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "localhost:5000")
    monkeypatch.setattr(app, "_run_job", lambda overrides: (_ for _ in ()).throw(RequestError("; ".join(overrides))))
    monkeypatch.setattr(app, "claim_signals", lambda: None)
    monkeypatch.setattr(app, "keep_standard_streams", lambda: None)
    monkeypatch.setattr("sys.argv", ["run.py", "seed=1", f"dataset.root={tmp_path}"])
    assert app.main(lambda: None) == 2
    assert capsys.readouterr().err == f"seed=1; dataset.root={tmp_path}; tracking.uri='localhost:5000'\n"


def test_a_late_answer_is_said_with_its_reason(monkeypatch, caplog, tmp_path, wait_for):
    """The run does not wait longer than a few seconds; the reason follows when it is known."""
    from types import SimpleNamespace

    from rp2k_lab.tracking import upload_thread, uploader
    from rp2k_lab.tracking.tracker import MlflowTracker

    answer = threading.Event()
    monkeypatch.setattr(upload_thread, "START_SECONDS", 0.05)
    ask = uploader.connect

    def late(*arguments):
        answer.wait(60)
        return ask(*arguments)

    monkeypatch.setattr(uploader, "connect", late)
    with answering() as address:
        settings = SimpleNamespace(name="mlflow", uri=address, experiment="study", flush_seconds=3600)
        with MlflowTracker(settings, "run", tmp_path):
            assert caplog.messages == [
                "tracking: the store does not answer; the upload continues later (no answer so far)"
            ]
            answer.set()
            wait_for(lambda: caplog.messages[1:])
        assert f"tracking.uri={address}: answers with a web page" in caplog.messages[1]
