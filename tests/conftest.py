"""Fixtures for all tests, and the marks of the tiers: make quick, make test, make soak."""

import contextlib
import copy
import ctypes
import functools
import gc
import multiprocessing.process
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

import rp2k_lab  # before MindSpore: sets its environment
from rp2k_lab.cli.app import register_resolvers
from tests.helpers.forked_run import start_run
from tests.helpers.tiny_runs import Command, Store

# Tests with one of these fixtures start a process or compile a network: they get the mark `slow`.  Others with the
# same needs have the mark in their file.
SLOW_FIXTURES = {"browser", "graph_mode", "new_server", "postgresql", "pynative", "small_disk", "start"}


def pytest_configure():
    """Undo `make test &`: a shell starts background commands with SIGINT ignored, and processes inherit it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Mark the slow tests by their fixtures; put the longest first.

    `--dist worksteal` gives each worker half of the list, and moves tests from the end of a half: tests that share a
    fixture stay in one worker at its start, and quick tests at its end keep both workers busy.
    """
    for item in items:
        if SLOW_FIXTURES & set(item.fixturenames):
            item.add_marker(pytest.mark.slow)

    def order(item) -> tuple[bool, ...]:
        slow = item.get_closest_marker("slow") is not None
        return "first_run" not in item.fixturenames, "tests/task/" not in item.nodeid or not slow, not slow

    items.sort(key=order)


@pytest.fixture(autouse=True)
def _quick(request, monkeypatch):
    """Fail a quick test, one without the marks of the other tiers, that starts a process or compiles a network."""
    if any(map(request.node.get_closest_marker, ("slow", "soak", "alone"))):
        return
    from mindspore.common.api import _CellGraphExecutor

    def fail(*arguments, **options):
        pytest.fail("a quick test starts a process or compiles a network\nadd `@pytest.mark.slow`", pytrace=True)

    monkeypatch.setattr(subprocess.Popen, "__init__", fail)
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", fail)
    monkeypatch.setattr(_CellGraphExecutor, "compile", fail)


@pytest.fixture(autouse=True)
def _release_networks(_resident):
    """Return the memory of compiled and forgotten networks whenever the process has grown by 300 MB.

    MindSpore 2.10 keeps every graph that a process has compiled, and a network is cyclic garbage: the tests of the
    models took 7 GB.
    """
    yield
    if psutil.Process().memory_info().rss > _resident["bytes"] + 300e6:
        from mindspore.common.api import ms_memory_recycle

        gc.collect()
        ms_memory_recycle()
        if sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)
        _resident["bytes"] = psutil.Process().memory_info().rss


@pytest.fixture(scope="session")
def _resident(_device) -> dict[str, int]:
    """The process's resident memory after the last release [bytes]."""
    return {"bytes": psutil.Process().memory_info().rss}


@pytest.fixture(scope="session", autouse=True)
def _device():
    """Set up the CPU in graph mode, which MindSpore refuses once a kernel has run."""
    import mindspore

    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    mindspore.set_device("CPU")


@pytest.fixture(scope="session")
def _first_pynative_operation():
    """Let tests of single layers run in PyNative mode, as `create_model` lets its networks."""
    from rp2k_lab.model.first_operation import absorb_first_failure

    absorb_first_failure()


@pytest.fixture
def pynative(_first_pynative_operation):
    """Run single forward passes without compiling a graph."""
    import mindspore

    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)
    yield
    mindspore.set_context(mode=mindspore.GRAPH_MODE)


@pytest.fixture
def graph_mode():
    """Set the mode of every run; MindSpore's default is PyNative."""
    import mindspore

    mindspore.set_context(mode=mindspore.GRAPH_MODE)


@pytest.fixture(scope="session")
def compose():
    """compose(*overrides): return the configuration of `python run.py …` as plain containers."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from omegaconf import OmegaConf

    register_resolvers()

    @functools.cache  # Hydra takes a tenth of a second, and hundreds of tests compose the same few requests
    def once(*overrides: str) -> dict:
        with initialize_config_dir(str(rp2k_lab.PROJECT / "conf"), version_base="1.3"):
            return OmegaConf.to_container(hydra_compose("config", list(overrides)), resolve=True)

    return lambda *overrides: copy.deepcopy(once(*overrides))


@pytest.fixture(scope="session")
def _defaults(compose):
    return compose()


@pytest.fixture
def defaults(_defaults) -> dict:
    """A copy of the composed default configuration."""
    return copy.deepcopy(_defaults)


@pytest.fixture
def data_folder(monkeypatch, tmp_path) -> Path:
    """Replace the clone's data/, so that the index caches image headers in the folder of the test."""
    import rp2k_lab.dataset.photo_index

    monkeypatch.setattr(rp2k_lab.dataset.photo_index, "DATA_FOLDER", tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture(scope="session")
def write_photo():
    """write_photo(file, width=8, height=12, seed=0): write an image of noise in the format of the suffix."""
    import numpy as np
    from PIL import Image

    def write(file: Path, width: int = 8, height: int = 12, seed: int = 0) -> Path:
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(file)
        return file

    return write


@pytest.fixture(scope="session")
def browser():
    """The system's Chromium, driven by Playwright."""
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip(f"no Chromium on this machine ({', '.join(names)}): pages are not tested in a browser")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # As root, as in containers, Chromium has no sandbox.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        chromium = playwright.chromium.launch(executable_path=program, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def wait_for():
    """wait_for(event): call the function until its result is true, and return the result."""

    def wait(event, timeout_seconds: float = 300):
        deadline = time.monotonic() + timeout_seconds
        while not (result := event()):
            assert time.monotonic() < deadline, f"{timeout_seconds:g} s without the event"
            time.sleep(0.02)  # the store sends no notification
        return result

    return wait


@pytest.fixture
def server(new_server, tmp_path):
    """A running MLflow server."""
    with new_server(tmp_path) as started:
        yield started


@pytest.fixture(scope="session")
def new_server():
    """new_server(folder): a context with a server of MLflow on loopback, as `make ui` starts it; data in the folder."""

    @contextlib.contextmanager
    def serving(folder: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder}/server.db"]
        command += ["--artifacts-destination", str(folder / "served"), "--host", "127.0.0.1", "--port", str(port)]
        command += ["--app-name", "rp2k-lab"]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        server = Server(f"http://127.0.0.1:{port}", [*command, "--workers", "1"], environment, folder / "server.log")
        server.start()
        yield server
        server.stop()

    return serving


@dataclass
class Server:
    """An MLflow server that a test may pause, kill and restart with the same address and data."""

    address: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen | None = None

    def start(self) -> None:
        """Start it and wait for its first response."""
        with self.log.open("a") as output:
            options = {"stdout": output, "stderr": output, "start_new_session": True}  # its workers are processes, too
            self.process = subprocess.Popen(self.command, env=self.environment, **options)
        deadline = time.monotonic() + 300
        while True:
            try:
                urllib.request.urlopen(f"{self.address}/health", timeout=2)
                return
            except OSError:
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.2)  # it does not signal that it listens

    def send(self, signum: int) -> None:
        """Send a signal to it and its worker processes."""
        os.killpg(self.process.pid, signum)

    def stop(self) -> None:
        """Kill it if it still runs."""
        if self.process.poll() is None:
            self.send(signal.SIGKILL)
            self.process.wait(60)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> bytes:
    """An MLflow database without runs: a copy takes a millisecond, a new one a second."""
    import mlflow

    file = tmp_path_factory.mktemp("empty") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{file}").search_experiments()
    return file.read_bytes()


@pytest.fixture(scope="session")
def start(tmp_path_factory, empty_store) -> Callable[..., Command]:
    """start(*arguments): start `python run.py` with outputs and store in a new folder."""

    def start(*arguments: str, uri: str | None = None) -> Command:
        folder = tmp_path_factory.mktemp("run")
        store = Store(folder)
        if uri is None:
            (folder / "mlflow.db").write_bytes(empty_store)
        overrides = [f"tracking.uri={uri or store.uri}", f"hydra.run.dir={folder}/out", f"hydra.sweep.dir={folder}/out"]
        return Command(start_run([*overrides, *arguments], folder), folder, store)

    return start
