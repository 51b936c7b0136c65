"""A research harness for recognizing retail products: Hydra, MindSpore, MLflow and Optuna in a straight line.

Every entry (run.py, the tests, the benchmarks, a notebook) imports this package before MindSpore, so the
process-wide settings below live here and nowhere else.  Each is a default: a value set by the user wins.
"""

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
"""The clone: relative default folders (data, outputs, the MLflow store) start here, whatever the shell's folder."""

# On processors with AVX-512, oneDNN (inside MindSpore 2.10) sends float32 NCHW convolutions to its reference kernel;
# its AVX2 kernels are many times faster (benchmarks/train_step.py measures the ratio).
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")
# MindSpore's own log: errors only.  Its warnings speak of its internals, one screen of them per start.
os.environ.setdefault("GLOG_v", "3")
# OpenCV's: silent, since what cannot be decoded is named in a message of our own.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
# The largest picture that OpenCV decodes (rp2k_lab/dataset/image_formats.py): its own 2³⁰ pixels are 3 GB a thread.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**28))
# Seconds after which a worker of msrun that is not heard of any more ends the job; by default twice as many.
os.environ.setdefault("MS_NODE_TIMEOUT", "15")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# At a run's end MLflow prints its page with the user and password of the address.
os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
# A tracking server that went away: by default a call blocks for four minutes.  Who writes tries again on its own
# (rp2k_lab/tracking/uploader.py); a repeated request could create a run twice.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
