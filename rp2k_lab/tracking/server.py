"""`make ui` and the command `rp2k-lab-ui`: the MLflow page of the store."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from importlib.metadata import entry_points

import psutil

from rp2k_lab import IGNORED_VARIABLES, SERVER_COMMAND
from rp2k_lab.core.environment import prepare_process
from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.quoting import sqlite_file
from rp2k_lab.core.redaction import redact
from rp2k_lab.core.signals import ENDING
from rp2k_lab.core.streams import keep_standard_streams
from rp2k_lab.core.text import escape_controls
from rp2k_lab.tracking.mlflow_store import StoreUnavailable, client_address, open_client, store_uri, unreachable
from rp2k_lab.tracking.study_view import RUNS_KEY, VIEW_TAG, view_page

LOOPBACK = "127.0.0.1"
# The entry point of `server_app`.
_APP = "rp2k-lab"
# Experiments whose page is printed, the last ones [experiments].
_LISTED = 3
# The time that MLflow's server has to end, before it is killed.
_STOP_SECONDS = 10


def serve(port: int, host: str = LOOPBACK) -> int:
    """Serve the MLflow page of the clone's store, or of the one that MLFLOW_TRACKING_URI names, until interrupted.

    Args:
        host: the address to listen at.  Any but the default lets others read, change and delete runs.

    Returns:
        The exit code.

    Raises:
        RequestError: the store is impossible or a server itself, or the port is not free.
        KeyboardInterrupt: before the server started.
    """
    store = store_uri(None)
    if store.startswith(("http://", "https://")):
        raise RequestError(f"{redact(store)}: is an MLflow server\nopen this address in a browser")
    try:
        experiments = open_client(None).search_experiments(max_results=_LISTED, order_by=["last_update_time DESC"])
    except StoreUnavailable as error:
        raise unreachable(store, error) from None
    check_port(host, port, f"use another port: {SERVER_COMMAND} {_port_option(5001)}")
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", client_address(store)]
    if file := sqlite_file(store):
        command += ["--default-artifact-root", (file.parent / "artifacts").as_uri()]
    command += ["--host", host, "--port", str(port), "--workers", "1"]
    if entry_points(group="mlflow.app", name=_APP):  # an installation of an earlier version lacks it
        command += ["--app-name", _APP]
    print(f"the MLflow page: http://{host}:{port}  (Ctrl-C stops it; use PORT=5001 for another port)", flush=True)
    if host != LOOPBACK:
        print("there is no login: whoever reaches this address can read, change and delete every run", flush=True)
    for experiment in experiments:
        if VIEW_TAG + RUNS_KEY in experiment.tags:
            page = view_page(experiment.experiment_id, RUNS_KEY, "TABLE")
            print(f"{escape_controls(experiment.name)}: http://{host}:{port}/{page}", flush=True)
    # Without its job runner the server takes 0.5 GB of memory instead of 3.1.
    return _run_until_stopped(command, {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"})


def check_port(host: str, port: int, way_out: str) -> None:
    """Raise RequestError, with this way out, if no server can listen there."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as free:
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
            free.bind((host, port))
    except OSError as error:
        raise RequestError(f"{host}:{port}: {str(error.strerror).lower()}\n{way_out}") from None


def _port_option(port: int) -> str:
    return f"PORT={port}" if SERVER_COMMAND.startswith("make") else str(port)


def _run_until_stopped(command: list[str], environment: dict[str, str]) -> int:
    """Run the server, and end it with all of its processes at the first signal."""
    received: list[int] = []
    caught = [s for s in (signal.SIGINT, *ENDING) if signal.getsignal(s) != signal.SIG_IGN]  # nohup ignores SIGHUP
    former = {signum: signal.signal(signum, lambda number, _: received.append(number)) for signum in caught}
    try:
        process = subprocess.Popen(command, env=environment)
        while process.poll() is None and not received:
            time.sleep(0.1)
        if not received:
            return process.returncode
        _end(process)
        return 0
    finally:
        for signum, handler in former.items():
            signal.signal(signum, handler)


def _end(process: subprocess.Popen) -> None:
    """End a process and its children; the terminal's Ctrl-C reached them, a scheduler's signal did not."""
    with suppress(psutil.NoSuchProcess):
        server = psutil.Process(process.pid)
        family = [server, *server.children(recursive=True)]
        for stop in (psutil.Process.terminate, psutil.Process.kill):
            for member in family:
                with suppress(psutil.NoSuchProcess):
                    stop(member)
            _, family = psutil.wait_procs(family, _STOP_SECONDS)
    process.wait()


def main() -> int:
    """Serve with the command line's port and host, both optional; return the exit code."""
    keep_standard_streams()
    prepare_process(IGNORED_VARIABLES)
    port, *host = sys.argv[1:] or ["5000"]
    try:
        if not (port.isdecimal() and 0 < int(port) < 2**16) or len(host) > 1:
            given = escape_controls(" ".join(sys.argv[1:]))
            raise RequestError(f"{given}: is no port and host\nuse {SERVER_COMMAND} {_port_option(5001)}")
        return serve(int(port), *host)
    except RequestError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
