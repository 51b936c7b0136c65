"""Serve Optuna's page of the studies, with the extra `dashboard`: make dashboard, or

python -m rp2k_lab.sweep.dashboard [PORT] [ADDRESS OF THE DATABASE OF STUDIES]
"""

import shlex
import sys

from rp2k_lab import CLONE, COMMAND
from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.redaction import redact
from rp2k_lab.core.streams import keep_standard_streams
from rp2k_lab.core.text import escape_controls
from rp2k_lab.tracking.server import LOOPBACK, check_port

PORT = 8080


def serve(port: int, url: str | None) -> None:
    """Serve the page for this machine until interrupted.

    Args:
        url: the database of studies; None: the clone's.

    Raises:
        RequestError: no studies, no extra, or the port is not free.
    """
    from rp2k_lab.sweep.storage import has_studies, open_storage

    try:
        from optuna_dashboard import run_server
    except ImportError:
        raise RequestError(
            "optuna-dashboard is not installed\nadd it: pip install -c constraints.txt -e '.[dashboard]'"
        ) from None
    if not has_studies(url):
        shown = redact(url) if url else "mlruns/optuna.db"
        raise RequestError(
            f"{escape_controls(shown)}: no study is there yet\n"
            f"run one: {COMMAND} -m hydra/sweeper=optuna optimizer.lr='interval(0.01,1)'"
        )
    check_port(LOOPBACK, port, f"use another port: make dashboard PORT={port + 1}")
    with open_storage(url, None) as storage:
        print(f"Optuna's page: {address(port)}  (Ctrl-C stops it; PORT={port + 1} is another port)", flush=True)
        run_server(storage, LOOPBACK, port)


def address(port: int = PORT) -> str:
    """Return the address of the page."""
    return f"http://{LOOPBACK}:{port}/dashboard/"


def command(storage: str) -> str:
    """Return the command that serves the page, for a database of studies; empty: the clone's."""
    quoted = shlex.quote(storage)
    if CLONE:
        return f"make dashboard STORAGE={quoted}" if storage else "make dashboard"
    return "python -m rp2k_lab.sweep.dashboard" + (f" {PORT} {quoted}" if storage else "")


def note(storage: str) -> str:
    """Return the Markdown description of a study's run in MLflow."""
    return f"Trials, importances and curves: [Optuna's page]({address()}), after `{command(storage)}`."


def main() -> int:
    """Serve with the command line's port and database, both optional; return the exit code."""
    keep_standard_streams()
    port, *url = sys.argv[1:] or [str(PORT)]
    try:
        if not (port.isdecimal() and 0 < int(port) < 2**16) or len(url) > 1:
            raise RequestError(f"{escape_controls(' '.join(sys.argv[1:]))}: is no port and address\nuse {PORT}")
        serve(int(port), url[0] if url else None)
    except RequestError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
