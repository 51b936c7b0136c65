"""Names of runs."""

import re

import pytest

from rp2k_lab.config.schema import parse
from rp2k_lab.task.run_name import run_name
from rp2k_lab.tracking.mlflow_runs import is_name
from tests.helpers.tiny_runs import FEW_PHOTOS


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ((), "resnet18_shelf"),
        (("model=seresnext50", "aug=cutout", "seed=1"), "seresnext50_shelf_cutout_seed1"),
        (("optimizer=adamw", "optimizer.lr=0.001", "epochs=90"), "resnet18_shelf_adamw_epochs90"),
        (("recipe=giantpanda", "seed=3"), "resnet18_shelf_giantpanda_seed3"),
        (("size=[48,64]", "device=gpu", "task.test=false"), "resnet18_shelf_size48x64_test-false"),
        (("dataset.mean=[0.5,0.4,0.3]", "dataset.std=[0.2,0.2,0.2]", "epochs=9"), "resnet18_shelf_epochs9"),
        (("recipe=grocery_store", "dataset.root=/"), "efficientnet_lite0_grocery_store"),
        (
            ("recipe=grocery_store", "dataset.root=/", "aug=none", "optimizer.ema_decay=null", "size=224"),
            "efficientnet_lite0_grocery_store_none_ema_decayNone_size224x224",
        ),
        (
            ("recipe=grocery_store", "dataset.root=/", "aug/erase=cutout"),
            "efficientnet_lite0_grocery_store_erase-cutout",
        ),
        (("recipe=grocery_store", "dataset.root=/", "task.then=null"), "efficientnet_lite0_grocery_store"),
        (("aug=randaugment", "aug/policy=randaugment_timm", "epochs=9"), "resnet18_shelf_randaugment_timm_epochs9"),
        (("recipe=giantpanda", "model=seresnext50", "epochs=9"), "seresnext50_shelf_giantpanda_epochs9"),
        (FEW_PHOTOS, "resnet18_shelf_epochs2_classes8_train_images300_+3"),
    ],
)
def test_a_name_has_what_differs_from_the_defaults_and_a_short_id(compose, overrides, name):
    config = parse(compose(*overrides))
    names = {run_name(config) for _ in range(5)}
    assert len(names) > 1
    for full in names:
        assert re.fullmatch(rf"{re.escape(name)}_[0-9a-f]{{4}}", full)
        assert re.fullmatch(r"[\w.+-]+", full)  # neither a shell nor Hydra reads any of these
        assert is_name(full, name)
        assert is_name(full, full)
        assert not is_name(full, name[:-1])
