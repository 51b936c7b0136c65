"""Train and compare image classifiers for retail products, with Hydra, MindSpore, MLflow and Optuna.

Every entry point (run.py, tests, benchmarks, notebooks) imports this package before MindSpore, so the process-wide
settings are here and nowhere else.  Each is a default: a value set by the user wins, except for variables that would
change a run's numbers against its record (`core.environment`).
"""

import os
from pathlib import Path
from typing import Any

from rp2k_lab import native
from rp2k_lab.core.environment import force, limit_instructions

__version__ = "0.1.0"

_PARENT = Path(__file__).resolve().parent.parent
CLONE = _PARENT if (_PARENT / "run.py").is_file() else None
"""The clone that holds this package; None if it was installed from a wheel."""

PROJECT = Path(os.environ.get("RP2K_LAB_HOME") or CLONE or Path.cwd()).absolute()
"""Parent of data, outputs and the MLflow store: RP2K_LAB_HOME, or the clone, or without one the shell's folder."""

COMMAND = "python run.py" if CLONE else "rp2k-lab"
"""The command that messages name."""

SERVER_COMMAND = "make ui" if CLONE else "rp2k-lab-ui"
"""The command that opens the MLflow page."""

IGNORED_VARIABLES = force(os.environ)
"""Variables of the user that were removed or replaced, as `NAME=value`."""

# The first call loads the native kernels, which must be there before MindSpore; it takes about 10 ms.
limit_instructions(os.environ, is_native=native.state().version is not None)
# MindSpore logs errors only: its warnings are about its internals and fill a screen at every start.
os.environ.setdefault("GLOG_v", "3")
# OpenCV logs nothing: rp2k_lab reports every image that cannot be decoded.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
# Largest image that OpenCV decodes [pixels] (rp2k_lab/dataset/image_formats.py); its default, 2³⁰, is 3 GB a thread.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**28))
# Seconds without a sign of life from a worker after which msrun ends the job; MindSpore's default is 30.
os.environ.setdefault("MS_NODE_TIMEOUT", "15")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# At the end of a run MLflow would print its address, with user and password.
os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
# By default a call to a lost tracking server blocks for four minutes.  rp2k_lab/tracking/uploader.py retries instead;
# an HTTP retry could create a run twice.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")


def __getattr__(name: str) -> Any:
    """Import on first use what takes long: MindSpore two seconds, MLflow and pandas one."""
    if name in ("create_model", "list_models"):
        from rp2k_lab import model

        return getattr(model, name)
    if name == "register":
        from rp2k_lab.plugins import register

        return register
    if name == "open_run":
        from rp2k_lab.notebook.recorded_run import open_run

        return open_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
