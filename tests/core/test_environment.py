"""What the user's environment may change: forced, recorded, and UTF-8 names whatever the locale."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rp2k_lab import PROJECT
from rp2k_lab.core.environment import cores, force, variables, variables_with_effect

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
COMPILE = PROJECT / "tests" / "helpers" / "loss_after_one_step.py"


def test_variables_that_change_a_program_are_removed_or_forced():
    user = {"MS_COMPILER_CACHE_ENABLE": "1", "MS_JIT": "0", "MS_DEV_USE_PY_BPROP": "1", "MS_SIMULATION_LEVEL": "3"}
    environment = user | {"OMP_NUM_THREADS": "2", "HOME": "/home/someone", "ONEDNN_DEFAULT_FPMATH_MODE": "bf16"}
    assert force(environment) == (
        "MS_COMPILER_CACHE_ENABLE=1",
        "MS_DEV_USE_PY_BPROP=1",
        "MS_JIT=0",
        "MS_SIMULATION_LEVEL=3",
        "ONEDNN_DEFAULT_FPMATH_MODE=bf16",
    )
    kept = {"OMP_NUM_THREADS": "2", "HOME": "/home/someone", "MS_COMPILER_CACHE_ENABLE": "0"}
    assert environment == kept | dict.fromkeys(("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"), "STRICT")
    assert force(environment) == ()  # a child process has nothing to say


def test_variables_of_the_libraries_are_recorded_and_those_with_effect_are_compared():
    environment = {"OMP_NUM_THREADS": "2", "MS_ROLE": "MS_WORKER", "CUDA_VISIBLE_DEVICES": "1", "TOKEN": "hidden"}
    assert list(variables(environment)) == ["CUDA_VISIBLE_DEVICES", "MS_ROLE", "OMP_NUM_THREADS"]
    assert variables_with_effect(environment) == {"OMP_NUM_THREADS": "2"}


def test_cores_are_those_that_the_process_may_use():
    allowed = os.sched_getaffinity(0)
    assert cores() == len(allowed)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.slow
@pytest.mark.soak
def test_a_cache_of_compiled_programs_does_not_change_the_loss(tmp_path):
    """The second program differs from the first by the label smoothing alone, a constant in the compiled graph."""

    def loss(smoothing: str, **variables: str) -> str:
        environment = os.environ | variables
        command = [sys.executable, str(COMPILE), smoothing]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    environment = {"MS_COMPILER_CACHE_ENABLE": "1", "MS_COMPILER_CACHE_PATH": str(tmp_path / "cache")}
    smooth, sharp, alone = loss("0.5", **environment), loss("0.0", **environment), loss("0.0")
    assert sharp == alone != smooth
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_a_command_names_the_variables_that_it_ignores(tmp_path):
    environment = os.environ | {"MS_JIT": "0", "MS_DEV_X": "\x1b[2J", "RP2K_LAB_HOME": str(tmp_path)}
    command = [sys.executable, str(PROJECT / "run.py"), "--cfg", "job"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith(r"environment: MS_DEV_X=\x1b[2J, MS_JIT=0 ignored: ")
    assert done.stdout.startswith("task:")


def listed(code: str, folder: Path, **variables: str) -> tuple[list[str], bytes]:
    """Return (lines, stderr) of a Python program with a folder as its argument, in another locale."""
    source = f"import os, sys\nfrom rp2k_lab.core.environment import use_utf8\nuse_utf8()\n{code}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "PYTHON"))}
    command = [os.fsencode(sys.executable), b"-c", source.encode(), os.fsencode(folder)]
    done = subprocess.run(command, env=environment | variables, cwd=PROJECT, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode("ascii").splitlines(), done.stderr


NAMES = "print(*(ascii(name) for name in os.listdir(sys.argv[1])), sys.stdout.encoding.lower(), sep='\\n')"


@pytest.fixture(scope="module")
def gbk(tmp_path_factory) -> dict[str, str]:
    """The environment of a terminal in China before UTF-8."""
    folder = tmp_path_factory.mktemp("locale")
    command = ["localedef", "-i", "zh_CN", "-f", "GBK", str(folder / "zh_CN.GBK")]
    if not shutil.which("localedef") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("localedef cannot make zh_CN.GBK here: that locale is not tested")
    return {"LOCPATH": str(folder), "LC_ALL": "zh_CN.GBK"}


@pytest.mark.slow
@pytest.mark.parametrize("locale", ["ascii", "gbk"])
def test_file_names_are_utf8_in_every_locale(locale, tmp_path, request):
    variables = ASCII if locale == "ascii" else request.getfixturevalue("gbk")
    folder = tmp_path / "照片 é"  # the argument, too
    folder.mkdir()
    (folder / "品牌").touch()
    lines, errors = listed(NAMES, folder, **variables)
    assert lines == [ascii("品牌"), locale]
    assert errors == b""


@pytest.mark.slow
def test_a_flag_against_utf8_does_not_loop(tmp_path):
    code = "import sys; from rp2k_lab.core.environment import use_utf8; use_utf8(); print('ended')"
    command = [sys.executable, "-X", "utf8=0", "-c", code]
    done = subprocess.run(command, env=os.environ | ASCII, cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "ended\n"


@pytest.mark.slow
def test_a_terminal_prints_what_it_lacks_as_codes(tmp_path):
    code = "import logging\nlogging.basicConfig(stream=sys.stdout, format='%(message)s')\nlogging.warning('5 – 品 é')"
    lines, errors = listed(code, tmp_path, PYTHONIOENCODING="ascii")
    assert lines == [r"5 \u2013 \u54c1 \xe9"]
    assert errors == b""  # logging reports what it cannot print, in 11 lines each


@pytest.mark.slow
def test_the_command_reads_its_arguments_as_utf8_in_an_ascii_locale(tmp_path):
    """The whole command: `main` prepares the process before it reads a name."""
    environment = os.environ | ASCII | {"RP2K_LAB_HOME": str(tmp_path)}
    command = [sys.executable, str(PROJECT / "run.py"), "seed='品牌'"]
    done = subprocess.run([os.fsencode(word) for word in command], env=environment, capture_output=True)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode("ascii").startswith(r"seed=\u54c1\u724c: ")
