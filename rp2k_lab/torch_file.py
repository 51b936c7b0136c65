"""PyTorch's weight files as NumPy arrays, without PyTorch and without running what is in them.

A pickle is a program: `pickle.load` imports and calls whatever the file names.  A weights file comes from a stranger,
so its pickle is stepped through here by a machine of our own that knows the opcodes torch.save writes and has inert
values only: numbers, text, containers and the records below.  It imports nothing, calls nothing but the few pure
functions in `_GLOBALS`, and sets no attribute; a file that asks for more is refused.
"""

import io
import math
import pickle  # the names of the opcodes alone
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, deserialize

from rp2k_lab.errors import DataError, RequestError

# As they are stored; bfloat16 has no NumPy twin and travels as its bits.
_STORED = {
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
_SAFETENSORS = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "U8": "uint8",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
    "BOOL": "bool",
}
# Where training scripts put the state dict, in order of preference.
_HOLDERS = ("state_dict", "model", "model_state", "model_state_dict", "net", "model_ema", "state_dict_ema")
_WRAPPERS = ("module.", "_orig_mod.")  # DataParallel, torch.compile
_LEGACY_MAGIC, _LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001
_MAX_STEPS = 2**21  # some 60 a tensor; a step takes about 3 µs and at most about 100 bytes
_MAX_GROWTH, _FREE_BYTES = 4, 2**24  # half to float and tied weights grow; 16 MB let a small file expand a tensor
_MAX_DIMENSIONS = 64  # NumPy's own limit
_SAVE_ALONE = "save the state dict alone, torch.save(model.state_dict(), file), or convert it to .safetensors"
# What the parsers raise for bytes that nobody wrote.
_DAMAGE = (
    ValueError,
    LookupError,
    TypeError,
    ArithmeticError,
    EOFError,
    RuntimeError,
    struct.error,
    zipfile.BadZipFile,
    SafetensorError,
)


class _Refused(Exception):
    """A whole file that we do not take: the reason and the way out."""


class _Global(NamedTuple):
    """A name that a pickle asked for; only a name."""

    module: str
    name: str


@dataclass(frozen=True)
class _Storage:
    """`numel` elements from the `first` of the storage `key` (elements of `dtype`, a key of `_STORED`)."""

    key: str
    dtype: str
    first: int
    numel: int


@dataclass(frozen=True)
class _Tensor:
    """A view of a storage; offset and stride in elements of `dtype`, not yet checked against the storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str


_OTHER = object()  # stands for whatever lies beside the weights


def read_torch_file(file: Path) -> dict[str, np.ndarray]:
    """Parameter names to arrays from .pth, .pt, .bin (pickle formats) or .safetensors.

    Nothing in the file is executed.  The state dict may be the file's top or lie under state_dict, model, model_state,
    model_state_dict, net, model_ema or state_dict_ema; what is no tensor beside is passed over, and `module.` or
    `_orig_mod.` before all names is removed.  The arrays are copies in C order: floats as float32, integers and bool
    as stored.

    Raises:
        RequestError: no such file, or its suffix is none of these.
        DataError: the file is damaged, holds no weights, asks for more than weights need, or claims more than it holds.
    """
    kinds = "name a .pth, .pt, .bin or .safetensors file"
    if not file.name.lower().endswith((".pth", ".pt", ".bin", ".pth.tar", ".safetensors")):
        raise RequestError(f"{file}: weights are read from other kinds of files\n{kinds}")
    if not file.is_file():
        raise RequestError(f"{file}: there is no such file\n{kinds}")
    try:
        data = file.read_bytes()
        arrays = _read_safetensors(data) if file.suffix.lower() == ".safetensors" else _read_torch_save(data)
    except OSError as error:
        raise RequestError(f"{file}: {error.strerror}\n{kinds}") from None
    except MemoryError:
        raise DataError(f"{file}: more than fits into memory\nfree some, or take a smaller file") from None
    except _Refused as error:
        reason, way_out = error.args
        raise DataError(f"{file}: {reason}\n{way_out}") from None
    except _DAMAGE as error:
        reason = _shown(str(error) if isinstance(error, (ValueError, EOFError)) else repr(error))
        raise DataError(f"{file}: damaged, or not a weights file ({reason})\ndownload or save it again") from None
    return _without_wrappers(arrays)


def _shown(text: str, limit: int = 100) -> str:
    """What a file says, on one line of bounded length."""
    text = "".join(character if character.isprintable() else "?" for character in text[: limit + 1])
    return text if len(text) <= limit else f"{text[:limit]}…"


def _without_wrappers(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    for prefix in _WRAPPERS * 2:  # in either order
        if all(name.startswith(prefix) for name in arrays):
            arrays = {name.removeprefix(prefix): array for name, array in arrays.items()}
    return arrays


# ---- The containers ----


def _read_safetensors(data: bytes) -> dict[str, np.ndarray]:
    arrays = {}
    for name, entry in deserialize(data):
        dtype = _SAFETENSORS.get(entry["dtype"])
        if dtype is None:
            raise _Refused(f"{_shown(name)} is {entry['dtype']}, not a type of weights", "save it as float32")
        stored = np.ndarray(entry["shape"], np.dtype(_STORED[dtype]).newbyteorder("<"), entry["data"])
        arrays[name] = _converted(stored, dtype)
    if not arrays:
        raise _Refused("it holds no tensor", "save the state dict to it")
    return arrays


def _read_torch_save(data: bytes) -> dict[str, np.ndarray]:
    if data[257:262] == b"ustar":
        raise _Refused("the tar format of PyTorch before 0.1.11", f"load it with a PyTorch of 2017 and {_SAVE_ALONE}")
    top, storages, byte_order = _read_zip(data) if data.startswith(b"PK\x03\x04") else _read_legacy(data)
    tensors = _choose(top)
    claimed = sum(math.prod(tensor.shape) * max(4, _itemsize(tensor.dtype)) for tensor in tensors.values())
    if claimed > _MAX_GROWTH * len(data) + _FREE_BYTES:
        raise ValueError("its tensors claim far more than the file holds")
    return {name: _array(name, tensor, storages, byte_order) for name, tensor in tensors.items()}


def _read_zip(data: bytes) -> tuple[object, dict[str, memoryview], str]:
    """torch.save since 1.6: `<folder>/data.pkl` and a file `<folder>/data/<key>` a storage, none compressed.

    Returns:
        What was saved, the bytes of its storages, their byte order.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        infos = archive.infolist()
    # Entries that lie over one another could make a small file cost a lot.
    if sum(info.file_size for info in infos) > len(data):
        raise ValueError("its entries hold more than the file")
    folder = infos[0].filename.partition("/")[0] + "/" if infos else ""
    names = {info.filename.removeprefix(folder) for info in infos}
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        way_out = "load it with torch.jit.load and save its state dict, torch.save(module.state_dict(), file)"
        raise _Refused("a TorchScript archive: a program, not weights alone", way_out)
    if "data.pkl" not in names:
        raise ValueError("a zip archive without data.pkl")
    entries = {info.filename.removeprefix(folder): _zip_entry(data, info) for info in infos}
    byte_order = bytes(entries.get("byteorder", b"little"))
    if byte_order not in (b"little", b"big"):
        raise ValueError("unknown byte order")
    top = _Machine(io.BytesIO(entries["data.pkl"])).load()
    storages = {name.removeprefix("data/"): entry for name, entry in entries.items() if name.startswith("data/")}
    return top, storages, "<" if byte_order == b"little" else ">"


def _zip_entry(data: bytes, info: zipfile.ZipInfo) -> memoryview:
    """The bytes of an entry where they lie: nothing is unpacked."""
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
        raise _Refused("a zip archive that something else has packed again", "use the file that torch.save wrote")
    start = info.header_offset
    if start < 0 or data[start : start + 4] != b"PK\x03\x04":
        raise ValueError("an entry of the zip archive is not where it should be")
    start += 30 + sum(struct.unpack_from("<HH", data, start + 26))  # the header, the name, the padding
    entry = memoryview(data)[start : start + info.file_size]
    if len(entry) != info.file_size:
        raise ValueError("an entry of the zip archive ends beyond the file")
    # torch.serialization.set_crc32_options(False) leaves the checksum zero.
    if info.CRC and zlib.crc32(entry) != info.CRC:
        raise ValueError(f"the checksum of {info.filename} is wrong")
    return entry


def _read_legacy(data: bytes) -> tuple[object, dict[str, memoryview], str]:
    """torch.save before 1.6: five pickles, then every storage after its count of elements (int64, little-endian).

    Returns:
        What was saved, the bytes of its storages, their byte order.
    """
    stream = io.BytesIO(data)
    if not data.startswith(b"\x80"):
        raise ValueError(f"it begins with {data[:16]!r}")
    magic, version = _Machine(stream).load(), _Machine(stream).load()
    if magic != _LEGACY_MAGIC or version != _LEGACY_VERSION:
        raise ValueError("a pickle, but not of torch.save")
    _Machine(stream).load()  # the writer's machine; the storages are little-endian whatever it was
    machine = _Machine(stream)
    top, keys = machine.load(), _Machine(stream).load()
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise ValueError("no list of storages")
    storages, position = {}, stream.tell()
    for key in keys:
        dtype, numel = machine.storages[key]
        if int.from_bytes(data[position : position + 8], "little") != numel:
            raise ValueError(f"storage {key} has another size than announced")
        position += 8
        storages[key] = memoryview(data)[position : position + numel * _itemsize(dtype)]
        position += numel * _itemsize(dtype)
    if position > len(data):
        raise EOFError("it ends inside the storages")
    return top, storages, "<"


# ---- From what was saved to arrays ----


def _choose(top: object) -> dict[str, _Tensor]:
    """The state dict: of the places where it may be, the first that holds tensors."""
    places = [top.get(key) for key in _HOLDERS] + [top] if type(top) is dict else []
    for place in places:
        tensors = {name: x for name, x in place.items() if type(x) is _Tensor} if type(place) is dict else {}
        if tensors:
            return tensors
    names = ", ".join(list(top)[:5]) or "nothing" if type(top) is dict else ""
    held = f"a dict of {names}" if names else f"one {type(top).__name__.strip('_')}"
    raise _Refused(f"no weights under names in it, but {_shown(held)}", _SAVE_ALONE)


def _itemsize(dtype: str) -> int:
    return np.dtype(_STORED[dtype]).itemsize if dtype in _STORED else 1


def _array(name: str, tensor: _Tensor, storages: dict[str, memoryview], byte_order: str) -> np.ndarray:
    """Copy a tensor out of its storage, every index of it checked to lie within."""
    if tensor.dtype not in _STORED or tensor.dtype.startswith("complex"):
        raise _Refused(f"{_shown(name)} is {tensor.dtype}, not a type of weights", "save it as float32")
    dtype = np.dtype(byte_order + _STORED[tensor.dtype])
    if 0 in tensor.shape:
        return _converted(np.empty(tensor.shape, dtype), tensor.dtype)
    storage = tensor.storage
    if storage.key not in storages:
        raise ValueError(f"the storage of {name} is missing")
    itemsize = _itemsize(storage.dtype)
    stored = storages[storage.key][storage.first * itemsize : (storage.first + storage.numel) * itemsize]
    if len(stored) != storage.numel * itemsize:
        raise ValueError(f"the storage of {name} is cut off")
    # A dimension of one is never stepped along, and its stride may be anything.
    strides = [step if size > 1 else 0 for size, step in zip(tensor.shape, tensor.stride, strict=True)]
    last = tensor.offset + sum((size - 1) * step for size, step in zip(tensor.shape, strides, strict=True))
    if (last + 1) * dtype.itemsize > len(stored):
        raise ValueError(f"{name} reaches beyond its storage")
    start, strides = tensor.offset * dtype.itemsize, [step * dtype.itemsize for step in strides]
    return _converted(np.ndarray(tensor.shape, dtype, stored, start, strides), tensor.dtype)


def _converted(stored: np.ndarray, dtype: str) -> np.ndarray:
    """A copy in C order and native byte order: floats as float32, bool as bool, integers as they are."""
    if dtype == "bfloat16":
        bits = stored.astype(np.uint32, order="C")
        bits <<= 16
        return bits.view(np.float32)
    if dtype == "bool":
        return stored.astype(np.bool_, order="C")
    with np.errstate(all="ignore"):  # a float64 beyond float32 becomes inf, as in PyTorch
        return stored.astype(np.float32 if stored.dtype.kind == "f" else stored.dtype.newbyteorder("="), order="C")


# ---- The names that a pickle may ask for ----


def _is_count(number: object) -> bool:
    return type(number) is int and 0 <= number < 2**63


def _rebuild_tensor(storage, offset, shape, stride, *_) -> _Tensor:
    if type(storage) is not _Storage or type(shape) is not tuple or type(stride) is not tuple:
        raise ValueError("a tensor without storage, shape or stride")
    if len(shape) != len(stride) or len(shape) > _MAX_DIMENSIONS:
        raise ValueError("a tensor whose shape and stride do not match")
    if not all(_is_count(number) for number in (offset, *shape, *stride)):
        raise ValueError("a tensor whose offset, shape or stride is no count")
    return _Tensor(storage, offset, shape, stride, storage.dtype)


def _rebuild_tensor_v2(storage, offset, shape, stride, grad, hooks, metadata=None) -> _Tensor:
    if metadata:
        raise ValueError("a tensor that is a conjugate or negative view")
    return _rebuild_tensor(storage, offset, shape, stride)


def _rebuild_tensor_v3(storage, offset, shape, stride, grad, hooks, dtype, metadata=None) -> _Tensor:
    """For the types without a storage of their own, such as uint16: the storage counts bytes."""
    if type(dtype) is not _Global or dtype.module != "torch" or dtype.name not in (*_STORED, *_OTHER_DTYPES):
        raise ValueError("a tensor of no type")
    tensor = _rebuild_tensor_v2(storage, offset, shape, stride, grad, hooks, metadata)
    return replace(tensor, dtype=dtype.name)


def _rebuild_parameter(tensor, *_) -> _Tensor:
    if type(tensor) is not _Tensor:
        raise ValueError("a parameter without a tensor")
    return tensor


def _rebuild_from_type(function, _type, arguments, _state) -> _Tensor:
    if type(function) is not _Global or function not in _REBUILDS or type(arguments) is not tuple:
        raise ValueError("a tensor that nothing rebuilds")
    return _REBUILDS[function](*arguments)


def _ordered_dict(pairs=()) -> dict:
    """Python 2 handed the items over as a list of pairs; Python 3 sets them afterwards."""
    if type(pairs) not in (list, tuple):
        raise ValueError("an OrderedDict of no pairs")
    return {key: value for key, value in pairs if type(key) is str}


def _size(shape=()) -> tuple:
    if type(shape) is not tuple:
        raise ValueError("a torch.Size of no tuple")
    return shape


def _not_called(*_) -> None:
    raise ValueError("it calls what is no function")


_REBUILDS: dict[tuple[str, str], Callable] = {
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor_v2,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuild_tensor_v3,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
}
# Lies beside the weights in the files of training scripts; its content is dropped.
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
# Arguments of the others.
_ONLY_NAMES = {
    "builtins": ["dict", "float", "int", "list"],
    "__builtin__": ["dict", "float", "int", "list"],
    "numpy": ["ndarray"],
    "torch": [*_STORED, *_OTHER_DTYPES, *_STORAGES, "Tensor"],
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
    # Names are ASCII; what a script keeps beside them, such as a file's name, need not even be UTF-8.
    return data.decode("utf-8", "backslashreplace")


def _integer(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


# What follows an opcode: a number in this format, …
_NUMBER = {pickle.BININT: "<i", pickle.BININT1: "<B", pickle.BININT2: "<H", pickle.BINFLOAT: ">d"}
# … or a count in this format and as many bytes, which this function reads.
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


class _Machine:
    """Steps through one pickle (protocols 2 to 5, the opcodes that torch.save writes) over inert values.

    Dicts keep what stands under a str: nothing else can be a parameter's name, and hashing the keys that a stranger
    chose can be made slow (integers that collide) or crash (tuples in tuples).

    Args:
        stream: stands at the pickle; stands behind it after `load`.

    Attributes:
        storages: key to (dtype, count of elements) of every storage that the pickle refers to.
    """

    def __init__(self, stream: io.BytesIO):
        self.storages: dict[str, tuple[str, int]] = {}
        self._stream, self._steps = stream, 0
        self._stack, self._below, self._memo = [], [], {}

    def load(self) -> object:
        """What was pickled.

        Raises:
            _Refused: it asks for something beyond `_GLOBALS`.
            ValueError, IndexError, TypeError, KeyError, OverflowError: it is damaged or made to harm.
        """
        while (code := self._take(1)) != pickle.STOP:
            self._count(1)
            if code in _CONSTANT:
                self._stack.append(_CONSTANT[code])
            elif code in _NUMBER:
                self._stack.append(self._number(_NUMBER[code]))
            elif code in _COUNTED:
                size, read = _COUNTED[code]
                self._stack.append(read(self._take(self._number(size))))
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
        """The opcodes of protocol, frames and memo; False if `code` is none of them."""
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
        """The opcodes of containers; False if `code` is none of them."""
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
        """The opcodes that name, call and build, where pickle.load would run what the file says.

        Returns:
            False if `code` is none of them.
        """
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
                # The state is dropped: of the attributes of a dict or of what lies beside, none is a weight.
                if type(target) is not dict and target is not _OTHER:
                    raise ValueError(f"it sets attributes of a {type(target).__name__}")
                self._stack.append(target)
            case pickle.BINPERSID:
                self._stack.append(self._storage(*self._pop(1)))
            case _:
                return False
        return True

    def _pop(self, count: int) -> list:
        """The topmost values, the deepest first."""
        if len(self._stack) < count:
            raise IndexError("it takes more than there is")
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
            asked, pickled = _shown(f"{module}.{name}"), self._stream.getvalue()
            if b"_parameters" in pickled and b"_buffers" in pickled:  # the attributes of every torch.nn.Module
                raise _Refused(f"a whole pickled module, it asks for {asked}: refused, nothing was run", _SAVE_ALONE)
            raise _Refused(f"it asks for {asked}, which weights do not need: refused, nothing was run", _SAVE_ALONE)
        return _Global(module, name)

    def _call(self, target: object, arguments: object) -> object:
        if type(target) is not _Global or type(arguments) is not tuple:
            raise ValueError(f"it calls a {type(target).__name__}")
        # The same long list can be handed over again and again.
        self._count(len(arguments) + sum(len(x) for x in arguments if type(x) in (list, tuple)))
        return _GLOBALS[target](*arguments)

    def _storage(self, identity: object) -> _Storage:
        """A persistent id: ("storage", class, key, location, count), in the legacy format also a view or None."""
        if type(identity) is not tuple or len(identity) not in (5, 6) or identity[0] != "storage":
            raise ValueError("a reference to something that is no storage")
        _, kind, key, _, numel, *views = identity
        if type(kind) is not _Global or kind.name not in _STORAGES or type(key) is not str:
            raise ValueError("a storage without type or key")
        view = views[0] if views and views[0] is not None else (key, 0, numel)
        if type(view) is not tuple or len(view) != 3:
            raise ValueError("a view of a storage of the wrong shape")
        _, first, count = view
        if not all(_is_count(number) for number in (numel, first, count)) or first + count > numel:
            raise ValueError("a storage whose size is no count")
        dtype = _STORAGES[kind.name]
        if self.storages.setdefault(key, (dtype, numel)) != (dtype, numel):
            raise ValueError("a storage of two types or sizes")
        return _Storage(key, dtype, first, count)
