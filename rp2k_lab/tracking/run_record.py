"""The record of a run in its folder: its configuration and classes as files."""

import re
from pathlib import Path
from typing import Any

from rp2k_lab.config.choices import choices
from rp2k_lab.config.migrations import migrate, parse_record
from rp2k_lab.config.schema import Config
from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.text import escape_controls
from rp2k_lab.tracking.run_files import CONFIG, damage_named, read_settings

_GROUPS = ("dataset", "model", "aug", "loss", "optimizer", "schedule", "device")
# Keys that belong to the trained network, whatever the data set.
NORMALIZATION = ("mean", "std")


def read_config(folder: Path, reference: str) -> dict[str, Any]:
    """Return the recorded configuration as plain data; its groups are choices of `conf/`, `parse` checks the rest."""
    try:
        settings = read_settings(folder)
    except FileNotFoundError:
        raise no_file(folder / CONFIG, reference) from None
    with damage_named(folder / CONFIG):
        recorded = migrate(settings)
        _check_names(recorded)
        names = {group: recorded[group]["name"] for group in _GROUPS if group in recorded}
        for group, key in [("task", "name"), *(("dataset", key) for key in NORMALIZATION)]:
            if key not in recorded[group]:
                raise KeyError(f"{group}.{key}")
    for group, name in names.items():
        if name not in choices(group):
            raise RequestError(
                f"runs={reference}: was made with {group}={name}, and no installed package has this choice\n"
                "install the package that has it, or name another run"
            )
    return recorded


def read_record(folder: Path) -> Config:
    """Return the configuration that the record in a folder alone describes; missing keys get today's defaults.

    Raises:
        FileNotFoundError: there is no record.
        DataError: it is damaged, or no valid configuration today.
    """
    settings = read_settings(folder)
    with damage_named(folder / CONFIG):
        _check_names(settings)
        try:
            return parse_record(settings)
        except RequestError as error:
            raise ValueError(str(error).splitlines()[0]) from None


def _check_names(settings: dict[str, Any]) -> None:
    """Raise ValueError unless each `name`, of a choice at any depth, can be the name of a file of `conf/`."""
    for key, value in settings.items():
        if isinstance(value, dict):
            _check_names(value)
        elif key == "name" and not (isinstance(value, str) and re.fullmatch(r"\w[\w.-]*", value)):
            raise ValueError(f"no name of a choice: {value!r}")


def no_file(file: Path, reference: str) -> RequestError:
    """Return the error of a run without this file."""
    return RequestError(f"runs={reference}: the run has no {file.name} (looked for {escape_controls(file)})")
