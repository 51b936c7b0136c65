"""A clone in a folder whose name has characters of shells, addresses and Hydra."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request

import pytest

from rp2k_lab import PROJECT
from tests.helpers.tiny_runs import TINY

FOLDER = "o'brien/100%2F ünï [a],b=$c#?"


@pytest.mark.soak
def test_run_study_sync_and_page_in_a_clone_in_any_folder(tmp_path, wait_for):
    clone = tmp_path / FOLDER
    for name in ("rp2k_lab", "conf", "hydra_plugins"):
        shutil.copytree(PROJECT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "run.py", clone)
    environment = {name: value for name, value in os.environ.items() if name not in ("RP2K_LAB_HOME", "PYTHONPATH")}

    def run_py(*arguments):
        command = [sys.executable, "run.py", *arguments]
        done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    offline = run_py(*TINY, "epochs=1", "tracking=offline")
    (command,) = re.findall(r"next +offline: python run\.py (.*)", offline)
    sent = run_py(*shlex.split(command))
    assert "1 sent, 0 sent before" in sent
    study = run_py("-m", "hydra/sweeper=optuna", "seed=1,2", *TINY, "epochs=1")
    assert "study       seed: 2 finished" in study
    server = [sys.executable, "-m", "rp2k_lab.tracking.server", "5995"]
    with subprocess.Popen(server, cwd=clone, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            address = f"http://127.0.0.1:5995/get-artifact?path=classes.txt&run_uuid={sent.partition('runs/')[2][:32]}"
            assert wait_for(lambda: _read(address))
        finally:
            process.terminate()
    assert process.returncode == 0
    assert os.listdir(tmp_path) == ["o'brien"]
    assert os.listdir(tmp_path / "o'brien") == [clone.name]


def _read(address):
    try:
        with urllib.request.urlopen(address, timeout=20) as answer:
            return answer.read()
    except OSError:
        return b""
