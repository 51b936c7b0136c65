"""Targets of the Makefile."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from rp2k_lab import PROJECT

pytestmark = pytest.mark.slow


def make(*arguments, path=None, folder=PROJECT):
    environment = {**os.environ, "PATH": path or os.environ["PATH"]}
    command = [shutil.which("make"), "--dry-run", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)


def fake_python(folder, version):
    """Create a python3 of another version that only supports --version."""
    for name in ("python3", "python3.11", "python3.12", "python"):
        file = folder / name
        file.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "Python {version}" && exit 0\nexit 1\n')
        file.chmod(0o755)


def test_old_python_is_reported_in_one_line(tmp_path):
    fake_python(tmp_path, "3.9.2")
    done = make("run", path=f"{tmp_path}:/usr/bin:/bin")
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "Python 3.11 or 3.12" in line
    assert "found Python 3.9.2" in line
    assert "make PYTHON=" in line


def test_python_can_be_chosen():
    done = make("run", f"PYTHON={sys.executable}")
    assert done.returncode == 0
    assert "run.py" in done.stdout
    assert make("run", "PYTHON=/no/such/python").returncode == 2


def test_gpu_is_an_extra_that_later_installations_keep(tmp_path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "setup.py"):
        (tmp_path / name).write_bytes((PROJECT / name).read_bytes())
    (tmp_path / ".venv").mkdir()

    def commands(*arguments):
        return make("run", f"PYTHON={sys.executable}", *arguments, folder=tmp_path).stdout

    (tmp_path / ".venv" / "installed").touch()
    assert "pip install" not in commands()
    assert "'.[dev,gpu]'" in commands("GPU=1")
    assert "run.py device=gpu\n" in commands("GPU=1")
    (tmp_path / ".venv" / "installed-gpu").touch()
    assert "pip install" not in commands("GPU=1")
    (tmp_path / "constraints.txt").touch()
    assert "'.[dev,gpu]'" in commands()
    assert "run.py\n" in commands()


def test_test_runs_pytest_and_check_adds_ruff():
    assert "-m pytest" in make("test", f"PYTHON={sys.executable}").stdout
    assert "ruff check" in make("check", f"PYTHON={sys.executable}").stdout


def test_help_describes_every_target():
    makefile = (PROJECT / "Makefile").read_text("utf-8")
    (targets,) = re.findall(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)
    done = subprocess.run(["make", "help", f"PYTHON={sys.executable}"], cwd=PROJECT, capture_output=True, text=True)
    described = dict(re.findall(r"^make (\w+) +(\S.*)$", done.stdout, flags=re.MULTILINE))
    assert described.keys() == set(targets.split())


def test_notebooks_use_the_named_or_the_newest_run():
    python = f"PYTHON={sys.executable}"
    assert "-m rp2k_lab.notebook --run 'abc123' --uri ''" in make("notebooks", "RUN=abc123", python).stdout
    assert "-m rp2k_lab.notebook --run '' --uri ''" in make("notebooks", python).stdout


def test_ui_listens_on_localhost_by_default():
    python = f"PYTHON={sys.executable}"
    assert "-m rp2k_lab.tracking.server 5000 127.0.0.1" in make("ui", python).stdout
    assert "-m rp2k_lab.tracking.server 5001 0.0.0.0" in make("ui", "PORT=5001", "HOST=0.0.0.0", python).stdout


def test_ci_runs_the_commands_of_the_readme():
    script = (PROJECT / ".ci" / "run").read_text()
    assert "make run" in script
    assert "make check" in script
    readme = (PROJECT / "README.md").read_text("utf-8")
    assert "    make run " in readme
    assert "    make test " in readme


def test_constraints_pin_exact_versions():
    lines = (PROJECT / "constraints.txt").read_text().splitlines()
    assert len(lines) > 50
    assert all(line.count("==") == 1 and " " not in line and "/" not in line for line in lines)
