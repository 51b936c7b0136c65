"""The reader of PyTorch's files: torch_files/ was written by PyTorch (make.py); hostile files are assembled here."""

import collections
import copyreg
import io
import json
import os
import pickle
import random
import struct
import subprocess
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.model.weights import torch_reader, torch_unpickler
from rp2k_lab.model.weights.torch_reader import read_torch_file

FOLDER = Path(__file__).parent / "torch_files"


@pytest.fixture(scope="module")
def expected():
    """Return arrays by file (without its suffix) and name."""
    tensors = collections.defaultdict(dict)
    for key, array in np.load(FOLDER / "expected.npz").items():
        word, name = key.split("/")
        tensors[word][name] = array
    return tensors


def assert_same(arrays, expected):
    assert set(arrays) == set(expected)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name, strict=True)
        assert array.flags.c_contiguous, name
        assert array.flags.writeable, name


# ---- Assembled pickles and files ----


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def value(content) -> bytes:
    """Return the opcodes of a plain value; bytes are opcodes already."""
    if isinstance(content, bytes):
        return content
    if isinstance(content, tuple):
        return b"(" + b"".join(map(value, content)) + b"t"
    if isinstance(content, list):
        return b"](" + b"".join(map(value, content)) + b"e"
    if isinstance(content, dict):
        return b"}(" + b"".join(value(key) + value(item) for key, item in content.items()) + b"u"
    if content is None or isinstance(content, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[content]
    return text(content) if isinstance(content, str) else number(content)


def ask(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def call(module: str, name: str, *arguments) -> bytes:
    return ask(module, name) + value(arguments) + b"R"


def storage(numel=6, key="0", kind="FloatStorage", view=()) -> bytes:
    return value(("storage", ask("torch", kind), key, "cpu", numel, *view)) + b"Q"


def tensor(shape=(2, 3), stride=(3, 1), offset=0, **options) -> bytes:
    arguments = (storage(**options), offset, shape, stride, False, call("collections", "OrderedDict"))
    return call("torch._utils", "_rebuild_tensor_v2", *arguments)


SIX = np.arange(6, dtype=np.float32)


def zip_bytes(content, storages=None, extra=(), compression=zipfile.ZIP_STORED) -> bytes:
    """Return a file in the format since 1.6 with `content` as its pickle; `storages`: key to bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        archive.writestr("any/data.pkl", b"\x80\x02" + value(content) + b".")
        for key, data in (storages or {"0": SIX.tobytes()}).items():
            archive.writestr(f"any/data/{key}", data)
        for name, data in extra:
            archive.writestr(f"any/{name}", data)
    return out.getvalue()


def legacy_bytes(content, storages=None) -> bytes:
    """Return a file in the format before 1.6; `storages`: key to (count, bytes)."""
    storages = {"0": (6, SIX.tobytes())} if storages is None else storages
    heads = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    pickles = [b"\x80\x02" + value(part) + b"." for part in [*heads, content, list(storages)]]
    return b"".join(pickles) + b"".join(struct.pack("<q", count) + data for count, data in storages.values())


BOTH = pytest.mark.parametrize("pack", [zip_bytes, legacy_bytes])


@pytest.fixture
def read(tmp_path):
    """Return read(data, name="a.pth"): the arrays that the reader returns for these bytes."""

    def read(data: bytes, name: str = "a.pth"):
        (tmp_path / name).write_bytes(data)
        return read_torch_file(tmp_path / name)

    return read


@pytest.fixture
def refused(read):
    """Return refused(data, pattern): expects a DataError of two lines with the file's name and returns its text."""

    def refused(data: bytes, pattern: str, name: str = "a.pth") -> str:
        with pytest.raises(DataError, match=pattern) as caught:
            read(data, name)
        message = str(caught.value)
        assert message.count("\n") == 1
        assert name in message.splitlines()[0]
        assert len(message.partition(name)[2]) < 300
        return message

    return refused


# ---- Files of PyTorch ----


@pytest.mark.parametrize("name", ["net.pth", "net_legacy.pth", "training.pth", "training_legacy.pth", "types.pth"])
def test_reads_files_of_pytorch(name, expected):
    assert_same(read_torch_file(FOLDER / name), expected[name.partition(".")[0].removesuffix("_legacy")])


def test_the_legacy_format_has_every_type_except_uint16(expected):
    legacy = {name: array for name, array in expected["types"].items() if name != "uint16"}
    assert_same(read_torch_file(FOLDER / "types_legacy.pth"), legacy)


def test_reads_safetensors(expected):
    assert_same(read_torch_file(FOLDER / "types.safetensors"), expected["types"])


def test_floats_become_float32_and_other_types_stay():
    arrays = read_torch_file(FOLDER / "types.pth")
    unchanged = {name: name for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "bool")}
    assert {name: array.dtype.name for name, array in arrays.items()} == dict.fromkeys(arrays, "float32") | unchanged


def test_the_order_of_the_file_is_kept():
    names = ["conv.weight", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"]
    for name in ("net.pth", "net_legacy.pth"):
        assert [key for key in read_torch_file(FOLDER / name) if key[:4] in ("conv", "norm")][:5] == names


def test_shared_storages_become_separate_arrays():
    arrays = read_torch_file(FOLDER / "types.pth")
    before = arrays["shared_part"].copy()
    arrays["shared"][:] = 7
    np.testing.assert_array_equal(arrays["shared_part"], before)


def test_a_whole_module_is_refused(refused):
    message = refused((FOLDER / "module.pth").read_bytes(), "a whole pickled module, it asks for torch.nn.modules.cont")
    assert message.splitlines()[1].startswith("save the state dict alone, torch.save(model.state_dict(), file)")
    refused((FOLDER / "module_legacy.pth").read_bytes(), "a whole pickled module, it asks for __main__.Bare: refused")
    refused(
        zip_bytes({"model": ask("models.yolo", "Model") + value({"_parameters": {}, "_buffers": {}}) + b"b"}), "whole"
    )


def test_torchscript_is_refused(refused):
    refused((FOLDER / "script.pt").read_bytes(), "a TorchScript archive.*\n.*torch.jit.load")
    refused(zip_bytes({}, extra=[("code/a.py", b"")]), "a TorchScript archive")


# ---- Position of the weights ----


@BOTH
def test_the_state_dict_as_the_whole_file(pack, read):
    assert_same(read(pack({"w": tensor()})), {"w": SIX.reshape(2, 3)})


@pytest.mark.parametrize("holder", torch_reader._HOLDERS)
def test_the_state_dict_among_other_entries(holder, read):
    other = {"epoch": 1, "lr": [1, 2], 5: tensor(), "rng": tensor()}
    assert set(read(zip_bytes(other | {holder: {"w": tensor(), "step": 3}}))) == {"w"}


def test_state_dict_precedes_model_and_the_other_keys(read):
    content = {name: {f"of.{name}": tensor()} for name in ("net", "model_ema", "model", "state_dict")}
    assert set(read(zip_bytes(content))) == {"of.state_dict"}
    assert set(read(zip_bytes(content | {"state_dict": {"version": 1}}))) == {"of.model"}
    assert set(read(zip_bytes(content | {"state_dict": 1, "model": None}))) == {"of.net"}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["module.a", "module.b.module.c"], ["a", "b.module.c"]),
        (["_orig_mod.a"], ["a"]),
        (["_orig_mod.module.a"], ["a"]),
        (["module._orig_mod.a"], ["a"]),
        (["module.a", "b"], ["module.a", "b"]),
        (["modules.a"], ["modules.a"]),
    ],
)
def test_wrappers_before_all_names_are_removed(names, expected, read):
    assert list(read(zip_bytes({name: tensor() for name in names}))) == expected


@BOTH
@pytest.mark.parametrize(
    ("content", "summary"),
    [
        ({}, "a dict of nothing"),
        ({"epoch": 1, "models": {"w": tensor()}}, "a dict of epoch, models"),
        ([tensor()], "one list"),
        (tensor(), "one Tensor"),
        (5, "one int"),
        ({"a\nb" * 100: 1}, r"a dict of a\\nba\\nb"),
    ],
)
def test_a_file_without_weights_is_refused(content, summary, pack, refused):
    # The legacy format lists only the storages that the pickle refers to.
    storages = {} if pack is legacy_bytes and tensor() not in value(content) else None
    refused(pack(content, storages), f"a.pth: no named weights in it, but {summary}")


def test_a_safetensors_file_without_weights_is_refused(refused):
    refused(struct.pack("<Q", 2) + b"{}", "it has no tensor", "a.safetensors")


# ---- Tensors ----


def test_a_view_in_the_legacy_format(read):
    """Files of PyTorch 0.x refer to a part of a storage: (key, first element, count)."""
    data = legacy_bytes({"w": tensor((2,), (2,), offset=1, view=[("part", 2, 4)])})
    np.testing.assert_array_equal(read(data)["w"], [3, 5])


def test_items_as_pairs_of_python_2(read):
    pairs = call("collections", "OrderedDict", [["w", tensor()], ["_", 1], [["no name"], 2]])
    assert_same(read(legacy_bytes(pairs)), {"w": SIX.reshape(2, 3)})


def test_big_endian_files(read):
    big = zip_bytes({"w": tensor()}, {"0": SIX.astype(">f4").tobytes()}, [("byteorder", b"big")])
    assert_same(read(big), {"w": SIX.reshape(2, 3)})


def test_a_checksum_of_zero_is_not_checked(read):
    data = zip_bytes({"w": tensor()})
    for entry in zipfile.ZipFile(io.BytesIO(data)).infolist():
        data = data.replace(struct.pack("<I", entry.CRC), bytes(4))
    assert_same(read(data), {"w": SIX.reshape(2, 3)})


def test_a_dimension_of_one_may_have_any_stride(read):
    assert read(zip_bytes({"w": tensor((1, 6), (2**62, 1))}))["w"].shape == (1, 6)


def test_a_double_beyond_float32_becomes_infinite(read):
    data = zip_bytes({"w": tensor((2,), (1,), numel=2, kind="DoubleStorage")}, {"0": np.array([1e300, 0.1]).tobytes()})
    np.testing.assert_array_equal(read(data)["w"], np.float32([np.inf, 0.1]))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"offset": 1}, "w reaches beyond its storage"),
        ({"shape": (3, 3)}, "w reaches beyond its storage"),
        ({"stride": (4, 1)}, "w reaches beyond its storage"),
        ({"stride": (2**62, 2**62)}, "w reaches beyond its storage"),
        ({"numel": 5}, "beyond its storage|not have its declared size"),
        ({"numel": 7}, "truncated|not have its declared size"),
        ({"key": "../../etc/passwd"}, "the storage of w is missing|KeyError"),
        ({"offset": -1}, "is not a count"),
        ({"offset": True}, "is not a count"),
        ({"offset": "0"}, "is not a count"),
        ({"shape": (2, -3)}, "is not a count"),
        ({"shape": (2, 2**64)}, "is not a count"),
        ({"stride": (-3, 1)}, "is not a count"),
        ({"stride": (1,)}, "do not match"),
        ({"shape": (1,) * 65, "stride": (1,) * 65}, "do not match"),
        ({"shape": [2, 3]}, "without storage, shape or stride"),
        ({"shape": (2**40,), "stride": (0,)}, "claim far more"),
        ({"shape": (2**62,) * 64, "stride": (0,) * 64}, "claim far more"),
        ({"shape": (0, 2**62, 2**62), "stride": (1, 1, 1)}, "damaged"),
        ({"kind": "ComplexFloatStorage", "numel": 3}, "w has the unsupported type complex64"),
        ({"kind": "QInt8Storage"}, "it asks for torch.QInt8Storage"),
    ],
)
@BOTH
def test_tensors_that_do_not_fit_their_storage_are_refused(options, reason, pack, refused):
    storages = {"0": (3, SIX.tobytes())} if pack is legacy_bytes and "Complex" in str(options) else None
    refused(pack({"w": tensor(**options)}, storages), reason)


def test_a_small_file_cannot_claim_much_memory(read, refused):
    """The limit is 16 MB, so that a small file may expand a tensor, plus four times the file's size."""
    assert read(zip_bytes({"w": tensor((2**20,), (0,))}))["w"].nbytes == 4 * 2**20
    refused(zip_bytes({f"w{i}": tensor((2**20,), (0,)) for i in range(20)}), "claim far more")


def test_a_flipped_bit_in_the_weights_is_detected(refused):
    data = zip_bytes({"w": tensor()})
    refused(data.replace(SIX.tobytes(), SIX.tobytes()[:-1] + b"\x41"), "checksum of any/data/0 is wrong")


# ---- Files of other kinds ----


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".pth.tar", ".safetensors"])
@pytest.mark.parametrize(
    "data", [b"", b"\x80", b"PK\x03\x04", b"<!DOCTYPE html><html>", b"version https://git-lfs.github.com/spec/v1\n"]
)
def test_a_file_without_torchs_format_is_refused(data, suffix, refused):
    refused(data, "damaged, or not a weights file", f"a{suffix}")


def test_the_message_has_the_files_first_bytes(refused):
    refused(b"<!DOCTYPE html><html>", r"it begins with b'<!DOCTYPE html><'\)\ndownload or save it again")


def test_the_message_reports_a_truncated_file(refused):
    refused(b"\x80\x02X\x40\x00\x00\x00cut off", "it ends too early")
    storages = {"0": (6, SIX.tobytes()), "1": (6, SIX.tobytes()[:-1])}
    refused(legacy_bytes({"model": {"w": tensor()}, "rng": tensor(key="1")}, storages), "it ends inside the storages")


@pytest.mark.parametrize(
    "error",
    [
        struct.error("a"),
        zipfile.BadZipFile("a"),
        EOFError("a"),
        IndexError("a"),
        KeyError("a"),
        TypeError("a"),
        OverflowError("a"),
        RecursionError("a"),
        NotImplementedError("a"),
        UnicodeDecodeError("utf-8", b"a", 0, 1, "a"),
        MemoryError(),
    ],
    ids=repr,
)
def test_errors_of_parsers_become_data_errors(error, refused, monkeypatch):
    def raises(_):
        raise error

    monkeypatch.setattr(torch_reader, "_read_torch_save", raises)
    refused(b"", "does not fit into memory" if isinstance(error, MemoryError) else "damaged, or not a weights file")


def test_a_pickle_of_another_program_is_refused(refused):
    refused(pickle.dumps({"w": [1, 2]}, 2) * 2, "a pickle, but not of torch.save")


def test_the_tar_format_is_refused(refused):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    refused(out.getvalue(), "the tar format of PyTorch before 0.1.11", "a.pth.tar")


def test_a_zip_of_another_program_is_refused(refused):
    refused(zip_bytes({"w": tensor()}, compression=zipfile.ZIP_DEFLATED), "another program packed again")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a/readme", b"text")
    refused(out.getvalue(), "a zip archive without data.pkl")
    refused(zip_bytes({"w": tensor()}, extra=[("byteorder", b"middle")]), "unknown byte order")


def test_overlapping_zip_entries_are_refused(refused):
    """The directory has a thousand entries for the bytes of one."""
    data = zip_bytes({"w": tensor()}, {"0": bytes(10_000)})
    start, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    last = data.rindex(b"PK\x01\x02")
    directory = data[start:last] + data[last:end] * 1000
    count = 1000 + data[start:last].count(b"PK\x01\x02")
    tail = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, count, count, len(directory), start, 0)
    refused(data[:start] + directory + tail, "its entries hold more than the file")


def test_an_unsupported_type_of_safetensors_is_refused(refused):
    header = json.dumps({"w": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}).encode()
    refused(struct.pack("<Q", len(header)) + header + b"ab", "w has the unsupported type F8_E4M3", "a.safetensors")


@pytest.mark.parametrize("name", ["missing.pth", "missing.safetensors"])
def test_a_missing_file_is_a_wrong_request(name, tmp_path):
    with pytest.raises(
        RequestError, match=f"{name}: there is no such file\nuse a .pth, .pt, .bin or .safetensors file"
    ):
        read_torch_file(tmp_path / name)


@pytest.mark.parametrize("name", ["a.h5", "a", "a.tar", "pth"])
def test_another_kind_of_file_is_a_wrong_request(name, tmp_path):
    (tmp_path / name).touch()
    with pytest.raises(RequestError, match=f"{name}: not a format of weights\nuse a .pth"):
        read_torch_file(tmp_path / name)


def test_a_folder_is_a_wrong_request(tmp_path):
    (tmp_path / "a.pth").mkdir()
    with pytest.raises(RequestError, match="there is no such file"):
        read_torch_file(tmp_path / "a.pth")


# ---- Hostile files ----


class Call:
    """An object that pickles as the call of a function."""

    def __init__(self, function, *arguments):
        self.arguments = function, arguments

    def __reduce__(self):
        return self.arguments


COMMAND = "touch marker"
ALIVE = {
    "system": Call(os.system, COMMAND),
    "eval": Call(eval, "open('marker', 'w')"),
    "popen": Call(subprocess.Popen, ["touch", "marker"]),
    "in a key": Call(dict, [(Call(os.system, COMMAND), 1)]),
}
WRITTEN = {
    "INST": b"(" + text(COMMAND) + b"ios\nsystem\n",
    "OBJ": b"(" + ask("os", "system") + text(COMMAND) + b"o",
    "NEWOBJ": ask("subprocess", "Popen") + value((COMMAND,)) + b"\x81",
    "NEWOBJ_EX": ask("subprocess", "Popen") + value((COMMAND,)) + b"}\x92",
    "STACK_GLOBAL": text("os") + text("system") + b"\x93" + value((COMMAND,)) + b"R",
    "a global of the other module": call("torch", "_rebuild_tensor_v2", 1),
    "dotted": text("torch._utils") + text("_rebuild_tensor_v2.__globals__") + b"\x93",
    "dotted module": text("torch._utils._rebuild_tensor_v2") + text("__globals__") + b"\x93",
    "dotted class": text("collections") + text("OrderedDict.__init__.__globals__") + b"\x93",
    "getattr": call("builtins", "getattr", call("builtins", "__import__", "os"), "system") + value((COMMAND,)) + b"R",
    "not a name": value(1) + text("system") + b"\x93",
    "a line break in the name": text("os\n\nall is well") + text("system") + b"\x93",
    "Python 2's name": call("__builtin__", "eval", COMMAND),
    "torch.load again": call("torch.storage", "_load_from_bytes", "…"),
    "numpy.load": call("numpy", "load", "marker"),
    "reconstructor": call("copyreg", "_reconstructor", ask("builtins", "object")),
}
MALFORMED = {
    "EXT1": b"\x82\xf0",
    "EXT2": b"\x83\xf0\x00",
    "EXT4": b"\x84\xf0\x00\x00\x00",
    "INST of an allowed name": b"(icollections\nOrderedDict\n",
    "OBJ of an allowed name": b"(" + ask("collections", "OrderedDict") + b"o",
    "PERSID": b"P0\n",
    "NEXT_BUFFER": b"\x97",
    "BUILD of a global": ask("collections", "OrderedDict") + value({"fromkeys": 1}) + b"b",
    "BUILD of a global's slots": ask("collections", "OrderedDict") + value((None, {"fromkeys": 1})) + b"b",
    "BUILD of a function": ask("torch._utils", "_rebuild_tensor_v2") + value({"__code__": 1}) + b"b",
    "BUILD of a storage": storage() + value({"numel": 10**12}) + b"b",
    "BUILD of a tensor": tensor() + value({"shape": (10**12,)}) + b"b",
    "BUILD of a text": text("a") + value({"a": 1}) + b"b",
    "SETITEM of a global": ask("collections", "OrderedDict") + text("a") + b"Ns",
    "SETITEM of a tensor": tensor() + text("shape") + value((10**12,)) + b"s",
    "SETITEM of a list": b"]" + value(0) + b"Ns",
    "SETITEMS of an odd number": b"}(" + text("a") + b"u",
    "APPEND to a global": ask("collections", "OrderedDict") + b"Na",
    "APPENDS to a tuple": b")(NNe",
    "ADDITEMS to a dict": b"}(N\x90",
    "calls a text": text("os.system") + value((COMMAND,)) + b"R",
    "calls a tensor": tensor() + value(()) + b"R",
    "calls a dict": b"})R",
    "calls a type": call("torch", "float32"),
    "calls a storage's class": call("torch", "FloatStorage", 10**12),
    "calls with a list": ask("collections", "OrderedDict") + value([1]) + b"R",
    "calls what is dropped with a list": ask("argparse", "Namespace") + value([1]) + b"R",
    "calls with too little": call("torch._utils", "_rebuild_tensor_v2", 1),
    "calls with too much": call("torch", "Size", (1,), 2),
    "rebuilds with a class": call(
        "torch._tensor", "_rebuild_from_type_v2", ask("collections", "OrderedDict"), 1, (), 1
    ),
    "rebuilds itself": call(
        "torch._tensor", "_rebuild_from_type_v2", ask("torch._tensor", "_rebuild_from_type_v2"), 1, (1, 1, 1, 1), 1
    ),
    "a parameter of a text": call("torch._utils", "_rebuild_parameter", "a", False, {}),
    "a negative view": call("torch._utils", "_rebuild_tensor_v2", storage(), 0, (), (), False, {}, {"neg": True}),
    "a tensor of a global": call("torch._utils", "_rebuild_tensor_v2", ask("torch", "FloatStorage"), 0, (), (), 0, {}),
    "a tensor of no type": call("torch._utils", "_rebuild_tensor_v3", storage(), 0, (), (), 0, {}, "float32"),
    "pairs that are none": call("collections", "OrderedDict", [1]),
    "pairs of a dict": call("collections", "OrderedDict", {"ab": 1}),
    "pairs of a text": call("collections", "OrderedDict", "ab"),
    "id of a text": text("0") + b"Q",
    "id of two": value(("storage", "0")) + b"Q",
    "id of seven": value(("storage", ask("torch", "FloatStorage"), "0", "cpu", 6, None, None)) + b"Q",
    "id of a module": value(("module", ask("collections", "OrderedDict"), "a.py", "source", 1)) + b"Q",
    "id of a module with the class of a storage": value(("module", ask("torch", "FloatStorage"), "0", "cpu", 6)) + b"Q",
    "id with a class as a text": value(("storage", "FloatStorage", "0", "cpu", 6)) + b"Q",
    "id with another class": value(("storage", ask("collections", "OrderedDict"), "0", "cpu", 6)) + b"Q",
    "id with a number as key": value(("storage", ask("torch", "FloatStorage"), 0, "cpu", 6)) + b"Q",
    "id with a list as key": value(("storage", ask("torch", "FloatStorage"), [0], "cpu", 6)) + b"Q",
    "id with a negative count": storage(-6),
    "id with a huge count": storage(2**70),
    "id with a count as a text": storage("6"),
    "id with a view beyond": storage(view=[("part", 4, 3)]),
    "id with a view of two": storage(view=[("part", 4)]),
    "two ids of two sizes": storage(6) + storage(5),
    "an empty stack": b"0" * 9,
    "no mark": b"t",
    "memo of nothing": b"h\x07",
    "text cut off": b"X\xff\xff\xff\xffabc",
    "text of 2**63": b"\x8d" + b"\xff" * 8 + b"abc",
    "bytes of 2**62": b"\x8e" + struct.pack("<Q", 2**62),
    "bytearray of 2**40": b"\x96" + struct.pack("<Q", 2**40),
    "an unknown opcode": b"\xff",
}


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    """Return the working directory, where the commands would leave a marker, and check that there is none."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", ALIVE)
@BOTH
def test_calls_are_not_executed(name, pack, protocol, refused, in_folder):
    body = pickle.dumps(ALIVE[name], protocol)[:-1]
    message = refused(pack({"w": tensor(), "x": body}), r"it asks for \w+\.\w+, which weights do not need")
    assert "posix.system" in message or name not in ("system", "in a key")


def test_pickle_executes_the_commands(tmp_path, monkeypatch):
    """Otherwise the tests of the reader prove nothing."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(ALIVE["system"], 2))
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize("name", WRITTEN)
@BOTH
def test_calls_by_other_opcodes_are_not_executed(name, pack, refused, in_folder):
    refused(pack({"w": tensor(), "x": WRITTEN[name]}), "it asks for")


@pytest.mark.parametrize("name", MALFORMED)
@BOTH
def test_malformed_pickles_are_refused(name, pack, refused, in_folder, monkeypatch):
    monkeypatch.setitem(copyreg._inverted_registry, 0xF0, ("os", "system"))
    before = dict(vars(collections.OrderedDict)), dict(torch_unpickler._GLOBALS)
    refused(pack({"w": tensor(), "x": MALFORMED[name]}), "damaged, or not a weights file")
    assert (dict(vars(collections.OrderedDict)), dict(torch_unpickler._GLOBALS)) == before


def test_old_opcodes_are_refused_for_allowed_names_too(refused):
    refused(zip_bytes(b"(icollections\nOrderedDict\n"), "opcode b'i' is not one of torch.save's")


@BOTH
def test_entries_beside_the_weights_are_dropped(pack, read):
    """Results of calls and builds of allowed names are dropped."""
    beside = [
        ask("argparse", "Namespace") + b")\x81" + value({"__class__": "x", "__dict__": {}}) + b"b",
        call("collections", "OrderedDict") + value({"__class__": 1, "keys": None}) + b"b",
        call("pathlib", "PosixPath", "/", "etc"),
        call("collections", "defaultdict", ask("builtins", "dict")),
        call("numpy.core.multiarray", "scalar", call("numpy", "dtype", "f8", False, True), "x"),
        ask("torch", "bfloat16"),
        b"\x8f(\x88\x90",
    ]
    assert_same(read(pack({"beside": beside, "w": tensor(), ("a", 1): 2, 7: tensor()})), {"w": SIX.reshape(2, 3)})


# ---- Files that cost time or memory ----


@pytest.fixture
def quick():
    start = time.process_time()
    yield
    assert time.process_time() - start < 5


def test_deep_nesting_is_read(read, quick):
    for wrap in (b"\x85", b"]" + b"Na"):
        deep = b"N" + wrap * 50_000
        assert set(read(zip_bytes({"x": deep, "w": tensor()}))) == {"w"}
    keys = b"}" + b"N" + b"\x85" * 50_000 + b"Ns"
    assert set(read(zip_bytes({"x": keys, "w": tensor()}))) == {"w"}


def test_lists_of_lists_by_the_memo_are_read(read, quick):
    """Each list contains the previous one twice: 2**200 elements for a recursive reader."""
    laughs = b"]q\x00" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(200))
    assert set(read(zip_bytes({"x": laughs, "w": tensor()}))) == {"w"}


def test_a_large_memo_index_is_read(read, quick):
    """pickle.load allocates the memo up to this index."""
    assert set(read(zip_bytes({"x": b"Nr\xff\xff\xff\xff", "w": tensor()}))) == {"w"}


def test_colliding_integers_are_read(read, quick):
    keys = b"}(" + b"".join(number(i * (2**61 - 1)) + b"N" for i in range(20_000)) + b"u"
    assert set(read(zip_bytes({"x": keys, "w": tensor()}))) == {"w"}


def test_a_list_passed_repeatedly_is_refused(refused, quick):
    pairs = value([["a", 1]] * 3000) + b"q\x000"
    refused(
        zip_bytes({"x": pairs + (ask("collections", "OrderedDict") + b"h\x00\x85R0") * 20_000}),
        "its pickle takes more than 2097152 steps",
    )


def test_too_many_steps_are_refused(refused, monkeypatch):
    monkeypatch.setattr(torch_unpickler, "_MAX_STEPS", 10_000)
    refused(zip_bytes({"x": [None] * 20_000, "w": tensor()}), "its pickle takes more than 10000 steps")


# ---- Damaged files ----

GOOD = ["training.pth", "types_legacy.pth", "types.safetensors"]


def outcome(read, data: bytes, name: str) -> bool:
    """Return whether the file was read; an exception other than DataError fails the test."""
    try:
        return bool(read(data, name))
    except DataError:
        return False


@pytest.mark.parametrize("name", GOOD)
def test_truncated_files_are_refused(name, read):
    data = (FOLDER / name).read_bytes()
    lengths = sorted({*range(64), *range(0, len(data), len(data) // 60), *range(len(data) - 20, len(data))})
    assert not any(outcome(read, data[:length], name) for length in lengths)
    assert outcome(read, data, name)


@pytest.mark.parametrize("name", GOOD)
def test_flipped_bits_raise_only_data_errors(name, read):
    data, rng = (FOLDER / name).read_bytes(), random.Random(0)
    positions = [rng.randrange(8 * len(data)) for _ in range(100)] + [rng.randrange(8 * 1200) for _ in range(50)]
    read_well = 0
    for position in positions:
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        read_well += outcome(read, bytes(flipped), name)
    assert 0 < read_well < len(positions)


def test_flipped_bits_in_a_pickle_with_a_correct_checksum_raise_only_data_errors(read):
    with zipfile.ZipFile(FOLDER / "training.pth") as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    rng, results = random.Random(1), []
    for _ in range(150):
        program = bytearray(entries["training/data.pkl"])
        program[rng.randrange(len(program))] = rng.randrange(256)
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for name, content in (entries | {"training/data.pkl": bytes(program)}).items():
                archive.writestr(name, content)
        results.append(outcome(read, out.getvalue(), "a.pth"))
    assert {True, False} == set(results)
