"""MindSpore 2.10 with NumPy 2: the first operator on tensors in a process fails outside of a graph."""

import functools
import io
from contextlib import redirect_stderr, suppress

import numpy as np
from mindspore import Tensor


@functools.cache
def absorb_first_failure() -> None:
    """Make the first operator on tensors fail here, so that networks also run in PyNative mode, MindSpore's default.

    Operators and methods of tensors (`x * y`, `x.reshape`) look for NumPy 1's interface once a process.  NumPy 2 prints
    28 lines and raises; later calls do without it.  No kernel runs here: device and mode can still be set.
    """
    with redirect_stderr(io.StringIO()), suppress(ImportError, TypeError, SystemError):
        Tensor(np.zeros(1, np.float32)) * "no number"  # pyright: ignore[reportUnusedExpression, reportOperatorIssue]
