"""Each benchmark prints a ratio against a named peer, measured side by side: `python -m benchmarks.<name>`."""

import sys

import rp2k_lab  # noqa: F401  before MindSpore: it loads the native kernels
from rp2k_lab.device import gpu_libraries

if "device=gpu" in sys.argv:
    gpu_libraries.load()  # before MindSpore, as run.py does
