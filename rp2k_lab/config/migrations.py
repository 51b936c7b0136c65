"""Map records of earlier versions to today's keys: configurations of runs, commands and attributes of studies.

For a renamed key add a line to `RENAMED`, nothing else.  tests/compat/ opens records of earlier versions.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from rp2k_lab.config.choices import complete, root_defaults
from rp2k_lab.config.schema import Config, parse

# Old key to today's key.
RENAMED = {
    "dataset.others": "dataset.catch_all_class",
    "dataset.drop_others": "dataset.drop_catch_all",
    "dataset.val_share": "dataset.val_fraction",
    "dataset.others_share": "dataset.others_fraction",
    "dataset.size_share": "dataset.size_fraction",
    "dataset.multipack_class_share": "dataset.multipack_class_fraction",
    "dataset.multipack_image_share": "dataset.multipack_image_fraction",
    "dataset.angle_share": "dataset.angle_fraction",
    "dataset.blur_share": "dataset.blur_fraction",
    "dataset.reflection_share": "dataset.reflection_fraction",
    "dataset.brightness_share": "dataset.brightness_fraction",
    "dataset.color_cast_share": "dataset.color_cast_fraction",
    "dataset.neighbour_share": "dataset.neighbor_fraction",
    "dataset.png_share": "dataset.png_fraction",
    "dataset.look_alike_noise_share": "dataset.look_alike_noise_fraction",
    "device.data_workers": "device.num_threads",
    "optimizer.lr_end": "schedule.lr_end",
    "optimizer.warmup_epochs": "schedule.warmup_epochs",
    "loss.stuck_epochs": "task.chance_guard.epochs",
    "loss.stuck": "task.chance_guard.action",
}
# Before `aug` had slots, its choices excluded each other and had their keys beside those of all: the slot of each
# choice and key.  The key p had three meanings.
_SLOT_OF_CHOICE = {
    "none": None, "autoaugment": "policy", "randaugment": "policy", "cutout": "erase", "random_erasing": "erase",
    "mixup": "mix", "cutmix": "mix",
}  # fmt: skip
_SLOT_OF_KEY = {
    "operations": "policy", "num_ops": "policy", "magnitude": "policy", "magnitude_std": "policy",
    "magnitude_max": "policy", "increasing": "policy", "length": "erase", "area": "erase", "ratio": "erase",
    "fill": "erase", "alpha": "mix", "p": None,
}  # fmt: skip
# What the embedded photos were before a product had one shape, where a record does not say.
_FIRST_SHELF = {"ratio_spread": 1.0, "shape_of": "product"}
# The same for a command, with the defaults that changed then.
_FIRST_SHELF_COMMAND = {
    "dataset.ratio_spread": "1",
    "dataset.min_train_images": "30",
    "dataset.min_val_images": "1",
    "dataset.min_test_images": "4",
}
# The loss scale of a command on a GPU or Ascend before it was dynamic.
_FIXED_LOSS_SCALE = "device.loss_scale=1024"
# Version of a study's definition; 1 is before a product of the embedded photos had one shape, 2 before device.precision
# had TF32 and device.loss_scale was dynamic.
DEFINITION_VERSION = 3
_OLD_KEYS = (*RENAMED, *(f"aug.{key}" for key in _SLOT_OF_KEY))
_OLD_KEY = re.compile(rf"(?<![\w.])({'|'.join(map(re.escape, _OLD_KEYS))})(?=[=\s]|$)")
# User attributes of a study's trials.
_RENAMED_ATTRIBUTES = {"goes_on_with": "resumes"}


def migrate(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recorded configuration (plain containers) with today's keys; unknown keys stay."""
    migrated = {key: dict(value) if isinstance(value, Mapping) else value for key, value in recorded.items()}
    for old, new in RENAMED.items():
        group, key = old.split(".")
        if not isinstance(migrated.get(group), dict) or key not in migrated[group]:
            continue
        value = migrated[group].pop(key)
        *path, last = new.split(".")
        if path[0] == "task" and "checkpoint_epochs" not in (migrated.get("task") or {}):
            continue  # a task without training has no chance guard
        node = migrated
        for name in path:
            node = node.setdefault(name, {})
        node.setdefault(last, value)
    if isinstance(migrated.get("aug"), dict):
        migrated["aug"] = _with_slots(migrated["aug"])
    device = migrated.get("device")
    # Before device.deterministic, MindSpore's default decided, which is TF32 in a GPU's convolutions.
    if isinstance(device, dict) and "deterministic" not in device and "precision" in device:
        device["precision"] = _with_tf32(device.get("name"), device["precision"])
    dataset = migrated.get("dataset")
    if isinstance(dataset, dict) and dataset.get("name") == "shelf":
        for key, value in _FIRST_SHELF.items():
            dataset.setdefault(key, value)
    if "optimizer" in migrated:  # the only schedule before it was a group
        migrated.setdefault("schedule", {}).setdefault("name", "cosine")
    return migrated


def parse_record(recorded: Mapping[str, Any]) -> Config:
    """Return the configuration of a run from its record; missing keys get today's defaults.

    Raises:
        RequestError: the record is not a valid configuration today.
        KeyError, TypeError, AttributeError: the record is not a configuration.
    """
    settings = root_defaults() | migrate(recorded)
    return parse(
        {
            group: complete(group, values) if isinstance(values, Mapping) else values
            for group, values in settings.items()
        }
    )


def migrate_command(text: str) -> str:
    """Return overrides (`key=value …`) with today's keys."""
    return _OLD_KEY.sub(lambda match: todays_key(match[1], text), text)


def todays_key(key: str, command: str = "") -> str:
    """Return today's name of a key; the key itself if it has no other.

    Args:
        command: the overrides of the same run: `aug=` decides what `aug.p` was.
    """
    group, _, name = key.partition(".")
    if group != "aug" or name not in _SLOT_OF_KEY:
        return RENAMED.get(key, key)
    chosen = re.findall(r"\w+", (re.findall(r"(?<!\S)aug=(\S*)", command) or [""])[-1])
    if not _SLOT_OF_CHOICE.keys() >= set(chosen):
        return key  # of another combination
    slot = _SLOT_OF_KEY[name]
    if slot is None:
        slots = {_SLOT_OF_CHOICE[choice] for choice in chosen} - {None}
        slot = slots.pop() if len(slots) == 1 else None
    return f"aug.{slot}.{name}" if slot else key


def migrate_definition(definition: Mapping[str, str], version: int) -> dict[str, str]:
    """Return a study's definition with today's keys and defaults, in its names and commands.

    Args:
        version: see `DEFINITION_VERSION`.
    """
    migrated = {migrate_command(name): migrate_command(text) for name, text in definition.items()}
    if version < 2:
        migrated = {name: _with_first_shelf(text, is_search=name == "fixed") for name, text in migrated.items()}
    return migrated if version >= 3 else {name: _with_first_precision(text) for name, text in migrated.items()}


def _with_first_shelf(command: str, is_search: bool) -> str:
    """Add the former defaults of the embedded photos to a training's command that uses them without naming them."""
    overrides = command.split()
    named = {override.partition("=")[0] for override in overrides}
    if "dataset=shelf" not in overrides and ("dataset" in named or not is_search):
        return command
    return " ".join(
        [*overrides, *(f"{key}={value}" for key, value in _FIRST_SHELF_COMMAND.items() if key not in named)]
    )


def _with_first_precision(command: str) -> str:
    """Name TF32 and the fixed loss scale in a training's command on a GPU or Ascend."""
    overrides = command.split()
    values = {key: value for key, _, value in (override.partition("=") for override in overrides)}
    device = values.get("device")
    if device not in ("gpu", "ascend"):
        return command
    if "device.precision" in values:
        precision = _with_tf32(device, values["device.precision"])
        overrides = [f"device.precision={precision}" if o.startswith("device.precision=") else o for o in overrides]
    return " ".join(overrides if "device.loss_scale" in values else [*overrides, _FIXED_LOSS_SCALE])


def _with_tf32(device: Any, precision: Any) -> Any:
    return "tf32" if device == "gpu" and precision == "float32" else precision


def migrate_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trial's parameters under today's keys."""
    command = f"aug={params['aug']}" if "aug" in params else ""
    return {todays_key(key, command): value for key, value in params.items()}


def _with_slots(aug: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recorded augmentation with the keys of its only choice in that choice's slot."""
    name = aug.get("name")
    if name not in _SLOT_OF_CHOICE or {"policy", "erase", "mix"} & aug.keys():
        return dict(aug)
    shared = {key: value for key, value in aug.items() if key in ("name", "crop", "flip", "color")}
    slots: dict[str, Any] = {slot: {"name": "none"} for slot in ("policy", "erase", "mix")}
    if slot := _SLOT_OF_CHOICE[name]:
        slots[slot] = {"name": name} | {key: value for key, value in aug.items() if key not in shared}
    return shared | slots


def trial_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the user attributes of a trial under today's names, its point with today's keys."""
    migrated = {_RENAMED_ATTRIBUTES.get(name, name): value for name, value in attributes.items()}
    if "point" in migrated:
        migrated["point"] = json.dumps(
            migrate_params(json.loads(migrated["point"])), sort_keys=True, ensure_ascii=False
        )
    return migrated
