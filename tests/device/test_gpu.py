"""device=gpu with a stub driver and stub libraries: MindSpore's own plugin, the real loader and the real ldd."""

import json
import os
import subprocess
import sys

import pytest

from rp2k_lab import PROJECT
from rp2k_lab.device import gpu_libraries
from tests.helpers import stub_gpu

pytestmark = pytest.mark.slow

ASK_DRIVER = """
import json, logging, os, sys
from rp2k_lab.core.errors import RequestError
from rp2k_lab.device import gpu_driver
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
for variables in json.loads(sys.argv[1]):
    os.environ.update(variables)
    try:
        gpu_driver.check()
        print("ready")
    except RequestError as error:
        print(str(error).replace("\\n", "; "))
"""
LOAD = """
import os
from rp2k_lab.device import gpu_libraries
before = dict(os.environ)
print(gpu_libraries.load().replace("\\n", "; ") or "loaded")
print("CUDA in use" if "libcudart" in open("/proc/self/maps").read() else "no CUDA")
print("changed", sorted(name for name in os.environ if os.environ[name] != before.get(name)))
"""
# Which libraries run.py, and MindSpore after it, have loaded.
RUN = """
import os, runpy, sys
sys.argv = ["run.py", *sys.argv[1:]]
try:
    runpy.run_path("run.py", run_name="__main__")
except SystemExit as end:
    import mindspore
    maps = open("/proc/self/maps").read()
    print("exit", end.code, [name for name in ("libcudart", "libmindspore_gpu") if name in maps])
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory) -> dict[str, str]:
    """The variables of processes on a machine with a card, a driver and the wheels."""
    try:
        return stub_gpu.build(tmp_path_factory.mktemp("gpu"))
    except OSError as error:
        pytest.skip(f"{error}: nothing can be compiled here")


def python(code: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    ours = ("CUDA_", "STUB_", "LD_LIBRARY_PATH", "PYTHONPATH")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)} | variables
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, cwd=PROJECT, capture_output=True, text=True)


def lines(code: str, *arguments: str, **variables: str) -> list[str]:
    done = python(code, *arguments, **variables)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def no_driver(folder) -> dict[str, str]:
    """Hide the machine's driver, if it has one, behind a file that is none."""
    (folder / "libcuda.so.1").write_bytes(b"no driver")
    return {"LD_LIBRARY_PATH": str(folder)}


def test_the_wheels_are_loaded_and_named_to_mindspore(machine):
    assert lines(LOAD, **machine) == ["loaded", "CUDA in use", "changed ['CUDA_HOME', 'LD_LIBRARY_PATH']"]


def test_a_child_process_loads_what_its_parent_has_loaded(machine):
    nested = f"import subprocess, sys\n{LOAD}\nprint(flush=True)\nsubprocess.run([sys.executable, '-c', {LOAD!r}])"
    assert lines(nested, **machine)[4:] == ["loaded", "CUDA in use", "changed ['LD_LIBRARY_PATH']"]


def test_nothing_changes_without_the_wheels(machine, tmp_path):
    (tmp_path / "nvidia").mkdir()
    (tmp_path / "nvidia" / "__init__.py").touch()
    first, *rest = lines(LOAD, **machine | {"PYTHONPATH": str(tmp_path)})
    assert first.startswith(
        "device=gpu: the CUDA 11.8 libraries are not installed: no cuda_runtime/lib/libcudart.so.11.0; "
        "install the extra gpu: make run GPU=1, or pip install "
    )
    assert rest == ["no CUDA", "changed []"]


def test_nothing_changes_without_a_driver(machine, tmp_path):
    first, *rest = lines(LOAD, **machine | no_driver(tmp_path))
    assert first.startswith("device=gpu: there is no NVIDIA driver here (libcuda.so.1); use device=cpu")
    assert rest == ["no CUDA", "changed []"]


def test_nothing_changes_with_cuda_of_the_user(machine):
    """MindSpore looks there."""
    assert lines(LOAD, **machine | {"CUDA_HOME": "/usr/local/cuda"}) == ["loaded", "no CUDA", "changed []"]


def test_a_damaged_library_is_named(machine, tmp_path):
    packages = tmp_path / "nvidia"
    packages.mkdir()
    (packages / "__init__.py").touch()
    for name in gpu_libraries.LIBRARIES:
        file = packages / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"\x7fELF, the first part of a download")
    (first, *_) = lines(LOAD, **machine | {"PYTHONPATH": str(tmp_path)})
    assert first.startswith(f"device=gpu: {packages}/{gpu_libraries.LIBRARIES[0]}: ")
    assert "; install the extra gpu: " in first


def test_after_mindspore_it_is_too_late(machine):
    first, used, _ = lines(f"import sys\nsys.modules['mindspore'] = None\n{LOAD}", **machine)
    assert first.startswith("device=gpu: this process has imported MindSpore without its GPU plugin; use one device ")
    assert used == "no CUDA"


def test_the_driver_is_asked(machine, tmp_path):
    settings = [
        ({}, "ready"),
        ({"STUB_DRIVER": "11000"}, "ready"),
        ({"STUB_DRIVER": "10020"}, "device=gpu: the NVIDIA driver is too old: of CUDA 10.2; install driver 450.80.02 "),
        ({"STUB_DRIVER": "12080", "STUB_CARDS": "0"}, "device=gpu: the NVIDIA driver finds no card; use device=cpu"),
        ({"STUB_CARDS": "1", "STUB_INIT": "100"}, "device=gpu: the NVIDIA driver finds no card; use device=cpu"),
        ({"STUB_INIT": "803"}, "device=gpu: the NVIDIA driver does not start: CUDA_ERROR_OF_STUB; use device=cpu"),
    ]
    answers = lines(ASK_DRIVER, json.dumps([variables for variables, _ in settings]), **machine)
    for answer, (variables, expected) in zip(answers, settings, strict=True):
        assert answer.startswith(expected), variables
    (answer,) = lines(ASK_DRIVER, "[{}]", **machine | no_driver(tmp_path))
    assert answer.startswith("device=gpu: there is no NVIDIA driver here")


def test_a_long_first_start_is_announced_once(machine, tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "index").touch()
    settings = [
        {"STUB_CAPABILITY": "89"},  # the machine code for 8.0 runs there
        {"STUB_CAPABILITY": "90"},
        {"STUB_CAPABILITY": "120", "CUDA_CACHE_PATH": str(tmp_path / "new")},
        {"CUDA_CACHE_PATH": str(kept)},
    ]
    answers = lines(ASK_DRIVER, json.dumps(settings), **machine)
    assert [line for line in answers if "first start" not in line] == ["ready"] * 4
    hopper, blackwell = answers[1], answers[3]
    assert hopper.startswith("first start on a card of compute capability 9.0: the driver translates ")
    assert "takes minutes, once" in hopper
    assert hopper.endswith(f"{machine['HOME']}/.nv/ComputeCache")
    assert "capability 12.0" in blackwell
    assert blackwell.endswith(str(tmp_path / "new"))


def test_a_gpu_that_cuda_can_use_is_set_up(machine):
    code = """
from types import SimpleNamespace
from rp2k_lab.device import gpu_libraries
assert gpu_libraries.load() == ""
import mindspore
from rp2k_lab.device import target
for repeated in range(2):
    target.set_up(SimpleNamespace(name="gpu", precision="O2", loss_scale="dynamic", deterministic=False))
print(mindspore.get_context("device_target"), mindspore.hal.device_count())
"""
    assert lines(code, **machine | {"STUB_CARDS": "3"}) == ["GPU 3"]


def test_the_command_line_loads_the_plugin_for_a_gpu(machine, tmp_path):
    """MindSpore asks CUDA, by its plugin: the reason is the stub's."""
    done = python(RUN, "device=gpu", f"hydra.run.dir={tmp_path}/out", **machine | {"STUB_CUDA": "35"})
    assert done.stdout.splitlines()[-1] == "exit 2 ['libcudart', 'libmindspore_gpu']"
    assert done.stderr.splitlines() == [
        "device=gpu: CUDA does not start: CUDA driver version is insufficient",
        "update the NVIDIA driver, or use device=cpu",
    ]


def test_a_cpu_beside_it_loads_nothing(machine, tmp_path):
    command = ["task=sync", f"tracking.uri=sqlite:///{tmp_path}/mlflow.db", f"hydra.run.dir={tmp_path}/out"]
    done = python(RUN, *command, **machine)
    assert (done.stdout.splitlines()[-1], done.stderr) == ("exit 0 []", "")
