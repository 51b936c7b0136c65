"""PyTorch's weight files as NumPy arrays, without PyTorch and without executing their content."""

import io
import math
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, deserialize

from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.model.weights.torch_unpickler import SAVE_ALONE, STORED, Machine, Refused, Tensor, excerpt

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
# Keys under which training scripts save the state dict, in order of preference.
_HOLDERS = ("state_dict", "model", "model_state", "model_state_dict", "net", "model_ema", "state_dict_ema")
_WRAPPERS = ("module.", "_orig_mod.")  # DataParallel, torch.compile
_LEGACY_MAGIC, _LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001
_MAX_GROWTH, _FREE_BYTES = 4, 2**24  # float16 and tied weights grow; 16 MB let a small file expand a tensor
# What the parsers raise for damaged files.
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


def read_torch_file(file: Path) -> dict[str, np.ndarray]:
    """Return parameter names to arrays from .pth, .pt, .bin (pickle formats) or .safetensors.

    Nothing in the file is executed.  The state dict may be the whole file or lie under state_dict, model, model_state,
    model_state_dict, net, model_ema or state_dict_ema.  Other entries are ignored, and a `module.` or `_orig_mod.`
    before all names is removed.  The arrays are copies in C order: floats as float32, integers and bool as stored.

    Raises:
        RequestError: no such file, or another suffix.
        DataError: the file is damaged, has no weights, asks for more than weights need, or claims more than it holds.
    """
    kinds = "use a .pth, .pt, .bin or .safetensors file"
    if not file.name.lower().endswith((".pth", ".pt", ".bin", ".pth.tar", ".safetensors")):
        raise RequestError(f"{file}: not a format of weights\n{kinds}")
    if not file.is_file():
        raise RequestError(f"{file}: there is no such file\n{kinds}")
    try:
        data = file.read_bytes()
        arrays = _read_safetensors(data) if file.suffix.lower() == ".safetensors" else _read_torch_save(data)
    except OSError as error:
        raise RequestError(f"{file}: {error.strerror}\n{kinds}") from None
    except MemoryError:
        raise DataError(f"{file}: does not fit into memory\nfree some memory, or use a smaller file") from None
    except Refused as error:
        reason, way_out = error.args
        raise DataError(f"{file}: {reason}\n{way_out}") from None
    except _DAMAGE as error:
        reason = excerpt(str(error) if isinstance(error, (ValueError, EOFError)) else repr(error))
        raise DataError(f"{file}: damaged, or not a weights file ({reason})\ndownload or save it again") from None
    return _without_wrappers(arrays)


def _without_wrappers(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    for prefix in _WRAPPERS * 2:  # they may be nested in either order
        if all(name.startswith(prefix) for name in arrays):
            arrays = {name.removeprefix(prefix): array for name, array in arrays.items()}
    return arrays


# ---- The containers ----


def _read_safetensors(data: bytes) -> dict[str, np.ndarray]:
    arrays = {}
    for name, entry in deserialize(data):
        dtype = _SAFETENSORS.get(entry["dtype"])
        if dtype is None:
            raise Refused(f"{excerpt(name)} has the unsupported type {entry['dtype']}", "save it as float32")
        stored = np.ndarray(entry["shape"], np.dtype(STORED[dtype]).newbyteorder("<"), entry["data"])
        arrays[name] = _converted(stored, dtype)
    if not arrays:
        raise Refused("it has no tensor", "save the state dict to it")
    return arrays


def _read_torch_save(data: bytes) -> dict[str, np.ndarray]:
    if data[257:262] == b"ustar":
        raise Refused("the tar format of PyTorch before 0.1.11", f"load it with a PyTorch of 2017 and {SAVE_ALONE}")
    top, storages, byte_order = _read_zip(data) if data.startswith(b"PK\x03\x04") else _read_legacy(data)
    tensors = _choose(top)
    claimed = sum(math.prod(tensor.shape) * max(4, _itemsize(tensor.dtype)) for tensor in tensors.values())
    if claimed > _MAX_GROWTH * len(data) + _FREE_BYTES:
        raise ValueError("its tensors claim far more than the file holds")
    return {name: _array(name, tensor, storages, byte_order) for name, tensor in tensors.items()}


def _read_zip(data: bytes) -> tuple[object, dict[str, memoryview], str]:
    """Read torch.save's format since 1.6: `<folder>/data.pkl` and a `<folder>/data/<key>` a storage, uncompressed.

    Returns:
        (saved object, bytes of each storage, their byte order).
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        infos = archive.infolist()
    # Overlapping entries could make a small file cost a lot.
    if sum(info.file_size for info in infos) > len(data):
        raise ValueError("its entries hold more than the file")
    folder = infos[0].filename.partition("/")[0] + "/" if infos else ""
    names = {info.filename.removeprefix(folder) for info in infos}
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        way_out = "load it with torch.jit.load and save its state dict, torch.save(module.state_dict(), file)"
        raise Refused("a TorchScript archive: a program, not only weights", way_out)
    if "data.pkl" not in names:
        raise ValueError("a zip archive without data.pkl")
    entries = {info.filename.removeprefix(folder): _zip_entry(data, info) for info in infos}
    byte_order = bytes(entries.get("byteorder", b"little"))
    if byte_order not in (b"little", b"big"):
        raise ValueError("unknown byte order")
    top = Machine(io.BytesIO(entries["data.pkl"])).load()
    storages = {name.removeprefix("data/"): entry for name, entry in entries.items() if name.startswith("data/")}
    return top, storages, "<" if byte_order == b"little" else ">"


def _zip_entry(data: bytes, info: zipfile.ZipInfo) -> memoryview:
    """Return a view of an entry's bytes; nothing is unpacked."""
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
        raise Refused("a zip archive that another program packed again", "use the file that torch.save wrote")
    start = info.header_offset
    if start < 0 or data[start : start + 4] != b"PK\x03\x04":
        raise ValueError("a zip entry has a wrong offset")
    start += 30 + sum(struct.unpack_from("<HH", data, start + 26))  # header, name, padding
    entry = memoryview(data)[start : start + info.file_size]
    if len(entry) != info.file_size:
        raise ValueError("a zip entry ends beyond the file")
    # torch.serialization.set_crc32_options(False) writes a checksum of zero.
    if info.CRC and zlib.crc32(entry) != info.CRC:
        raise ValueError(f"the checksum of {info.filename} is wrong")
    return entry


def _read_legacy(data: bytes) -> tuple[object, dict[str, memoryview], str]:
    """Read torch.save's format before 1.6: five pickles, then each storage after its length (int64, little-endian).

    Returns:
        (saved object, bytes of each storage, their byte order).
    """
    stream = io.BytesIO(data)
    if not data.startswith(b"\x80"):
        raise ValueError(f"it begins with {data[:16]!r}")
    magic, version = Machine(stream).load(), Machine(stream).load()
    if magic != _LEGACY_MAGIC or version != _LEGACY_VERSION:
        raise ValueError("a pickle, but not of torch.save")
    Machine(stream).load()  # the writer's machine; the storages are always little-endian
    machine = Machine(stream)
    top, keys = machine.load(), Machine(stream).load()
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise ValueError("no list of storages")
    storages, position = {}, stream.tell()
    for key in keys:
        dtype, numel = machine.storages[key]
        if int.from_bytes(data[position : position + 8], "little") != numel:
            raise ValueError(f"storage {key} does not have its declared size")
        position += 8
        storages[key] = memoryview(data)[position : position + numel * _itemsize(dtype)]
        position += numel * _itemsize(dtype)
    if position > len(data):
        raise EOFError("it ends inside the storages")
    return top, storages, "<"


# ---- From the saved object to arrays ----


def _choose(top: object) -> dict[str, Tensor]:
    """Return the state dict: the first candidate with tensors."""
    candidates = [top.get(key) for key in _HOLDERS] + [top] if type(top) is dict else []
    for candidate in candidates:
        tensors = {name: x for name, x in candidate.items() if type(x) is Tensor} if type(candidate) is dict else {}
        if tensors:
            return tensors
    names = ", ".join(list(top)[:5]) or "nothing" if type(top) is dict else ""
    content = f"a dict of {names}" if names else f"one {type(top).__name__.strip('_')}"
    raise Refused(f"no named weights in it, but {excerpt(content)}", SAVE_ALONE)


def _itemsize(dtype: str) -> int:
    return np.dtype(STORED[dtype]).itemsize if dtype in STORED else 1


def _array(name: str, tensor: Tensor, storages: dict[str, memoryview], byte_order: str) -> np.ndarray:
    """Copy a tensor out of its storage, after checking that all its elements lie inside."""
    if tensor.dtype not in STORED or tensor.dtype.startswith("complex"):
        raise Refused(f"{excerpt(name)} has the unsupported type {tensor.dtype}", "save it as float32")
    dtype = np.dtype(byte_order + STORED[tensor.dtype])
    if 0 in tensor.shape:
        return _converted(np.empty(tensor.shape, dtype), tensor.dtype)
    storage = tensor.storage
    if storage.key not in storages:
        raise ValueError(f"the storage of {name} is missing")
    itemsize = _itemsize(storage.dtype)
    stored = storages[storage.key][storage.first * itemsize : (storage.first + storage.numel) * itemsize]
    if len(stored) != storage.numel * itemsize:
        raise ValueError(f"the storage of {name} is truncated")
    # The stride of a dimension of size 1 is never used and may be anything.
    strides = [step if size > 1 else 0 for size, step in zip(tensor.shape, tensor.stride, strict=True)]
    last = tensor.offset + sum((size - 1) * step for size, step in zip(tensor.shape, strides, strict=True))
    if (last + 1) * dtype.itemsize > len(stored):
        raise ValueError(f"{name} reaches beyond its storage")
    start, strides = tensor.offset * dtype.itemsize, [step * dtype.itemsize for step in strides]
    return _converted(np.ndarray(tensor.shape, dtype, stored, start, strides), tensor.dtype)


def _converted(stored: np.ndarray, dtype: str) -> np.ndarray:
    """Return a copy in C order and native byte order: floats as float32, bool and integers unchanged."""
    if dtype == "bfloat16":
        bits = stored.astype(np.uint32, order="C")
        bits <<= 16
        return bits.view(np.float32)
    if dtype == "bool":
        return stored.astype(np.bool_, order="C")
    with np.errstate(all="ignore"):  # a float64 beyond float32 becomes inf, as in PyTorch
        return stored.astype(np.float32 if stored.dtype.kind == "f" else stored.dtype.newbyteorder("="), order="C")
