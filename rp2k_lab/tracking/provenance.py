"""The origin of a run: code, packages, machine, configuration."""

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shlex
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from rp2k_lab import CLONE, native
from rp2k_lab.config.choices import chosen_by_default, complete, defaults_of, flatten, root_defaults
from rp2k_lab.config.schema import Config
from rp2k_lab.core.environment import (
    DEFAULT_INSTRUCTIONS,
    INSTRUCTIONS,
    cores,
    processor,
    variables,
    variables_with_effect,
)
from rp2k_lab.core.quoting import hydra_value
from rp2k_lab.core.redaction import redact
from rp2k_lab.core.text import escape_controls, shorten

# The tag that identifies a training's configuration; set when its record is complete.
FINGERPRINT = "config_fingerprint"
# Version of `fingerprint`.  Values with another prefix or none come from versions with other keys or defaults;
# their configuration must be read from the run's record.
_SCHEME = "4:"
_NO_DEFAULT = object()
# The tag with the environments that a run has been trained in.
ENVIRONMENT = "environment"
# The tag and the fact with the version of the native kernels, or `off`; runs without it are older than the kernels.
NATIVE, NATIVE_OFF = "native", "off"
# Another version of these may compute or decode other bits.
_NUMERIC_PACKAGES = ("mindspore", "numpy", "opencv-python-headless", "opencv-python", "pillow")
# Of the environment, what decides whether two runs are the same cell of a table.
_DECISIVE = ("mindspore", "cores")
_UNSET = "unset"
_LONGEST_VALUE = 200  # [characters]; MLflow's tags have 8000
# Defaults that have changed since today's version of fingerprints: they are still the values that it leaves out.
_FORMER_DEFAULTS = {name: {"device.loss_scale": 1024.0} for name in ("gpu", "ascend")}
# A GPU's float32 had TF32 in convolutions.
_FORMER_PRECISIONS = {"tf32": "float32", "float32": "float32 without TF32"}
# Keys without effect on a training's metrics.
_WITHOUT_EFFECT = {
    "runs": True,
    "debug": True,
    "tracking": True,
    "ablation": True,
    "scale": True,
    "task": {"resume", "verify", "then"},
    "dataset": {"cache_gb"},
    "device": {"num_threads"},
}


def git_state() -> dict[str, str]:
    """Return `git_commit` and `git_dirty` (true, false); both are `unknown` outside a git checkout."""
    commit, status = _git("rev-parse", "HEAD"), _git("status", "--porcelain")
    dirty = "unknown" if status is None else str(bool(status)).lower()
    return {"git_commit": commit or "unknown", "git_dirty": dirty}


def _git(*arguments: str) -> str | None:
    if CLONE is None:
        return None
    try:
        done = subprocess.run(["git", *arguments], cwd=CLONE, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def environment() -> str:
    """Return Python, machine, variables and all installed packages with their versions, one a line."""
    packages = {d.name: d.version for d in importlib.metadata.distributions() if d.name}  # a broken one has no name
    head = [f"# Python {platform.python_version()}", f"# {platform.platform()}, {os.cpu_count()} cores"]
    head += [f"# processor={processor()}", f"# cores={cores()}", f"# native kernels: {_public(str(native.state()))}"]
    head += [f"# {name}={_public(value)}" for name, value in variables().items()]
    return "\n".join(head + [f"{name}=={packages[name]}" for name in sorted(packages, key=str.lower)]) + "\n"


def numeric_environment() -> dict[str, str]:
    """Return all that decides a training's last bits beside configuration, data and code: name to value."""
    facts = {"cores": str(cores()), "processor": processor(), "Python": platform.python_version()}
    facts[NATIVE] = native.state().tag
    for package in _NUMERIC_PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            facts[package] = importlib.metadata.version(package)
    return facts | {name: _public(value) for name, value in variables_with_effect().items()}


def environment_tag(former: str | None = None) -> str:
    """Return the tag ENVIRONMENT: the environments that a run has been trained in, as a JSON list.

    Args:
        former: the tag of the run that is resumed; None: of a new run.
    """
    known, now = _environments(former), numeric_environment()
    return json.dumps(known if now in known else [*known, now])


def environment_changes(tag: str | None) -> list[str]:
    """Return `the run has cores=2, now 1` for each fact that differs; nothing for a run without the tag."""
    known, now, changes = _environments(tag), numeric_environment(), {}
    for name in sorted({*now, *(name for facts in known for name in facts)} if known else ()):
        values = sorted({str(facts.get(name, _UNSET)) for facts in known})
        if values != [now.get(name, _UNSET)]:
            changes[name] = values
    # Without the kernels the instructions are limited by default: no second change.
    followed = {*changes.get(INSTRUCTIONS, ()), now.get(INSTRUCTIONS, _UNSET)} <= {DEFAULT_INSTRUCTIONS, _UNSET}
    if NATIVE in changes and followed:
        changes.pop(INSTRUCTIONS, None)
    return [
        f"the run has {escape_controls(name)}={' and '.join(map(escape_controls, values))}, now {now.get(name, _UNSET)}"
        for name, values in changes.items()
    ]


def _environments(tag: str | None) -> list[dict[str, Any]]:
    """Return the environments of a tag; none of a damaged one."""
    try:
        found = json.loads(tag or "[]")
    except (ValueError, RecursionError):
        return []
    known = [facts for facts in found if isinstance(facts, dict)] if isinstance(found, list) else []
    return [facts | {NATIVE: facts.get(NATIVE, NATIVE_OFF)} for facts in known]


def identity(tags: Mapping[str, str]) -> str:
    """Return what decides a run's numbers beside its photos and code: configuration, kernels, MindSpore, cores.

    "" for a run that several environments trained, or whose record is older than these tags.
    """
    environments = _environments(tags.get(ENVIRONMENT))
    if not is_current(tags.get(FINGERPRINT, "")) or len(environments) != 1:
        return ""
    facts = [(NATIVE, tags.get(NATIVE, NATIVE_OFF)), *((name, environments[0].get(name)) for name in _DECISIVE)]
    return " ".join([tags[FINGERPRINT], *(f"{name}={value}" for name, value in facts)])


def native_tag(former: str = "") -> str:
    """Return the tag NATIVE: `1`, `off`, or `1,off` for a run of which parts were trained with each.

    Args:
        former: the tag of the run that is resumed; "": of a new run.
    """
    return ",".join(sorted({*filter(None, former.split(",")), native.state().tag}))


def _public(value: str) -> str:
    return shorten(escape_controls(redact(value)), _LONGEST_VALUE)


def fingerprint(config: Config) -> str:
    """Return a hash of the settings that a training's metrics depend on: `4:` and 16 hexadecimal digits.

    Keys at their defaults are left out, so that a new key does not orphan older runs.
    """
    settings = changed_settings(config, _FORMER_DEFAULTS.get(config.device.name, {}))
    if config.device.name == "gpu" and "device.precision" in settings:
        settings["device.precision"] = _FORMER_PRECISIONS.get(settings["device.precision"], config.device.precision)
    text = json.dumps(settings, sort_keys=True)
    return _SCHEME + hashlib.sha256(text.encode()).hexdigest()[:16]


def changed_settings(config: Config, former: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the settings that a training's metrics depend on and that differ from the defaults, flat.

    Args:
        former: defaults of earlier versions, instead of today's.
    """
    defaults = _defaults(config.model_dump(mode="json")) | (former or {})
    return {key: value for key, value in effective_settings(config).items() if value != defaults.get(key, _NO_DEFAULT)}


def _defaults(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the default of each key of a configuration, except for choices that are not the default ones."""
    defaults = {key: value for key, value in root_defaults().items() if not isinstance(value, dict)}
    for group, values in settings.items():
        if not isinstance(values, dict) or group == "ablation":
            continue
        if group == "callback":
            for name in values:
                keys = flatten(defaults_of(group, name), f"{group}.")
                defaults |= {key: value for key, value in keys if key != f"{group}.{name}.name"}
        elif "name" in values:
            names = {
                key: {"name": inner["name"]}
                for key, inner in values.items()
                if isinstance(inner, dict) and "name" in inner
            }
            defaults |= flatten(complete(group, {"name": values["name"], **names}), f"{group}.")
            chosen = flatten(defaults_of(group, values["name"]), f"{group}.")
            defaults |= {key: value for key, value in chosen if key.endswith(".name")}
    return defaults | {f"{group}.name": choice for group, choice in chosen_by_default().items()}


def overrides_of(config: Config) -> list[str]:
    """Return the overrides that make a training's configuration of the defaults, quoted for a shell.

    Keys without effect on the metrics, such as the store's address, are left out.
    """
    defaults = _defaults(config.model_dump(mode="json"))
    settings = effective_settings(config)
    if len(set(config.size)) == 1:  # as a person writes it
        settings["size"] = config.size[0]
    changed = {key: value for key, value in settings.items() if value != defaults.get(key, _NO_DEFAULT)}
    callbacks = [key.split(".")[1] for key in changed if key.startswith("callback.") and key.endswith(".name")]
    overrides = (
        [f"callback=[{','.join(callbacks)}]" if callbacks[1:] else f"callback={callbacks[0]}"] if callbacks else []
    )
    for key, value in changed.items():
        group, _, last = key.rpartition(".")
        if key == "teachers":
            overrides.append(f"runs={hydra_value(value)}")
        elif last != "name":
            overrides.append(f"{key}={value if _is_plain(value) else hydra_value(value)}")
        elif not key.startswith("callback."):
            overrides.append(f"{group.replace('.', '/')}={value}")
    return [shlex.quote(override) for override in overrides]


def _is_plain(value: Any) -> bool:
    """Return whether a text is the same value in Hydra's overrides without quotes."""
    is_word = isinstance(value, str) and re.fullmatch(r"[A-Za-z/][\w./+-]*", value, re.ASCII)
    return bool(is_word) and value.lower() not in ("null", "true", "false", "nan", "inf")


def is_current(fingerprint: str) -> bool:
    """Return whether a run's tag has today's version."""
    return fingerprint.startswith(_SCHEME)


def differences(former: Config, config: Config) -> list[str]:
    """Return `optimizer.lr=0.05 (here 0.1)` for each changed key that affects a training's metrics, sorted.

    The folder of the images may differ: `dataset_fingerprint` covers its content.
    """
    recorded, current = effective_settings(former), effective_settings(config)
    keys = sorted((recorded.keys() | current.keys()) - {f"dataset.{key}" for key in config.dataset.file_keys})
    return [f"{k}={recorded.get(k)} (here {current.get(k)})" for k in keys if recorded.get(k) != current.get(k)]


def effective_settings(config: Config) -> dict[str, Any]:
    settings = flatten(config.model_dump(mode="json", exclude=_WITHOUT_EFFECT))
    settings = {key: value for key, value in settings if not key.startswith("task.checkpoint")}
    return settings | ({"teachers": list(config.teachers)} if config.teachers else {})
