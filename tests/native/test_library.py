"""The native library is compiled where a compiler is, loaded before MindSpore, or left out with the reason."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from rp2k_lab import PROJECT
from rp2k_lab.native import build

pytestmark = pytest.mark.slow

SHOW = """
import ctypes, os, rp2k_lab
print(rp2k_lab.native.state())
print(os.environ.get("ONEDNN_MAX_CPU_ISA"))
print(hasattr(ctypes.CDLL(None), "rp2k_native_version"))
"""
STARTS = 'extern "C" const char *rp2k_native_start(const char *, int) { return nullptr; }\n'
REFUSES = 'extern "C" const char *rp2k_native_start(const char *, int) { return "not today"; }\n'
VERSION = 'extern "C" int rp2k_native_version() { return 7; }\n'
# Another version of oneDNN, with the functions that the library looks for.
FUNCTIONS = set(re.findall(r"X\((dnnl_\w+)\)", (build.FOLDER / "onednn.h").read_text())) - {"dnnl_version"}
ONEDNN = """
struct Version { int major, minor, patch; const char *hash; unsigned cpu, gpu; };
extern "C" const Version *dnnl_version() { static const Version version{9, 9, 9, "", 0, 0}; return &version; }
""" + "".join(f'extern "C" int {name}() {{ return 1; }}\n' for name in sorted(FUNCTIONS))


@pytest.fixture(scope="module")
def compiler() -> list[str]:
    try:
        return build.compiler()
    except build.BuildError as error:
        pytest.skip(f"{error}: nothing can be compiled here")


@pytest.fixture
def library(compiler, tmp_path):
    """library(source, name="stub.so"): compile a small library."""

    def compile_library(source: str, name: str = "stub.so") -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        command = [*compiler, "-x", "c++", "-shared", "-fPIC", "-o", str(file), "-"]
        subprocess.run(command, input=source, text=True, check=True)
        return file

    return compile_library


def show(code: str = SHOW, **variables: str) -> list[str]:
    """Return the lines that a new process prints: state, highest instructions, whether MindSpore would find us."""
    ours = ("RP2K_LAB_NATIVE", "RP2K_LAB_MAX_CPU_ISA", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
    environment = {name: value for name, value in os.environ.items() if name not in ours} | variables
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def pretend_mindspore(folder: Path) -> str:
    """Create a package `mindspore` without content; return the PYTHONPATH that finds it first."""
    (folder / "mindspore").mkdir(parents=True, exist_ok=True)
    (folder / "mindspore" / "__init__.py").touch()
    return f"{folder}:{PROJECT}"


def test_the_library_is_in_use_where_a_compiler_is(compiler):
    """Also a test of the installation: pip or make has compiled it."""
    state, instructions, is_found = show()
    assert re.fullmatch(r"version \d+", state)
    assert (instructions, is_found) == ("None", "True")


def test_off_by_the_variable():
    assert show(RP2K_LAB_NATIVE="0") == ["off (RP2K_LAB_NATIVE=0)", "AVX2", "False"]
    assert show(RP2K_LAB_NATIVE="0", DNNL_MAX_CPU_ISA="SSE41")[1] == "SSE41"


def test_instructions_of_the_user_win(library):
    file = str(library(STARTS + VERSION))
    assert show(RP2K_LAB_NATIVE=file) == ["version 7", "None", "True"]
    assert show(RP2K_LAB_NATIVE=file, ONEDNN_MAX_CPU_ISA="AVX2") == ["version 7", "AVX2", "True"]


def test_a_child_process_decides_again(library):
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SHOW!r}], check=True)"
    chosen = f"import os, rp2k_lab; os.environ['RP2K_LAB_NATIVE'] = {str(library(STARTS + VERSION))!r}; "
    assert show(chosen + child, RP2K_LAB_NATIVE="0") == ["version 7", "None", "True"]
    chosen += "os.environ['ONEDNN_MAX_CPU_ISA'] = 'DEFAULT'; "
    assert show(chosen + child, RP2K_LAB_NATIVE="0")[1] == "DEFAULT"


def test_a_library_that_cannot_be_used_is_left_out(library, tmp_path):
    refused, damaged = library(REFUSES + VERSION), tmp_path / "damaged.so"
    assert show(RP2K_LAB_NATIVE=str(refused)) == ["off (not today)", "AVX2", "False"]
    assert re.match(
        r"off \(cannot be loaded: .*rp2k_native_start", show(RP2K_LAB_NATIVE=str(library(VERSION, "2.so")))[0]
    )
    damaged.write_bytes(b"\x7fELF")
    assert show(RP2K_LAB_NATIVE=str(damaged))[0].startswith("off (cannot be loaded: ")
    assert show(RP2K_LAB_NATIVE=str(tmp_path / "absent.so"))[0].startswith("off (not built: ")


def test_the_limit_counts_after_a_refusal(library):
    """oneDNN, which the library may have loaded by then, reads the variable when it is first used."""
    refused = library(
        "#include <dlfcn.h>\n"
        'extern "C" const char *rp2k_native_start(const char *path, int) {\n'
        '    return dlopen(path, RTLD_NOW) ? "not today" : dlerror();\n}\n' + VERSION
    )
    code = """
import ctypes, importlib.util, pathlib, rp2k_lab
onednn = pathlib.Path(importlib.util.find_spec("mindspore").origin).parent / "lib" / "libdnnl.so.3"
print(rp2k_lab.native.state())
print(ctypes.CDLL(str(onednn)).dnnl_get_effective_cpu_isa())
"""
    state, instructions = show(code, RP2K_LAB_NATIVE=str(refused))
    assert state == "off (not today)"
    assert instructions == show(code, RP2K_LAB_NATIVE="0")[1]


def test_too_late_after_mindspore(library, tmp_path):
    path, file = pretend_mindspore(tmp_path), str(library(STARTS + VERSION))
    lines = show("import mindspore" + SHOW, PYTHONPATH=path, RP2K_LAB_NATIVE=file)
    assert lines == ["off (MindSpore was imported before rp2k_lab)", "AVX2", "False"]


def test_another_onednn_is_left_alone(library, tmp_path):
    if not build.LIBRARY.is_file():
        pytest.skip("the library is not built")
    path = pretend_mindspore(tmp_path)
    state, *others = show(PYTHONPATH=path)  # no libdnnl.so.3 at all
    assert re.match(r"off \(.*libdnnl\.so\.3", state)
    assert others == ["AVX2", "False"]
    library(ONEDNN, "mindspore/lib/libdnnl.so.3")
    state, *others = show(PYTHONPATH=path)
    assert re.match(r"off \(.*9\.9", state)
    assert others == ["AVX2", "False"]


@pytest.fixture
def sources(tmp_path):
    """A folder with build.py and one source; returns (folder, run(**variables))."""
    folder = tmp_path / "sources"
    folder.mkdir()
    for name in ("build.py", "exports.map"):
        shutil.copy(Path(build.__file__).with_name(name), folder)
    (folder / "kernels.cpp").write_text(STARTS + VERSION)

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess:
        command = [sys.executable, str(folder / "build.py"), *arguments]
        return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)

    return folder, run


def test_it_is_compiled_again_when_a_source_is_newer(compiler, sources):
    folder, run = sources
    output = folder / build.LIBRARY.name
    assert (run().returncode, output.is_file()) == (0, True)
    first = output.stat()
    assert run().returncode == 0
    assert output.stat().st_ino == first.st_ino
    (folder / "kernels.h").touch()
    os.utime(folder / "kernels.h", (first.st_mtime + 1, first.st_mtime + 1))
    assert run().returncode == 0
    assert output.stat().st_ino != first.st_ino  # a process that has loaded the former file keeps it
    files = {"build.py", "exports.map", "kernels.cpp", "kernels.h", output.name}
    assert {file.name for file in folder.iterdir()} == files


def test_mindspore_finds_only_functions_of_onednn(compiler, sources):
    folder, run = sources
    (folder / "kernels.cpp").write_text(STARTS + VERSION + "int ours() { return 1; }\n")
    assert run().returncode == 0
    symbols = subprocess.run(["nm", "-D", "--defined-only", str(folder / build.LIBRARY.name)], capture_output=True)
    assert {line.split()[-1] for line in symbols.stdout.decode().splitlines()} == {
        "rp2k_native_start",
        "rp2k_native_version",
    }


def test_a_library_of_other_sources_does_not_stay(compiler, sources):
    folder, run = sources
    output = folder / build.LIBRARY.name
    output.touch()
    (folder / "kernels.cpp").write_text("not C++")
    os.utime(output, (0, 0))
    done = run()
    assert done.returncode == 1
    assert done.stderr.endswith(f"native kernels: not built: {compiler[0]} failed, exit code 1\n")
    assert not output.exists()


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"PATH": "/nonexistent", "CXX": ""}, "no C++17 compiler found"),
        ({"CXX": "/no/such/c++"}, "CXX=/no/such/c++ is no program"),
    ],
)
def test_no_compiler_is_one_line(sources, variables, reason):
    _, run = sources
    done = run(**variables)
    assert (done.returncode, done.stderr) == (1, f"native kernels: not built: {reason}\n")


@pytest.mark.soak
@pytest.mark.parametrize("sanitizer", build.SANITIZERS)
def test_a_build_with_a_sanitizer_is_loaded(compiler, tmp_path, sanitizer):
    library = tmp_path / "sanitized.so"
    command = [sys.executable, build.__file__, "--sanitize", sanitizer, str(library)]
    subprocess.run(command, check=True)
    preload, options = str(build.sanitizer_runtime(sanitizer)), "detect_leaks=0"  # Python leaks by design
    lines = show(RP2K_LAB_NATIVE=str(library), LD_PRELOAD=preload, ASAN_OPTIONS=options)
    assert re.match(r"version \d+", lines[0])


@pytest.mark.soak
@pytest.mark.parametrize("has_compiler", [True, False])
def test_a_wheel_with_and_without_a_compiler(compiler, tmp_path, has_compiler):
    (tmp_path / "source").mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "rp2k_lab", "conf", "hydra_plugins"):
        copy = shutil.copytree if (PROJECT / name).is_dir() else shutil.copy
        copy(PROJECT / name, tmp_path / "source" / name)
    (tmp_path / "source" / "rp2k_lab" / "native" / build.LIBRARY.name).unlink(missing_ok=True)
    environment = dict(os.environ) if has_compiler else os.environ | {"PATH": "/nonexistent", "CXX": ""}
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "wheel", "--no-deps"]
    command += ["--wheel-dir", str(tmp_path), str(tmp_path / "source")]
    subprocess.run(command, env=environment, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl") == (not has_compiler)
    installed = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(installed)
    assert (installed / "rp2k_lab" / "native" / "build.py").is_file()
    code = f"import sys; sys.path.insert(0, {str(installed)!r})\n{SHOW}print(rp2k_lab.__file__)"
    state, *_, file = show(code)
    assert Path(file).is_relative_to(installed)
    assert re.match(r"version \d+" if has_compiler else r"off \(not built: ", state)


FORK = """
import hashlib, os, sys, rp2k_lab
import numpy as np

def compute():
    import mindspore as ms
    from rp2k_lab.model.first_operation import absorb_first_failure

    ms.set_context(mode=ms.PYNATIVE_MODE)
    absorb_first_failure()
    random = np.random.default_rng(0)
    image, weight = (ms.Tensor(random.normal(size=size), ms.float32) for size in ((8, 32, 28, 28), (64, 32, 3, 3)))
    return hashlib.sha256(ms.ops.conv2d(image, weight).asnumpy().tobytes()).hexdigest()

first = compute() if sys.argv[1] == "used" else None
reader, writer = os.pipe()
if os.fork() == 0:
    os.write(writer, (first or compute()).encode())
    os._exit(0)
print(os.read(reader, 64).decode())
print(compute())
"""


@pytest.mark.soak
@pytest.mark.parametrize("when", ["loaded", "used"])
def test_a_fork_computes_the_same_bits(when):
    """A child of a process that has only loaded the library, and the parent in any case.

    MindSpore 2.10 itself hangs in the child of a process that has computed with it.
    """
    assert len(set(show(f"import sys; sys.argv[1:] = [{when!r}]" + FORK))) == 1
