"""Migration of single keys; tests/compat opens records of earlier versions."""

import pytest

from rp2k_lab.config.choices import choices, defaults_of, flatten, root_defaults
from rp2k_lab.config.migrations import (
    RENAMED,
    migrate,
    migrate_command,
    migrate_definition,
    migrate_params,
    parse_record,
    trial_attributes,
)
from rp2k_lab.config.schema import parse

OLD = {
    "seed": 3,
    "task": {"name": "train", "test": False, "checkpoint_epochs": 2},
    "dataset": {"name": "shelf", "others": "rest", "val_share": 0.3, "neighbour_share": 0.1, "classes": 7},
    "device": {"name": "cpu", "data_workers": 3},
    "loss": {"name": "cross_entropy", "label_smoothing": 0.0, "stuck_epochs": 4, "stuck": "warn"},
}


def test_old_keys_are_renamed():
    migrated = migrate(OLD)
    assert migrated["dataset"]["catch_all_class"] == "rest"
    assert migrated["dataset"]["val_fraction"] == 0.3
    assert migrated["dataset"]["neighbor_fraction"] == 0.1
    assert migrated["device"] == {"name": "cpu", "num_threads": 3}
    assert migrated["loss"] == {"name": "cross_entropy", "label_smoothing": 0.0}
    assert migrated["task"]["chance_guard"] == {"epochs": 4, "action": "warn"}
    assert migrate(migrated) == migrated
    assert "others" in OLD["dataset"], "migrate changed its argument"


def test_every_renamed_key_exists_today():
    known = {key for key, _ in flatten(root_defaults())}
    for group in ("aug", "dataset", "loss", "device", "task"):
        known |= {f"{group}.{key}" for choice in choices(group) for key, _ in flatten(defaults_of(group, choice))}
    assert set(RENAMED.values()) <= known
    assert not set(RENAMED) & known


def test_missing_keys_of_a_record_get_todays_defaults():
    config = parse_record(OLD)
    assert (config.seed, config.dataset.classes, config.dataset.train_images) == (3, 7, 4000)
    assert (config.task.chance_guard.epochs, config.task.chance_guard.action) == (4, "warn")
    assert config.task.checkpoint_epochs == 2


@pytest.mark.parametrize(("name", "precision"), [("gpu", "tf32"), ("cpu", "float32"), ("ascend", "float32")])
def test_float32_on_a_gpu_was_tf32(name, precision):
    device = {"name": name, "precision": "float32", "loss_scale": 1024.0}
    config = parse_record(OLD | {"device": device})
    assert (config.device.precision, config.device.loss_scale, config.device.deterministic) == (precision, 1024, False)
    recorded = config.model_dump(mode="json") | {"device": device | {"deterministic": False}}
    assert parse_record(recorded).device.precision == "float32"  # of today


def test_task_without_training_gets_no_chance_guard():
    assert "chance_guard" not in migrate(OLD | {"task": {"name": "evaluate"}})["task"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("loss.stuck=warn seed=1", "task.chance_guard.action=warn seed=1"),
        ("loss.stuck_epochs=3", "task.chance_guard.epochs=3"),
        ("dataset.others_share=0.1 dataset.others=x", "dataset.others_fraction=0.1 dataset.catch_all_class=x"),
        ("my.dataset.others=1 model=resnet18", "my.dataset.others=1 model=resnet18"),
        ("aug=cutout aug.length=7", "aug=cutout aug.erase.length=7"),
        (
            "aug.crop=[0.25, 1.0] aug.length=28 recipe=giantpanda",
            "aug.crop=[0.25, 1.0] aug.erase.length=28 recipe=giantpanda",
        ),
        ("aug=random_erasing aug.p=1 aug.fill=mean", "aug=random_erasing aug.erase.p=1 aug.erase.fill=mean"),
        (
            "aug.increasing=true aug.magnitude=9 aug.magnitude_std=0.5 aug.operations=timm aug.p=0.5 aug=randaugment",
            "aug.policy.increasing=true aug.policy.magnitude=9 aug.policy.magnitude_std=0.5 aug.policy.operations=timm "
            "aug.policy.p=0.5 aug=randaugment",
        ),
        ("aug=mixup aug.alpha=1", "aug=mixup aug.mix.alpha=1"),
        ("aug=cutmix aug.alpha=1 aug.p=0.5", "aug=cutmix aug.mix.alpha=1 aug.mix.p=0.5"),
        ("aug=none,cutmix aug.p=0.5", "aug=none,cutmix aug.mix.p=0.5"),
        ("aug.alpha=1 aug.p=0.5", "aug.mix.alpha=1 aug.p=0.5"),
        ("aug=random_erasing,cutmix aug.p=0.5", "aug=random_erasing,cutmix aug.p=0.5"),
        ("aug=of_a_package aug.p=0.5 aug.length=3", "aug=of_a_package aug.p=0.5 aug.length=3"),
        ("aug=cutout aug.erase.length=7", "aug=cutout aug.erase.length=7"),
    ],
)
def test_commands(old, new):
    assert migrate_command(old) == new


OLD_AUG = {"crop": [0.25, 1.0], "flip": 0.0, "color": 0.1}


@pytest.mark.parametrize(
    ("slot", "values"),
    [
        (None, {"name": "none"}),
        ("erase", {"name": "cutout", "length": 7}),
        ("erase", {"name": "random_erasing", "p": 0.1, "area": [0.1, 0.2], "ratio": 0.5, "fill": "mean"}),
        ("policy", {"name": "autoaugment"}),
        (
            "policy",
            {
                "name": "randaugment", "operations": "timm", "num_ops": 3, "p": 0.5, "magnitude": 8.0,
                "magnitude_std": 0.5, "magnitude_max": 9.0, "increasing": True,
            },
        ),
        ("mix", {"name": "mixup", "alpha": 0.3}),
        ("mix", {"name": "cutmix", "alpha": 0.3, "p": 0.4}),
    ],
)  # fmt: skip
def test_keys_of_an_augmentation_move_to_its_slot(slot, values):
    old = OLD | {"aug": OLD_AUG | values}
    expected = {each: {"name": "none"} for each in ("policy", "erase", "mix")} | ({slot: values} if slot else {})
    migrated = migrate(old)
    assert migrated["aug"] == OLD_AUG | {"name": values["name"]} | expected
    assert migrate(migrated) == migrated
    assert parse_record(old).aug.model_dump(mode="json") == migrated["aug"]


def test_keys_of_another_combination_stay():
    assert migrate({"aug": OLD_AUG | {"name": "of_a_package", "p": 0.5}})["aug"]["p"] == 0.5


def test_params_of_a_trial_with_its_augmentation():
    assert migrate_params({"aug": "cutmix", "aug.p": 0.5, "seed": 1}) == {"aug": "cutmix", "aug.mix.p": 0.5, "seed": 1}
    assert migrate_params({"aug.magnitude": 5, "aug.p": 0.5}) == {"aug.policy.magnitude": 5, "aug.p": 0.5}


def test_definitions_and_attributes_of_studies():
    assert migrate_definition({"none": "device.data_workers=2", "dataset.val_share": "x"}, 2) == {
        "none": "device.num_threads=2",
        "dataset.val_fraction": "x",
    }
    # Before version 2 the embedded photos had other defaults.
    shelf = {"a": "dataset=shelf dataset.min_train_images=5", "b": "dataset=rp2k", "b starts from": "a", "fixed": ""}
    former = "dataset.ratio_spread=1 dataset.min_val_images=1 dataset.min_test_images=4"
    assert migrate_definition(shelf, 1) == {
        "a": f"dataset=shelf dataset.min_train_images=5 {former}",
        "b": "dataset=rp2k",
        "b starts from": "a",
        "fixed": former.replace("=1 dataset.min_val", "=1 dataset.min_train_images=30 dataset.min_val"),
    }
    assert migrate_definition(shelf, 2) == shelf
    # Before version 3 a GPU's float32 was TF32, and loss scales were fixed.
    cards = {"gpu": "device=gpu device.precision=float32", "npu": "device=ascend device.precision=float32 seed=1"}
    assert migrate_definition(cards | {"cpu": "device.precision=float32"}, 2) == {
        "gpu": "device=gpu device.precision=tf32 device.loss_scale=1024",
        "npu": "device=ascend device.precision=float32 seed=1 device.loss_scale=1024",
        "cpu": "device.precision=float32",
    }
    assert migrate_definition({"gpu": "device=gpu device.loss_scale=1"}, 2) == {"gpu": "device=gpu device.loss_scale=1"}
    assert migrate_definition(cards, 3) == cards
    found = trial_attributes({"goes_on_with": 3, "point": '{"seed": 1, "dataset.others": "x"}', "run_id": "a"})
    assert found == {"resumes": 3, "point": '{"dataset.catch_all_class": "x", "seed": 1}', "run_id": "a"}


def test_root_defaults_equal_hydras(defaults):
    assert root_defaults() == defaults
    parse(root_defaults())
