"""Every network builds, trains and is exported with half activations."""

import json

import pytest

from rp2k_lab.config.choices import choices
from rp2k_lab.model import list_models

# Four classes, three steps.
FEW_STEPS = (
    "dataset.classes=4",
    "dataset.train_images=24",
    "dataset.val_images=8",
    "dataset.test_images=8",
    "dataset.min_train_images=4",
    "batch_size=8",
    "epochs=1",
    "aug=none",
    "task.test=false",
    "model.width_multiplier=0.3333333",
    "model.depth_multiplier=0.34",
)
SIDES = {"inception_resnet_v2": 96, "inception_resnet_v2_wider": 96, "vit_small_dinov2": 70}


def test_the_choices_have_every_architecture():
    assert set(list_models()) <= set(choices("model"))


@pytest.mark.soak
@pytest.mark.parametrize("name", choices("model"))
def test_a_network_trains_and_is_exported_under_o2(start, name):
    """One process a network: MindSpore 2.10 returns little of the memory of compiled ones."""
    half = ("device.precision=O2", "device.loss_scale=64")  # a dynamic scale may skip all three steps
    trained = start(f"model={name}", f"size={SIDES.get(name, 64)}", *FEW_STEPS, *half)
    code, out, err = trained.wait()
    assert (code, err) == (0, ""), out
    (run,) = trained.store.runs()
    losses = [loss for _, loss in trained.store.history(run)["train/loss"]]
    assert len(losses) == 3
    assert all(0 < loss < 10 for loss in losses)
    exported = start("task=export", f"runs={trained.folder / 'out'}", uri=trained.store.uri)
    code, out, err = exported.wait()
    assert (code, err) == (0, ""), out
    card = json.loads((exported.folder / "out" / "model.json").read_text("utf-8"))
    assert card["architecture"]["name"] == name
    assert (exported.folder / "out" / "model.onnx").exists()
