"""Migration of single keys; tests/compat opens records of earlier versions."""

import pytest

from rp2k_lab.config.choices import choices, defaults_of, flatten, groups, root_defaults
from rp2k_lab.config.migrations import (
    RENAMED,
    migrate,
    migrate_command,
    migrate_definition,
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
    for group in ("dataset", "loss", "device", "task"):
        known |= {f"{group}.{key}" for choice in choices(group) for key, _ in flatten(defaults_of(group, choice))}
    assert set(RENAMED.values()) <= known
    assert not set(RENAMED) & known


def test_missing_keys_of_a_record_get_todays_defaults():
    config = parse_record(OLD)
    assert (config.seed, config.dataset.classes, config.dataset.train_images) == (3, 7, 4000)
    assert (config.task.chance_guard.epochs, config.task.chance_guard.action) == (4, "warn")
    assert config.task.checkpoint_epochs == 2


def test_task_without_training_gets_no_chance_guard():
    assert "chance_guard" not in migrate(OLD | {"task": {"name": "evaluate"}})["task"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("loss.stuck=warn seed=1", "task.chance_guard.action=warn seed=1"),
        ("loss.stuck_epochs=3", "task.chance_guard.epochs=3"),
        ("dataset.others_share=0.1 dataset.others=x", "dataset.others_fraction=0.1 dataset.catch_all_class=x"),
        ("my.dataset.others=1 model=resnet18", "my.dataset.others=1 model=resnet18"),
    ],
)
def test_commands(old, new):
    assert migrate_command(old) == new


def test_definitions_and_attributes_of_studies():
    assert migrate_definition({"none": "device.data_workers=2", "dataset.val_share": "x"}) == {
        "none": "device.num_threads=2",
        "dataset.val_fraction": "x",
    }
    found = trial_attributes({"goes_on_with": 3, "point": '{"seed": 1, "dataset.others": "x"}', "run_id": "a"})
    assert found == {"resumes": 3, "point": '{"dataset.catch_all_class": "x", "seed": 1}', "run_id": "a"}


@pytest.mark.slow
def test_defaults_equal_hydras(compose, defaults):
    assert root_defaults() == defaults
    parse(root_defaults())
    for group in set(groups()) - {"recipe"}:
        for choice in choices(group):
            overrides = [f"{group}={choice}"]
            assert defaults_of(group, choice) == compose(*overrides)[group], overrides
