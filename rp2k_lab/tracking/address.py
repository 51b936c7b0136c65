"""Addresses of MLflow stores: which ones there are, and what the errors of each kind mean."""

import os
import re
import socket
import ssl
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import urlsplit

from rp2k_lab import SERVER_COMMAND
from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.quoting import hydra_value, shell_override, sqlite_file, sqlite_url
from rp2k_lab.core.redaction import keep_uri, redact, restore_uri
from rp2k_lab.core.text import escape_controls

URI_VARIABLE, EXPERIMENT_VARIABLE = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"
_DATABASES = ("postgresql", "mysql", "mssql")
# Module of a database driver to the package that has it.
_DRIVER_PACKAGES = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}
# Stores that MLflow reaches by its own login.
_DATABRICKS = re.compile(r"(databricks|databricks-uc)(://.*)?")
# MLflow's error codes that are worth a retry, besides failed connections: credentials can be corrected meanwhile.
_TRANSIENT = (
    "INTERNAL_ERROR",
    "TEMPORARILY_UNAVAILABLE",
    "REQUEST_LIMIT_EXCEEDED",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
    "CUSTOMER_UNAUTHORIZED",
)
# Errors of a store that a later start cures; with all others a run would never be recorded.
_TRANSIENT_STATUS = (407, 408, 429)
# PostgreSQL's refusals that end by themselves.
_BUSY = ("starting up", "shutting down", "too many", "remaining connection slots", "recovery mode")


class StoreUnavailable(Exception):
    """The store does not answer, or cannot take data now.  One line: the reason."""


def overrides_from_environment(overrides: Sequence[str], is_shown: bool) -> list[str]:
    """Return overrides for what MLflow's variables name and a command does not: its store and its experiment.

    So a run records them, and its studies and processes have the same.

    Args:
        is_shown: print a line for each.
    """
    given, added = {override.lstrip("+").partition("=")[0] for override in overrides}, []
    for variable, key in ((URI_VARIABLE, "tracking.uri"), (EXPERIMENT_VARIABLE, "tracking.experiment")):
        value = os.environ.get(variable, "").strip()
        if value and key not in given:
            added.append(f"{key}={hydra_value(keep_uri(value))}")
            if is_shown:
                print(f"{key}={escape_controls(redact(value))}: from {variable}", flush=True)
    if is_shown and os.environ.get("MLFLOW_EXPERIMENT_ID") and not os.environ.get(EXPERIMENT_VARIABLE):
        print("MLFLOW_EXPERIMENT_ID: is not used; name the experiment: tracking.experiment=NAME", flush=True)
    return added


def check_address(address: str) -> None:
    """Check the form of a store's address, without asking the store.

    Raises:
        RequestError: MLflow has no such stores, or this one would lose its runs.
    """
    try:
        problem = _problem(address)
    except ValueError as error:  # from urlsplit: a port that is no number, half of an IPv6 address
        problem = str(error), "use an address of the form http://host:port"
    if problem:
        reason, way_out = problem
        raise RequestError(f"tracking.uri={escape_controls(redact(address))}: {reason}\n{redact(way_out)}")


def _problem(address: str) -> tuple[str, str] | None:
    """Return (what is wrong with an address, the way out), or None."""
    if _DATABRICKS.fullmatch(address):
        return None
    scheme, separator, rest = address.partition("://")
    scheme = scheme.lower()
    if not separator:
        return _problem_without_scheme(address)
    if scheme in ("http", "https"):
        return _problem_of_server(address)
    if scheme in ("sqlite", "sqlite+pysqlite"):
        file = sqlite_file(address)
        if file is None:
            in_memory = rest.strip("/") in ("", ":memory:")
            reason = "this store ends with its process" if in_memory else "three slashes begin the file"
            return reason, "use sqlite:///FILE, or sqlite:////FOLDER/FILE with an absolute path"
        return (f"{escape_controls(file)} is a folder", "use the file in it") if file.is_dir() else None
    if scheme == "file":
        return _folder_problem(address)
    if scheme.partition("+")[0] in _DATABASES:
        return _problem_of_driver(address)
    installed = {entry_point.name for entry_point in entry_points(group="mlflow.tracking_store")}
    return None if scheme in installed else ("MLflow has no such stores", f"use {_forms()}")


def _forms() -> str:
    return "http://127.0.0.1:5000, sqlite:///FILE or postgresql+psycopg://user@host/database"


def _problem_without_scheme(address: str) -> tuple[str, str] | None:
    if re.fullmatch(r"([\w.-]+|\[[\da-fA-F:.]+\]):\d+(/[^#?]*)?", address, re.ASCII):
        return "has no scheme", f"use tracking.uri=http://{address}"
    file = Path(os.path.expanduser(address.removeprefix("sqlite:").removeprefix("file:")))
    if address.startswith("sqlite:") or file.suffix in (".db", ".sqlite", ".sqlite3") or file.is_file():
        return "has no scheme", f"use {shell_override('tracking.uri', sqlite_url(file))}"
    if address.startswith(("http:", "https:")):
        return "not an address of the form http://host:port", "add the slashes: http://host:port"
    return _folder_problem(address)


def _folder_problem(address: str) -> tuple[str, str] | None:
    if os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() in ("true", "1"):  # MLflow 3.17: its users take the risk
        return None
    return (
        "MLflow 3 keeps no store in a folder",
        f"use tracking.uri=sqlite:///FILE, or {_leave_out(address)} to use the clone's store",
    )


def _problem_of_server(address: str) -> tuple[str, str] | None:
    parts = urlsplit(address)
    if not parts.hostname or parts.port == 0 or re.search(r"[\s\x00-\x1f]", address):
        return "not an address of the form http://host:port", "name the server: tracking.uri=http://127.0.0.1:5000"
    if parts.fragment or parts.query or "#" in address:
        return (
            "the address of a page",
            f"use the server's: tracking.uri={parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}",
        )
    return None


def _problem_of_driver(address: str) -> tuple[str, str] | None:
    import sqlalchemy
    from sqlalchemy.exc import SQLAlchemyError

    try:
        sqlalchemy.make_url(address).get_dialect().import_dbapi()
    except ModuleNotFoundError as error:
        package = _DRIVER_PACKAGES.get(error.name or "", error.name)
        return f"no module named {error.name}", f"install it: pip install '{package}'"
    except SQLAlchemyError as error:
        return error_line(error), f"use {_forms()}"
    return None


def is_transient(error: Exception) -> bool:
    """Return whether a retry may succeed after this error of a store's client.

    HTTP 4xx (artifacts) are final, except those about credentials, time and rate.  What is no answer of MLflow, such as
    a page of a proxy, is transient: nothing is lost by another try.
    """
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return error.error_code in _TRANSIENT or _is_page(error)
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is None:
        return not isinstance(error, ValueError)
    return status >= 500 or status in (401, 403, *_TRANSIENT_STATUS)


def refusal(error: Exception) -> tuple[str, str] | None:
    """Return (reason, way out) if an error of the first contact shows a wrong address or missing rights, or None.

    Training would never be recorded then; after every other error the server may answer later.
    """
    root = _root(error)
    if isinstance(root, ssl.SSLCertVerificationError):
        return (
            f"the certificate is not valid ({root.verify_message})",
            "set MLFLOW_TRACKING_SERVER_CERT_PATH to its file",
        )
    if isinstance(root, ssl.SSLError):
        return "the server does not speak https", "use http://"
    text, status = str(error), _status(error)
    if status in (401, 403) or getattr(error, "error_code", "") in _TRANSIENT[3:]:
        return (
            f"the server refuses access{f' ({status})' if status else ''}",
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to those of a user who may write",
        )
    if _is_page(error) and (status is None or (status < 500 and status not in _TRANSIENT_STATUS)):
        reason = (
            "answers with a web page" if "<" in text.partition("Response body: '")[2][:200] else "is no MLflow server"
        )
        reason += f" (HTTP {status})" if status else ""
        return reason, "use the address of an MLflow server, without the path of a page"
    if "FATAL" in text and not any(word in text for word in _BUSY):
        return error_line(error), "correct user, password and database in tracking.uri"
    return None


def _is_page(error: Exception) -> bool:
    """Return whether MLflow's client got an answer that is not of MLflow's server."""
    return "Response body: '" in str(error)


def _status(error: Exception) -> int | None:
    """Return the HTTP status in a message of MLflow's client, or None."""
    match = re.search(r"failed with error code (\d{3})|too many (\d{3}) error", str(error))
    return int(match[1] or match[2]) if match else None


def _root(error: BaseException) -> BaseException | None:
    """Return the cause that has the system's reason of a failed connection, or None."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (ConnectionError, TimeoutError, socket.gaierror, ssl.SSLError)):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


def error_line(error: Exception, address: str | None = None) -> str:
    """Return an error as one line of at most 160 characters without credentials; the system's text for connections.

    Args:
        address: the store; a proxy on the way to it is named behind the reason.
    """
    if root := _root(error):
        reason = getattr(root, "strerror", None) or str(root) or type(root).__name__
    elif (status := _status(error)) and (_is_page(error) or "too many" in str(error)):
        reason = f"HTTP {status}"
    else:
        reason = re.sub(r"^\(\w+(\.\w+)+\) ", "", (str(error).strip() or type(error).__name__).split("\n")[0])
    proxy = _proxy(address) if address else None
    return redact(reason)[:160] + (f", through the proxy {redact(proxy[1])} of {proxy[0]}" if proxy else "")


def way_out(address: str) -> str:
    """Return what to do if a store does not answer."""
    if proxy := _proxy(address):
        return f"set NO_PROXY={urlsplit(address).hostname}, or correct {proxy[0]}"
    start = (
        f"start the server ({SERVER_COMMAND})" if address.startswith(("http://", "https://")) else "start its database"
    )
    return f"{start}, or {_leave_out(address)} to use the clone's store"


def _leave_out(address: str) -> str:
    named = restore_uri(address) == os.environ.get(URI_VARIABLE, "").strip()
    return f"unset {URI_VARIABLE}" if named else "leave out tracking.uri"


def _proxy(address: str) -> tuple[str, str] | None:
    """Return (variable, address) of the proxy that a connection to a server goes through, or None."""
    if not address.lower().startswith(("http://", "https://")):
        return None
    from requests.utils import get_environ_proxies, select_proxy

    if not (proxy := select_proxy(address, get_environ_proxies(address))):
        return None
    scheme = urlsplit(address).scheme
    names = [name for kind in (scheme, "all") for name in (f"{kind}_proxy", f"{kind.upper()}_PROXY")]
    return next((name for name in names if os.environ.get(name) == proxy), "the system's settings"), proxy
