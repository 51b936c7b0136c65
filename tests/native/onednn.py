"""The native library in front of oneDNN, called through oneDNN's C API as MindSpore calls it."""

import ctypes
import importlib.util
import itertools
import math
import os
import shutil
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rp2k_lab import native

# oneDNN's constants: propagations, algorithm, data types, queries, keys of arguments.
TRAINING, INFERENCE, BACKWARD, DIRECT = 64, 96, 128, 1
BFLOAT16, FLOAT = 2, 3
ARGUMENT_LAYOUT = 255
SOURCE, TARGET, WEIGHTS, BIAS, MEAN, VARIANCE, SCALE, SHIFT = 1, 17, 33, 41, 49, 50, 51, 52
GRADIENT = 128  # of an argument: added to its key
SOURCE_GRADIENT, TARGET_GRADIENT = SOURCE + GRADIENT, TARGET + GRADIENT
WEIGHTS_GRADIENT, BIAS_GRADIENT = WEIGHTS + GRADIENT, BIAS + GRADIENT
SCALE_GRADIENT, SHIFT_GRADIENT = 255, 256
_BORDER = 16  # floats around an output that nobody may write
_copies = itertools.count()

Array = NDArray[np.float32]
Arrays = dict[int, Array]


class _Argument(ctypes.Structure):
    _fields_ = (("key", ctypes.c_int), ("memory", ctypes.c_void_p))


class Refused(Exception):
    """oneDNN returned an error."""


class Onednn:
    """A separate instance of the native library, with its own threads, between the caller and MindSpore's oneDNN.

    Args:
        folder: for a copy of the library; a file that the process has loaded is not loaded again.
        threads: of the instance.
    """

    def __init__(self, folder: Path, threads: int):
        self.threads = threads
        copy = folder / f"copy_{next(_copies)}.so"
        shutil.copy(native.kernels_file(), copy)
        self._ours = ctypes.CDLL(str(copy))
        self._real = ctypes.CDLL(str(_libdnnl()))
        start = self._ours.rp2k_native_start
        start.restype = ctypes.c_char_p
        assert start(os.fsencode(_libdnnl()), threads) is None
        query = self._real.dnnl_primitive_desc_query_md
        query.restype, query.argtypes = ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_int, ctypes.c_int)
        self._query = query
        self._engine = self._make("dnnl_engine_create", 1, ctypes.c_size_t(0))  # of the processor
        self.stream = self._make("dnnl_threadpool_interop_stream_create", self._engine, None)
        self.layout = cache(self._layout)

    def _call(self, function: str, *arguments) -> None:
        """Call the library's function, or oneDNN's if the library has none of this name."""
        if status := (getattr(self._ours, function, None) or getattr(self._real, function))(*arguments):
            raise Refused(f"{function}: status {status}")

    def _make(self, function: str, *arguments) -> ctypes.c_void_p:
        handle = ctypes.c_void_p()
        self._call(function, ctypes.byref(handle), *arguments)
        return handle

    def _layout(
        self, shape: tuple[int, ...], kind: int = FLOAT, order: tuple[int, ...] | None = None
    ) -> ctypes.c_void_p:
        """Return the dense layout of an array; `order`: its axes from the outermost, the plain order by default."""
        strides, step = [0] * len(shape), 1
        for axis in reversed(order or range(len(shape))):
            strides[axis], step = step, step * shape[axis]
        return self._make("dnnl_memory_desc_create_with_strides", len(shape), sizes(shape), kind, sizes(strides))

    @contextmanager
    def primitive(self, name: str, *arguments):
        """Create and at last destroy a primitive; `name` and `arguments` as in `dnnl_…_primitive_desc_create`."""
        desc = self._make(f"dnnl_{name}_primitive_desc_create", self._engine, *arguments)
        try:
            primitive = Primitive(self, desc, self._make("dnnl_primitive_create", desc))
            try:
                yield primitive
            finally:
                self._call("dnnl_primitive_destroy", primitive.handle)
        finally:
            self._call("dnnl_primitive_desc_destroy", desc)

    def has_layout(self, desc: ctypes.c_void_p, key: int, layout: ctypes.c_void_p) -> bool:
        """Return whether oneDNN's kernel takes an argument in this layout."""
        inner = ctypes.c_void_p(self._query(desc, ARGUMENT_LAYOUT, key))
        return bool(self._real.dnnl_memory_desc_equal(inner, layout))

    def execute(self, primitive: ctypes.c_void_p, stream: ctypes.c_void_p | None, arrays: Arrays) -> None:
        """Run a primitive on contiguous arrays by the key of their argument."""
        memories = [
            self._make("dnnl_memory_create", self.layout(array.shape), self._engine, ctypes.c_void_p(array.ctypes.data))
            for array in arrays.values()
        ]
        arguments = (_Argument * len(arrays))(*zip(arrays, (memory.value for memory in memories), strict=True))
        try:
            self._call("dnnl_primitive_execute", primitive, stream, len(arrays), arguments)
        finally:
            for memory in memories:
                self._call("dnnl_memory_destroy", memory)


class Primitive:
    """A primitive and its descriptor."""

    def __init__(self, onednn: Onednn, desc: ctypes.c_void_p, handle: ctypes.c_void_p):
        self._onednn, self.desc, self.handle = onednn, desc, handle

    def is_reordered(self, shapes: dict[int, tuple[int, ...]]) -> bool:
        """Return whether the library copies one of the arguments before or after oneDNN's kernel."""
        layouts = {key: self._onednn.layout(shape) for key, shape in shapes.items()}
        return not all(self._onednn.has_layout(self.desc, key, layout) for key, layout in layouts.items())

    def run(self, inputs: Arrays, outputs: dict[int, tuple[int, ...]], *, needs_stream: bool = True) -> Arrays:
        """Return new outputs of the given shapes.

        The inputs may not change, nor may a float beside an output.
        """
        buffers = {key: np.full(math.prod(shape) + 2 * _BORDER, np.nan, np.float32) for key, shape in outputs.items()}
        results = {key: buffers[key][_BORDER:-_BORDER].reshape(shape) for key, shape in outputs.items()}
        before = {key: array.copy() for key, array in inputs.items()}
        self._onednn.execute(self.handle, self._onednn.stream if needs_stream else None, inputs | results)
        for key, array in inputs.items():
            assert array.tobytes() == before[key].tobytes(), f"input {key} was changed"
        for key, buffer in buffers.items():
            border = np.concatenate((buffer[:_BORDER], buffer[-_BORDER:]))
            assert np.isnan(border).all(), f"something was written beside output {key}"
        return results


def sizes(values) -> ctypes.Array:
    """Return a `dnnl_dims_t`."""
    return (ctypes.c_int64 * 12)(*values)


def floating(value: float) -> ctypes.c_float:
    """Return a C `float`."""
    return ctypes.c_float(value)


def worst_error(result: Array, expected: np.ndarray) -> float:
    """Return the largest difference as a fraction of the largest expected value; NaN where a result is NaN."""
    return float(np.abs(result - expected).max() / max(np.abs(expected).max(), 1e-30))


@cache
def _libdnnl() -> Path:
    package = importlib.util.find_spec("mindspore")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "lib" / "libdnnl.so.3"
