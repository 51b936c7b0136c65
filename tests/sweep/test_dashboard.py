"""make dashboard: Optuna's page on a real database of studies."""

import re
import signal
import socket
import subprocess
import sys
import urllib.request

import optuna
import psutil
import pytest

from rp2k_lab.sweep import dashboard

pytestmark = pytest.mark.slow


@pytest.fixture
def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def storage(tmp_path):
    """The address of a database with a study of two trials."""
    url = f"sqlite:///{tmp_path}/studies.db"
    study = optuna.create_study(study_name="cutout", direction="maximize", storage=url)
    study.optimize(lambda trial: trial.suggest_float("lr", 0, 1), n_trials=2)
    return url


def serve(*arguments):
    command = [sys.executable, "-m", "rp2k_lab.sweep.dashboard", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_page_shows_a_study_until_it_is_interrupted(storage, free_port, wait_for):
    server = serve(free_port, storage)
    try:
        line = server.stdout.readline()
        assert line.startswith(f"Optuna's page: {dashboard.address(free_port)} ")
        address = re.search(r"http://\S+", line)[0]
        wait_for(lambda: psutil.Process(server.pid).net_connections())
        with urllib.request.urlopen(address, timeout=30) as answer:
            assert b"<title>Optuna Dashboard</title>" in answer.read()
        with urllib.request.urlopen(address.replace("dashboard/", "api/studies"), timeout=30) as answer:
            assert b'"cutout"' in answer.read()
        second = serve(free_port, storage)
        _, message = second.communicate(timeout=60)
        assert (second.returncode, len(message.splitlines())) == (2, 2)
        assert f"use another port: make dashboard PORT={free_port + 1}" in message
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=30)
        assert server.returncode == 0
    finally:
        server.kill()
        server.communicate()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [(["0"], "0: is no port"), (["x", "y", "z"], "is no port"), (["8080", "sqlite:////no/studies.db"], "no study")],
)
def test_wrong_request(arguments, reason):
    server = serve(*arguments)
    out, message = server.communicate(timeout=60)
    assert (server.returncode, out) == (2, "")
    assert reason in message
    assert len(message.splitlines()) == 2


def test_commands_name_the_database(monkeypatch):
    assert dashboard.command("") == "make dashboard"
    assert dashboard.command("sqlite:////my studies.db") == "make dashboard STORAGE='sqlite:////my studies.db'"
    monkeypatch.setattr(dashboard, "CLONE", None)
    assert dashboard.command("sqlite:///s.db") == "python -m rp2k_lab.sweep.dashboard 8080 sqlite:///s.db"
    assert dashboard.address() in dashboard.note("")
