import subprocess
import sys

import pytest

from rp2k_lab import PROJECT
from rp2k_lab.cli.help import group_help, overview, request_help
from rp2k_lab.config.choices import choices, defaults_of, flatten, groups, root_defaults
from rp2k_lab.core.errors import RequestError


def test_the_overview_has_every_group():
    text = overview()
    for group in groups():
        assert f"  {group}: {', '.join(choices(group))}" in text.splitlines()


def test_a_request_has_value_range_and_meaning():
    settings = {"seed": 3, "optimizer": defaults_of("optimizer", "adamw"), "ablation": {"name": "none", "levels": {}}}
    lines = request_help(settings).splitlines()
    assert "  seed=3                                        integer, ≥ 0, < 4,294,967,296" in lines
    assert "      seed of initial weights, order of the images and augmentation" in lines
    assert any(line.startswith("  optimizer.betas=[0.9,0.999] ") for line in lines)
    assert not any("ablation" in line or "optimizer.name" in line or "`" in line for line in lines)


def test_inner_groups_and_callbacks_of_a_request():
    settings = {"aug": defaults_of("aug", "cutout"), "callback": defaults_of("callback", "early_stopping")}
    text = request_help(settings)
    assert "  aug.erase.length=14 " in text
    assert "  callback.early_stopping.patience=" in text


@pytest.mark.parametrize("group", groups())
def test_the_help_of_a_group_has_its_choices_and_keys(group):
    text = group_help(group)
    assert text.startswith(f"{group}=")
    for choice in choices(group):
        assert choice in text
        if group in ("ablation", "scale", "recipe"):
            continue
        inner = tuple(f"{each.rpartition('/')[2]}." for each in groups() if each.startswith(f"{group}/"))
        for key, _ in flatten(defaults_of(group, choice)):
            if key.rpartition(".")[2] not in ("name", "_target_") and not key.startswith(inner or ("\0",)):
                assert f"  {group.replace('/', '.')}.{key}=" in text


def test_the_help_of_a_choice_leaves_out_the_others():
    text = group_help("optimizer", ["sgd"])
    assert "optimizer.momentum=0.9" in text
    assert "optimizer.betas" not in text


def test_the_help_of_a_root_key():
    assert set(root_defaults()) > {"seed", "epochs"}
    assert group_help("epochs").startswith("  epochs=5  ")
    assert "passes over the training images" in group_help("epochs")


def test_an_unknown_group_is_a_request_error():
    with pytest.raises(RequestError, match=r"^help=optimiser: there is no such group\nuse one of ablation, aug"):
        group_help("optimiser")


@pytest.mark.slow
def test_the_help_of_a_group_imports_nothing_slow():
    code = (
        "import sys\nfrom rp2k_lab.cli.app import main\nsys.argv = ['run.py', 'help=optimizer']\n"
        "code = main(lambda: None)\nprint({'mindspore', 'numpy', 'mlflow'} & set(sys.modules))\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("optimizer=adamw, lamb, lion, sgd\n")
    assert done.stdout.endswith("\nset()\n")
