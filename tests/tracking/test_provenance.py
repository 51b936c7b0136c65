import hashlib
import json
import os
import shlex
import subprocess

import numpy as np
import pytest

from rp2k_lab.config.choices import flatten
from rp2k_lab.config.schema import parse
from rp2k_lab.core.quoting import hydra_value
from rp2k_lab.tracking import provenance
from rp2k_lab.tracking.provenance import (
    environment,
    environment_changes,
    environment_tag,
    fingerprint,
    git_state,
    overrides_of,
)

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


def test_environment_has_the_usable_cores_and_no_password(monkeypatch):
    monkeypatch.setenv("MS_CACHE_HOST", "http://user:secret@host/\x1b[2J")
    text = environment()
    assert f"# cores={len(os.sched_getaffinity(0))}" in text.splitlines()
    assert "secret" not in text
    assert "\x1b" not in text


def test_equal_environments_have_no_changes_and_old_or_damaged_tags_say_nothing():
    assert environment_changes(environment_tag()) == []
    assert environment_tag(environment_tag()) == environment_tag()
    for tag in (None, "", "[]", "{", "7", '"x"', "[1, null]", "[" * 100_000):
        assert environment_changes(tag) == []


def test_each_change_is_one_line_also_after_several_resumes(monkeypatch):
    first = environment_tag()
    monkeypatch.setattr(provenance, "cores", lambda: 64)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    before = json.loads(first)[0]["cores"]
    assert environment_changes(first) == [
        "the run has OMP_NUM_THREADS=unset, now 3",
        f"the run has cores={before}, now 64",
    ]
    both = environment_tag(first)
    assert [facts["cores"] for facts in json.loads(both)] == [before, "64"]
    monkeypatch.undo()  # as at the start; a part of the run was trained otherwise
    assert f"the run has cores={before} and 64, now {before}" in environment_changes(both)


def test_names_of_a_foreign_tag_are_escaped():
    changes = environment_changes(json.dumps([{"\x1b[2J": "\n\x07"}]))
    assert r"the run has \x1b[2J=\n\x07, now unset" in changes
    assert all(line.isprintable() for line in changes)


def test_flatten():
    tree = {"seed": 0, "aug": {"crop": [0.08, 1.0], "deep": {"er": None}}, "empty": {}}
    assert dict(flatten(tree)) == {"seed": 0, "aug.crop": [0.08, 1.0], "aug.deep.er": None}


def test_fingerprints_of_gpu_runs_hold_after_float32_and_loss_scale_changed(compose):
    """Before, device=gpu had a loss scale of 1024, and its float32 was TF32."""

    def of(*overrides: str) -> str:
        return fingerprint(parse(compose("device=gpu", *overrides)))

    def former(**settings: str) -> str:
        named = {f"device.{key}": value for key, value in settings.items()}
        named["size"] = list(parse(compose()).size)
        return "4:" + hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:16]

    fixed = "device.loss_scale=1024"
    assert of(fixed) == former(name="gpu")
    assert of(fixed, "device.precision=tf32") == former(name="gpu", precision="float32")
    different = {of(), of(fixed), of(fixed, "device.precision=float32"), of(fixed, "device.precision=tf32")}
    assert len(different) == 4


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("dataset.label_noise=0.06", "size=[48,32]", "optimizer=adamw", "optimizer.lr=0.002", "seed=7"),
        ("aug=cutout", "aug/mix=mixup", "aug.mix.alpha=0.3", "model=seresnext50", "callback=early_stopping"),
        ("dataset=folder", "dataset.root=<photos>", "dataset.mean=[0.5,0.5,0.5]", "dataset.std=[0.2,0.2,0.2]"),
        ("loss.distillation=0.5", "runs=[abc123,def456]"),
        ("recipe=giantpanda", "dataset=rp2k", "dataset.root=<photos>", "device=gpu"),
    ],
)
def test_overrides_of_a_training_make_the_same_training(compose, tmp_path, overrides):
    photos = tmp_path / "伊利, it's $HOME {a}"
    photos.mkdir()
    overrides = [override.replace("<photos>", hydra_value(photos)) for override in overrides]
    config = parse(compose(*overrides))
    command = shlex.split(" ".join(overrides_of(config)))
    again = parse(compose(*command))
    assert (fingerprint(again), again.dataset.root) == (fingerprint(config), config.dataset.root)
    if "recipe=giantpanda" not in overrides:  # its keys are named
        assert len(command) == len(overrides)
