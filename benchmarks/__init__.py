"""Each benchmark prints a ratio against a named peer, measured side by side: `python -m benchmarks.<name>`."""

import rp2k_lab  # noqa: F401  before MindSpore: it loads the native kernels
