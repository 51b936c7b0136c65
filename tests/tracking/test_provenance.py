import subprocess

import numpy as np
import pytest

from rp2k_lab.config.choices import flatten
from rp2k_lab.tracking import provenance
from rp2k_lab.tracking.provenance import environment, git_state

pytestmark = pytest.mark.slow


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "CLONE", tmp_path)
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for arguments in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *arguments], cwd=tmp_path, check=True)
    return tmp_path


def test_clean_checkout(checkout):
    state = git_state()
    assert len(state["git_commit"]) == 40
    assert state["git_dirty"] == "false"


def test_changed_checkout_is_dirty(checkout):
    (checkout / "new.py").touch()
    assert git_state()["git_dirty"] == "true"


def test_outside_a_checkout_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "CLONE", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state() == {"git_commit": "unknown", "git_dirty": "unknown"}


def test_without_git_is_unknown(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert git_state() == {"git_commit": "unknown", "git_dirty": "unknown"}


def test_environment_names_python_settings_and_packages(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("SECRET_TOKEN", "hidden")
    lines = environment().splitlines()
    assert lines[0].startswith("# Python 3.")
    assert "# OMP_NUM_THREADS=2" in lines
    assert f"numpy=={np.__version__}" in lines
    packages = [line for line in lines if not line.startswith("#")]
    assert packages == sorted(packages, key=lambda line: line.split("==")[0].lower())
    assert "hidden" not in "\n".join(lines)


def test_flatten():
    tree = {"seed": 0, "aug": {"crop": [0.08, 1.0], "deep": {"er": None}}, "empty": {}}
    assert dict(flatten(tree)) == {"seed": 0, "aug.crop": [0.08, 1.0], "aug.deep.er": None}
