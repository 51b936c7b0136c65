"""`make ui` and the command `rp2k-lab-ui`: the MLflow page of the store."""

import os
import subprocess
import sys

from rp2k_lab.tracking.mlflow_store import STORE, store_uri

LOOPBACK = "127.0.0.1"


def serve(port: int, host: str = LOOPBACK) -> int:
    """Serve the MLflow page of the clone's store until interrupted; return the exit code.

    Args:
        host: the address to listen at.  Any but the default lets others read, change and delete runs.
    """
    import mlflow

    STORE.mkdir(parents=True, exist_ok=True)
    mlflow.MlflowClient(store_uri(None)).search_experiments(max_results=1)  # creates the database in one process
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store_uri(None)]
    command += ["--default-artifact-root", (STORE / "artifacts").as_uri()]
    command += ["--host", host, "--port", str(port), "--workers", "1"]
    print(f"the MLflow page: http://{host}:{port}  (Ctrl-C stops it; use PORT=5001 for another port)", flush=True)
    if host != LOOPBACK:
        print("there is no login: whoever reaches this address can read, change and delete every run", flush=True)
    # Without its job runner the server takes 0.5 GB of memory instead of 3.1.
    return subprocess.call(command, env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"})


def main() -> int:
    """Serve with the command line's port and host, both optional; return the exit code."""
    port, *host = sys.argv[1:] or ["5000"]
    return serve(int(port), *host)


if __name__ == "__main__":
    sys.exit(main())
