"""The name of a run: network, data set, recipe, what differs from the defaults or the recipe, and a short id."""

import re
import uuid
from typing import Any

from rp2k_lab.config.choices import defaults_of, flatten, recipe_settings, root_defaults
from rp2k_lab.config.schema import Config
from rp2k_lab.tracking.provenance import changed_settings, effective_settings

# Differences in a name, and characters of a value; the number of further ones follows.
_MOST, _LONGEST = 3, 16
# The order of groups in a name; keys of the root come before the data set's.
_GROUPS = ("aug", "model", "loss", "optimizer", "schedule", "callback", "", "task", "dataset")


def run_name(config: Config) -> str:
    """Return a new run's name, such as `seresnext50_rp2k_cutout_lr0.05_seed1_3f9c`; `runs=` takes it without the id."""
    title = config.dataset.title
    parts = [config.model.name, title]
    parts += [config.recipe] * (config.recipe not in ("none", title)) + _differences(config)
    parts += [f"seed{config.seed}"] if config.seed else []
    return "_".join([*parts, uuid.uuid4().hex[:4]])


def _differences(config: Config) -> list[str]:
    settings, recipe = effective_settings(config), recipe_settings(config.recipe)
    label = [config.aug.label] if config.aug.label != recipe.get("aug.name", "none") else []
    slots = {slot: getattr(config.aug, slot).name for slot in ("policy", "erase", "mix")}
    own = dict(flatten(defaults_of("aug", config.aug.name), "aug."))
    names = {key: value for key, value in own.items() if key.endswith(".name")}
    recipe = dict(flatten(defaults_of("aug", config.aug.name, slots), "aug.")) | names | recipe
    kept = {key for key, value in recipe.items() if key in settings and _equal(settings[key], value)}
    changed = {key: value for key, value in changed_settings(config).items() if key not in kept}
    changed |= {key: settings[key] for key in recipe if key in settings and key not in kept}
    covered = {"model.name", "dataset.name", "aug.name", "seed", "recipe", "dataset.fold"}
    # Mean and std follow from the photos: most data sets have them measured.
    covered |= {f"dataset.{key}" for key in (*config.dataset.file_keys, "mean", "std")}
    side = root_defaults()["size"]
    if "size" not in recipe and tuple(config.size) == (side, side):  # recorded as a pair
        covered.add("size")
    if config.aug.label != config.aug.name:
        covered |= {f"aug.{slot}.name" for slot in slots}  # the label has them
    keys = [key for key in changed if key not in covered and _group(key) in _GROUPS]
    keys.sort(key=lambda key: _GROUPS.index(_group(key)))  # stable: in a group as in the configuration
    texts = [*label, *(_text(key, changed[key]) for key in keys)]
    return texts if len(texts) <= _MOST else [*texts[:_MOST], f"+{len(texts) - _MOST}"]


def _equal(recorded: Any, given: Any) -> bool:
    """Return whether a recorded value is one of a file, which may have a side for a pair of sides."""
    return recorded in (given, [given, given])


def _group(key: str) -> str:
    return key.rpartition(".")[0] and key.partition(".")[0]


def _text(key: str, value: Any) -> str:
    """Return `lr0.05`, or the value alone of a choice; characters that a shell or Hydra would read are dashes."""
    shown = "x".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    shown = f"-{shown.lower()}" if isinstance(value, bool) else shown
    *groups, name = key.split(".")
    if name == "name":
        name = f"{groups[1]}-" if len(groups) == 2 else ""  # erase-cutout of `aug.erase.name`, sgd of `optimizer.name`
    return re.sub(r"[^\w.+-]", "-", name + shown[:_LONGEST])
