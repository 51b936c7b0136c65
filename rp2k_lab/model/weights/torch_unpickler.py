"""An interpreter for the pickles of torch.save that builds only inert values.

A pickle is a program: `pickle.load` imports and calls whatever the file names.  This interpreter knows the opcodes that
torch.save writes.  It imports nothing, calls only the few pure functions in `_GLOBALS`, and sets no attribute.  It
refuses a file that asks for more.
"""

import io
import pickle  # only for the names of the opcodes
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from rp2k_lab.core.text import escape_controls, shorten

# Stored types; NumPy has no bfloat16, so its bits are read as integers.
STORED = {
    "float64": "f8",
    "float32": "f4",
    "float16": "f2",
    "bfloat16": "u2",
    "uint8": "u1",
    "int8": "i1",
    "int16": "i2",
    "int32": "i4",
    "int64": "i8",
    "uint16": "u2",
    "uint32": "u4",
    "uint64": "u8",
    "bool": "u1",
    "complex64": "c8",
    "complex128": "c16",
}
_OTHER_DTYPES = ("complex32", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")
_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "ByteStorage": "uint8",
    "CharStorage": "int8",
    "ShortStorage": "int16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
}
_MAX_STEPS = 2**21  # about 60 a tensor; a step takes about 3 µs and at most about 100 bytes
_MAX_DIMENSIONS = 64  # NumPy's limit
SAVE_ALONE = "save the state dict alone, torch.save(model.state_dict(), file), or convert it to .safetensors"


class Refused(Exception):
    """A file is not accepted: (reason, way out)."""


class _Global(NamedTuple):
    """A name that a pickle asked for, never imported."""

    module: str
    name: str


@dataclass(frozen=True)
class Storage:
    """`numel` elements of the storage `key`, starting at `first` (elements of `dtype`, a key of `STORED`)."""

    key: str
    dtype: str
    first: int
    numel: int


@dataclass(frozen=True)
class Tensor:
    """An unchecked view of a storage; offset and stride in elements of `dtype`."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str


_OTHER = object()  # in place of all that is not weights


def excerpt(text: str, limit: int = 100) -> str:
    """Return text of a file as one printable line of at most `limit` characters."""
    return shorten(escape_controls(text[: limit + 1]), limit)


# ---- The names that a pickle may ask for ----


def _is_count(number: object) -> bool:
    return type(number) is int and 0 <= number < 2**63


def _rebuild_tensor(storage, offset, shape, stride, *_) -> Tensor:
    if type(storage) is not Storage or type(shape) is not tuple or type(stride) is not tuple:
        raise ValueError("a tensor without storage, shape or stride")
    if len(shape) != len(stride) or len(shape) > _MAX_DIMENSIONS:
        raise ValueError("a tensor whose shape and stride do not match")
    if not all(_is_count(number) for number in (offset, *shape, *stride)):
        raise ValueError("a tensor whose offset, shape or stride is not a count")
    return Tensor(storage, offset, shape, stride, storage.dtype)


def _rebuild_tensor_v2(storage, offset, shape, stride, grad, hooks, metadata=None) -> Tensor:
    if metadata:
        raise ValueError("a tensor that is a conjugate or negative view")
    return _rebuild_tensor(storage, offset, shape, stride)


def _rebuild_tensor_v3(storage, offset, shape, stride, grad, hooks, dtype, metadata=None) -> Tensor:
    """Rebuild a tensor of a type without a storage class, e.g. uint16; the storage counts bytes."""
    if type(dtype) is not _Global or dtype.module != "torch" or dtype.name not in (*STORED, *_OTHER_DTYPES):
        raise ValueError("a tensor without a type")
    tensor = _rebuild_tensor_v2(storage, offset, shape, stride, grad, hooks, metadata)
    return replace(tensor, dtype=dtype.name)


def _rebuild_parameter(tensor, *_) -> Tensor:
    if type(tensor) is not Tensor:
        raise ValueError("a parameter without a tensor")
    return tensor


def _rebuild_from_type(function, _type, arguments, _state) -> Tensor:
    if type(function) is not _Global or function not in _REBUILDS or type(arguments) is not tuple:
        raise ValueError("a tensor without a known rebuild function")
    return _REBUILDS[function](*arguments)


def _ordered_dict(pairs=()) -> dict:
    """Return a dict of the pairs that Python 2 passed as a list; Python 3 sets them afterwards."""
    if type(pairs) not in (list, tuple):
        raise ValueError("an OrderedDict without pairs")
    return {key: value for key, value in pairs if type(key) is str}


def _size(shape=()) -> tuple:
    if type(shape) is not tuple:
        raise ValueError("a torch.Size without a tuple")
    return shape


def _not_called(*_) -> None:
    raise ValueError("it calls something that is not a function")


_REBUILDS: dict[tuple[str, str], Callable] = {
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor_v2,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuild_tensor_v3,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
}
# Found beside the weights in files of training scripts; the content is dropped.
_BESIDE = {
    "_codecs": ["encode"],
    "argparse": ["Namespace"],
    "builtins": ["bytearray", "complex", "frozenset", "set", "slice"],
    "__builtin__": ["bytearray", "complex", "frozenset", "set", "slice"],
    "collections": ["Counter"],
    "numpy": ["dtype"],
    "numpy.core.multiarray": ["_reconstruct", "scalar"],
    "numpy._core.multiarray": ["_reconstruct", "scalar"],
    "pathlib": ["Path", "PosixPath", "PurePath", "PurePosixPath", "WindowsPath"],
    "torch": ["device"],
    "torch.serialization": ["_get_layout"],
}
# Only passed as arguments.
_ONLY_NAMES = {
    "builtins": ["dict", "float", "int", "list"],
    "__builtin__": ["dict", "float", "int", "list"],
    "numpy": ["ndarray"],
    "torch": [*STORED, *_OTHER_DTYPES, *_STORAGES, "Tensor"],
    "torch.cuda": [*_STORAGES],
    "torch.nn.parameter": ["Buffer", "Parameter"],
    "torch.storage": ["UntypedStorage"],
}
_GLOBALS: dict[tuple[str, str], Callable] = {
    **_REBUILDS,
    ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_from_type,
    ("torch", "Size"): _size,
    ("collections", "OrderedDict"): _ordered_dict,
    ("collections", "defaultdict"): lambda *_: {},
    **{(module, name): lambda *_: _OTHER for module, names in _BESIDE.items() for name in names},
    **{(module, name): _not_called for module, names in _ONLY_NAMES.items() for name in names},
}


# ---- The machine ----


def _text(data: bytes) -> str:
    # Parameter names are ASCII; other text, e.g. a file name, need not be UTF-8.
    return data.decode("utf-8", "backslashreplace")


def _integer(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


# Opcodes followed by a number, with its format.
_NUMBER = {pickle.BININT: "<i", pickle.BININT1: "<B", pickle.BININT2: "<H", pickle.BINFLOAT: ">d"}
# Opcodes followed by a count and that many bytes, with the count's format and the function that reads the bytes.
_COUNTED = {
    pickle.LONG1: ("<B", _integer),
    pickle.LONG4: ("<I", _integer),
    pickle.SHORT_BINUNICODE: ("<B", _text),
    pickle.BINUNICODE: ("<I", _text),
    pickle.BINUNICODE8: ("<Q", _text),
    pickle.SHORT_BINSTRING: ("<B", _text),
    pickle.BINSTRING: ("<I", _text),
    pickle.SHORT_BINBYTES: ("<B", bytes),
    pickle.BINBYTES: ("<I", bytes),
    pickle.BINBYTES8: ("<Q", bytes),
    pickle.BYTEARRAY8: ("<Q", bytes),
}
_CONSTANT = {
    pickle.NONE: None,
    pickle.NEWTRUE: True,
    pickle.NEWFALSE: False,
    pickle.EMPTY_TUPLE: (),
    pickle.EMPTY_SET: _OTHER,
}


class Machine:
    """Interpreter of one pickle (protocols 2 to 5, the opcodes that torch.save writes) over inert values.

    Dicts keep only str keys: nothing else can be a parameter's name, and hashing keys of a hostile file can be slow
    (integers that collide) or crash (nested tuples).

    Args:
        stream: positioned at the pickle; `load` leaves it behind the pickle.

    Attributes:
        storages: key to (dtype, number of elements) of every storage that the pickle refers to.
    """

    def __init__(self, stream: io.BytesIO):
        self.storages: dict[str, tuple[str, int]] = {}
        self._stream, self._steps = stream, 0
        self._stack, self._below, self._memo = [], [], {}

    def load(self) -> object:
        """Return the pickled object.

        Raises:
            Refused: the pickle asks for something outside `_GLOBALS`.
            ValueError, IndexError, TypeError, KeyError, OverflowError: the pickle is damaged or hostile.
        """
        while (code := self._take(1)) != pickle.STOP:
            self._count(1)
            if code in _CONSTANT:
                self._stack.append(_CONSTANT[code])
            elif code in _NUMBER:
                self._stack.append(self._number(_NUMBER[code]))
            elif code in _COUNTED:
                size, read = _COUNTED[code]
                self._stack.append(read(self._take(int(self._number(size)))))
            elif not (self._remember(code) or self._collect(code) or self._make(code)):
                raise ValueError(f"opcode {code!r} is not one of torch.save's")
        return self._stack.pop()

    def _count(self, steps: int) -> None:
        self._steps += steps
        if self._steps > _MAX_STEPS:
            raise ValueError(f"its pickle takes more than {_MAX_STEPS} steps")

    def _take(self, count: int) -> bytes:
        data = self._stream.read(count)
        if len(data) != count:
            raise EOFError("it ends too early")
        return data

    def _number(self, form: str) -> int | float:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _remember(self, code: bytes) -> bool:
        """Run an opcode of protocol, frames or memo; return False for others."""
        match code:
            case pickle.PROTO:
                self._take(1)
            case pickle.FRAME:
                self._take(8)
            case pickle.BINPUT | pickle.LONG_BINPUT:
                self._memo[self._number("<B" if code == pickle.BINPUT else "<I")] = self._stack[-1]
            case pickle.MEMOIZE:
                self._memo[len(self._memo)] = self._stack[-1]
            case pickle.BINGET | pickle.LONG_BINGET:
                self._stack.append(self._memo[self._number("<B" if code == pickle.BINGET else "<I")])
            case _:
                return False
        return True

    def _collect(self, code: bytes) -> bool:
        """Run an opcode of containers; return False for others."""
        stack = self._stack
        match code:
            case pickle.MARK:
                self._below.append(stack)
                self._stack = []
            case pickle.POP:
                stack.pop()
            case pickle.POP_MARK:
                self._since_mark()
            case pickle.EMPTY_LIST:
                stack.append([])
            case pickle.EMPTY_DICT:
                stack.append({})
            case pickle.FROZENSET:
                self._since_mark()
                self._stack.append(_OTHER)
            case pickle.TUPLE:
                items = tuple(self._since_mark())
                self._stack.append(items)
            case pickle.TUPLE1 | pickle.TUPLE2 | pickle.TUPLE3:
                self._stack.append(tuple(self._pop(1 + code[0] - pickle.TUPLE1[0])))
            case pickle.APPEND | pickle.APPENDS | pickle.ADDITEMS:
                self._extend(self._pop(1) if code == pickle.APPEND else self._since_mark())
            case pickle.SETITEM | pickle.SETITEMS:
                self._update(self._pop(2) if code == pickle.SETITEM else self._since_mark())
            case _:
                return False
        return True

    def _make(self, code: bytes) -> bool:
        """Run an opcode that names, calls or builds, where pickle.load executes code; return False for others."""
        match code:
            case pickle.GLOBAL | pickle.INST:
                names = [_text(self._stream.readline().removesuffix(b"\n")) for _ in range(2)]
                self._stack.append(self._find(*names))
                return code == pickle.GLOBAL
            case pickle.STACK_GLOBAL:
                self._stack.append(self._find(*self._pop(2)))
            case pickle.REDUCE | pickle.NEWOBJ:
                self._stack.append(self._call(*self._pop(2)))
            case pickle.BUILD:
                target, _ = self._pop(2)
                # The state is dropped: attributes of a dict, or of what is not weights, are no weights.
                if type(target) is not dict and target is not _OTHER:
                    raise ValueError(f"it sets attributes of a {type(target).__name__}")
                self._stack.append(target)
            case pickle.BINPERSID:
                self._stack.append(self._storage(*self._pop(1)))
            case _:
                return False
        return True

    def _pop(self, count: int) -> list:
        """Pop the topmost values, the deepest first."""
        if len(self._stack) < count:
            raise IndexError("it pops an empty stack")
        items = self._stack[-count:]
        del self._stack[-count:]
        return items

    def _since_mark(self) -> list:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _extend(self, items: list) -> None:
        target = self._stack[-1]
        if type(target) is list:
            target += items
        elif target is not _OTHER:
            raise ValueError(f"it appends to a {type(target).__name__}")

    def _update(self, items: list) -> None:
        target = self._stack[-1]
        if type(target) is dict:
            pairs = zip(items[::2], items[1::2], strict=True)
            target.update((key, value) for key, value in pairs if type(key) is str)
        elif target is not _OTHER:
            raise ValueError(f"it sets items of a {type(target).__name__}")

    def _find(self, module: object, name: object) -> _Global:
        if type(module) is not str or type(name) is not str:
            raise ValueError("it asks for something without a name")
        if (module, name) not in _GLOBALS:
            asked, pickled = excerpt(f"{module}.{name}"), self._stream.getvalue()
            if b"_parameters" in pickled and b"_buffers" in pickled:  # the attributes of every torch.nn.Module
                raise Refused(f"a whole pickled module, it asks for {asked}: refused, nothing executed", SAVE_ALONE)
            raise Refused(f"it asks for {asked}, which weights do not need: refused, nothing executed", SAVE_ALONE)
        return _Global(module, name)

    def _call(self, target: object, arguments: object) -> object:
        if type(target) is not _Global or type(arguments) is not tuple:
            raise ValueError(f"it calls a {type(target).__name__}")
        # A pickle can pass the same long list repeatedly.
        self._count(len(arguments) + sum(len(x) for x in arguments if type(x) in (list, tuple)))
        return _GLOBALS[target](*arguments)

    def _storage(self, identity: object) -> Storage:
        """Read a persistent id: ("storage", class, key, location, count), in the legacy format also a view or None."""
        if type(identity) is not tuple or len(identity) not in (5, 6) or identity[0] != "storage":
            raise ValueError("a reference to something that is not a storage")
        _, kind, key, _, numel, *views = identity
        if type(kind) is not _Global or kind.name not in _STORAGES or type(key) is not str:
            raise ValueError("a storage without type or key")
        view = views[0] if views and views[0] is not None else (key, 0, numel)
        if type(view) is not tuple or len(view) != 3:
            raise ValueError("a view of a storage of the wrong shape")
        _, first, count = view
        if not all(_is_count(number) for number in (numel, first, count)) or first + count > numel:
            raise ValueError("a storage whose size is not a count")
        dtype = _STORAGES[kind.name]
        if self.storages.setdefault(key, (dtype, numel)) != (dtype, numel):
            raise ValueError("a storage of two types or sizes")
        return Storage(key, dtype, first, count)
