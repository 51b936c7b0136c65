"""A network's forward pass as a list of oneDNN's primitives (inference.cpp)."""

import ctypes
import enum
import weakref
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from rp2k_lab.native import state

# oneDNN's numbers.
RELU, CLIP, SWISH, SIGMOID = 0x20, 0x2E, 0x2C, 0x29
ADD, MULTIPLY = 0x1FFF0, 0x1FFF1
MAXIMUM, MEAN = 0x1FF, 0x3FF


class Kind(enum.IntEnum):
    """What an operation does."""

    CONVOLUTION = 0
    POOLING = 1
    BINARY = 2
    ELEMENTWISE = 3
    DENSE = 4
    RESHAPE = 5
    SOFTMAX = 6
    CONCAT = 7


class Operation(ctypes.Structure):
    """What the library reads of an operation: `Operation` of inference.cpp; tensors are numbers, -1: none."""

    _fields_ = (
        ("kind", ctypes.c_int32),
        ("algorithm", ctypes.c_int32),
        ("source", ctypes.c_int32),
        ("second", ctypes.c_int32),
        ("bias", ctypes.c_int32),
        ("residual", ctypes.c_int32),
        ("target", ctypes.c_int32),
        ("may_overwrite", ctypes.c_int32),
        ("activation", ctypes.c_int32),
        ("alpha", ctypes.c_float),
        ("beta", ctypes.c_float),
        ("count", ctypes.c_int32),
        ("sources", ctypes.POINTER(ctypes.c_int32)),
        ("numbers", ctypes.c_int64 * 9),
    )


class Refused(Exception):
    """The library cannot run an operation; the message is one line."""


class Program:
    """Operations, in the order of calls of `add`, on float32 tensors.

    Raises (all methods):
        Refused: the library is off, or oneDNN refuses the operation.
    """

    def __init__(self):
        library = _library()
        if library is None:
            raise Refused("the native kernels are off")
        self._library = library
        handle = ctypes.c_void_p()
        _check(self._library.rp2k_native_network_new(ctypes.byref(handle)))
        self._handle = handle
        weakref.finalize(self, self._library.rp2k_native_network_delete, handle)

    def tensor(self, shape: Sequence[int], is_constant: bool = False) -> int:
        """Return the number of a new tensor; constants are given by `set`."""
        dims = (ctypes.c_int64 * len(shape))(*shape)
        return self._library.rp2k_native_network_tensor(self._handle, len(shape), dims, is_constant)

    def input(self, tensor: int, scale: np.ndarray, shift: np.ndarray) -> None:
        """Have a tensor (batch, channels, height, width) be the images times `scale` plus `shift`, (channels,)."""
        _check(self._library.rp2k_native_network_input(self._handle, tensor, _data(scale), _data(shift)))

    def add(self, kind: Kind, source: int, target: int, *, numbers: Sequence[int] = (), **options: Any) -> None:
        """Add an operation; `numbers` and `options`: see inference.cpp."""
        tensors = {"second": -1, "bias": -1, "residual": -1, **options}
        operation = Operation(kind=kind, source=source, target=target, **tensors)
        operation.numbers[: len(numbers)] = numbers
        _check(self._library.rp2k_native_network_add(self._handle, ctypes.byref(operation)))

    def add_concat(self, sources: Sequence[int], target: int, axis: int) -> None:
        """Add a concatenation along an axis."""
        array = (ctypes.c_int32 * len(sources))(*sources)
        operation = Operation(kind=Kind.CONCAT, target=target, count=len(sources), sources=array)
        operation.numbers[0] = axis
        _check(self._library.rp2k_native_network_add(self._handle, ctypes.byref(operation)))

    def finish(self, output: int) -> None:
        """Lay out the memory; no operation may follow."""
        _check(self._library.rp2k_native_network_finish(self._handle, output))

    def set(self, tensor: int, value: np.ndarray) -> None:
        """Give a constant its value, which is copied."""
        _check(self._library.rp2k_native_network_set(self._handle, tensor, _data(value)))

    def run(self, images: np.ndarray, output: np.ndarray) -> None:
        """Run on uint8 (batch, height, width, channels); write to `output`, float32 of the last tensor's shape."""
        pointer = np.ascontiguousarray(images)
        _check(self._library.rp2k_native_network_run(self._handle, pointer.ctypes.data, output.ctypes.data))


def _data(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, np.float32)


class _Floats:
    """The type of an argument: the address of a float32 array, which lives until the call ends."""

    @classmethod
    def from_param(cls, array: np.ndarray) -> ctypes.c_void_p:
        return ctypes.c_void_p(array.ctypes.data)


def _check(reason: bytes | None) -> None:
    if reason is not None:
        raise Refused(reason.decode(errors="replace"))


@cache
def _library() -> ctypes.CDLL | None:
    """Return the library with the types of its functions; None: it is off."""
    if state().version is None:
        return None
    library = ctypes.CDLL(None)  # `state` loaded the library for all
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    signatures = {
        "new": (pointer,),
        "input": (pointer, integer, _Floats, _Floats),
        "add": (pointer, pointer),
        "finish": (pointer, integer),
        "set": (pointer, integer, _Floats),
        "run": (pointer, pointer, pointer),
    }
    for name, types in signatures.items():
        function = library[f"rp2k_native_network_{name}"]
        function.argtypes, function.restype = types, ctypes.c_char_p
        setattr(library, f"rp2k_native_network_{name}", function)
    return library
