"""Networks in MindSpore's default mode, PyNative, as a notebook without rp2k_lab's runs calls them."""

import json
import subprocess
import sys

import pytest

from rp2k_lab import PROJECT
from rp2k_lab.model import list_models

SCRIPT = PROJECT / "tests" / "helpers" / "call_in_both_modes.py"
# The first operator on tensors of a process is a method in some families and another kind of operator in others.
_OFTEN = ("efficientnet_b0",)
NAMES = [pytest.param(name, marks=[] if name in _OFTEN else pytest.mark.soak) for name in list_models()]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_network_runs_in_a_new_process_and_gives_the_logits_of_a_graph(name):
    done = subprocess.run([sys.executable, str(SCRIPT), name], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # NumPy's warning is no news to a user
    result = json.loads(done.stdout)
    assert result["difference"] < 1e-4 * result["largest"]
    assert result["gradients"] == result["parameters"] > 0
    assert result["mode"] == "graph"


MIXED = """
from rp2k_lab import create_model  # before MindSpore: sets its environment
import numpy as np
from mindspore import Tensor

images = Tensor(np.ones((2, 3, 64, 64), np.float32))
for name in ("resnet18", "convnext_tiny", "resnet18"):
    logits = create_model(name, 5, width_multiplier=0.25).set_train(name == "resnet18")(images)
    assert np.isfinite(logits.asnumpy()).all()
"""


@pytest.mark.slow
def test_networks_of_several_families_run_in_one_process():
    """The operators of their norms have different numbers of inputs."""
    done = subprocess.run([sys.executable, "-c", MIXED], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
