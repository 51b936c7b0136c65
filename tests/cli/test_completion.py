import os
import subprocess
import sys

import pytest

from rp2k_lab import PROJECT
from rp2k_lab.cli.completion import candidates, complete_line
from rp2k_lab.config.choices import choices, groups
from rp2k_lab.config.overrides import check_overrides


def test_choices_are_real():
    assert candidates("model=", []) == [f"model={name}" for name in choices("model")]
    assert candidates("model=resnet50_", []) == [f"model=resnet50_{part}" for part in ("bam", "bam_wider", "cbam")]
    for group in groups():
        offered = candidates(f"{group}=", [])
        assert offered
        assert not any("=_" in each for each in offered)
        check_overrides(offered)


def test_a_list_is_continued_without_repetition():
    assert candidates("aug=none,cut", []) == ["aug=none,cutmix", "aug=none,cutout"]
    assert candidates("aug=cutout,cut", []) == ["aug=cutout,cutmix"]
    assert candidates("task.split=[val,t", ["task=evaluate"]) == ["task.split=[val,train", "task.split=[val,test"]


def test_names_of_groups_and_keys():
    first = candidates("", [])
    assert {"model=", "seed=", "optimizer=", "optimizer.", "help=", "runs="} <= set(first)
    assert not any(each.startswith(("hydra", "_", "aug/")) for each in first)
    assert candidates("aug/", []) == ["aug/erase=", "aug/mix=", "aug/policy="]
    assert candidates("hydra/", []) == ["hydra/launcher=", "hydra/sweeper="]


def test_keys_are_those_of_the_chosen_choices():
    assert "optimizer.momentum=" in candidates("optimizer.", [])
    of_adamw = candidates("optimizer.", ["optimizer=adamw"])
    assert "optimizer.betas=" in of_adamw
    assert not {"optimizer.momentum=", "optimizer.name="} & set(of_adamw)
    assert candidates("aug.erase.", ["aug/erase=cutout"])[0] == "aug.erase.length="


@pytest.mark.parametrize(
    ("word", "offered"),
    [
        ("resize=", ["resize=letterbox", "resize=stretch"]),
        ("debug=t", ["debug=true"]),
        ("task.tta=", ["task.tta=none", "task.tta=hflip"]),
        ("runs=", ["runs=last", "runs=best"]),
        ("help=opt", ["help=optimizer"]),
        ("hydra/sweeper=", ["hydra/sweeper=jobs", "hydra/sweeper=optuna"]),
        ("--c", ["--cfg"]),
        ("epochs=", []),
        ("no.such.key=", []),
    ],
)
def test_values_that_can_be_listed(word, offered):
    assert candidates(word, []) == offered


def test_paths_are_completed(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "phases.csv").touch()
    assert candidates(f"dataset.root={tmp_path}/ph", []) == [
        f"dataset.root={tmp_path}/phases.csv",
        f"dataset.root={tmp_path}/photos/",
    ]


def test_candidates_as_a_shell_reads_them():
    assert complete_line("python run.py aug/erase=cutout resize=", "bash") == "resize=letterbox resize=stretch"
    assert complete_line("python run.py resize=", "fish") == "resize=letterbox\nresize=stretch"


@pytest.mark.slow
def test_bash_completes():
    """The installed function in a real shell."""
    script = (
        'eval "$(python run.py -sc install=bash)"\nCOMP_LINE="python run.py loss=f" COMP_POINT=20 COMP_CWORD=2\n'
        'hydra_bash_completion\necho "${COMPREPLY[@]}"'
    )
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=PROJECT, env=os.environ | {"PATH": path}, capture_output=True, text=True
    )
    assert done.stdout == "loss=focal\n", done.stderr
