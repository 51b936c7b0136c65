"""The first thing a newcomer types."""

import os
import shutil
import subprocess
import sys

from rp2k_lab import PROJECT


def make(*arguments, path=None):
    environment = {**os.environ, "PATH": path or os.environ["PATH"]}
    command = [shutil.which("make"), "--dry-run", *arguments]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, env=environment)


def fake_python(folder, version):
    """A python3 that is too old: it answers --version and fails every program."""
    for name in ("python3", "python3.11", "python3.12", "python"):
        file = folder / name
        file.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "Python {version}" && exit 0\nexit 1\n')
        file.chmod(0o755)


def test_a_python_that_is_too_old_gets_one_line(tmp_path):
    fake_python(tmp_path, "3.9.2")
    done = make("run", path=f"{tmp_path}:/usr/bin:/bin")
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "Python 3.11 or 3.12" in line
    assert "found Python 3.9.2" in line
    assert "make PYTHON=" in line


def test_a_python_can_be_named():
    done = make("run", f"PYTHON={sys.executable}")
    assert done.returncode == 0
    assert "run.py" in done.stdout
    assert make("run", "PYTHON=/no/such/python").returncode == 2


def test_test_runs_pytest_and_check_adds_ruff():
    assert "-m pytest" in make("test", f"PYTHON={sys.executable}").stdout
    assert "ruff check" in make("check", f"PYTHON={sys.executable}").stdout


def test_notebooks_are_of_the_named_run_or_of_the_newest():
    python = f"PYTHON={sys.executable}"
    assert "-m rp2k_lab.notebook --run 'abc123' --uri ''" in make("notebooks", "RUN=abc123", python).stdout
    assert "-m rp2k_lab.notebook --run '' --uri ''" in make("notebooks", python).stdout


def test_the_page_is_for_this_machine_unless_told_otherwise():
    python = f"PYTHON={sys.executable}"
    assert "-m rp2k_lab.tracking.tracker 5000 127.0.0.1" in make("ui", python).stdout
    assert "-m rp2k_lab.tracking.tracker 5001 0.0.0.0" in make("ui", "PORT=5001", "HOST=0.0.0.0", python).stdout


def test_ci_runs_what_the_readme_tells():
    script = (PROJECT / ".ci" / "run").read_text()
    assert "make run" in script
    assert "make check" in script
    readme = (PROJECT / "README.md").read_text("utf-8")
    assert "    make run " in readme
    assert "    make test " in readme


def test_every_pin_is_a_name_and_a_version():
    lines = (PROJECT / "constraints.txt").read_text().splitlines()
    assert len(lines) > 50
    assert all(line.count("==") == 1 and " " not in line and "/" not in line for line in lines)
