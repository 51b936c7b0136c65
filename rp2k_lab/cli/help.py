"""The texts of `--help` and of `help=GROUP`: choices, keys, their units, ranges and meaning."""

import shutil
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from rp2k_lab import COMMAND, SERVER_COMMAND
from rp2k_lab.config.choices import choices, groups, root_defaults
from rp2k_lab.core.errors import RequestError

_HEAD = f"""\
rp2k-lab: train and compare image classifiers for retail products

  {COMMAND}                                     a quick run on synthetic shelf photos
  {COMMAND} model=seresnext50 aug=cutout        choose a network and an augmentation
  {COMMAND} -m aug=none,cutout seed=1,2         a sweep of four runs
  {COMMAND} -m ablation=augmentation            a table of levels and seeds; task=report adds the verdict
  {COMMAND} dataset=rp2k dataset.root=FOLDER device=gpu
  {COMMAND} help=optimizer                      one group: its choices, and the keys of each
  {SERVER_COMMAND}                                           open the MLflow page of all runs

--cfg job prints the composed configuration without running it; --hydra-help lists more flags.
"""
_KEY_COLUMNS = 44
_MAX_COLUMNS = 120

Row = tuple[str, str, str, str]


def overview() -> str:
    """Return the commands and the choices of every group."""
    lines = [f"  {group}: {', '.join(choices(group))}" for group in groups()]
    return "\n".join([_HEAD, "Choices (group=choice)", *lines])


def request_help(settings: Mapping[str, Any]) -> str:
    """Return the keys of a composed request with value, range and meaning."""
    from rp2k_lab.config.reference import request_rows  # pydantic and the option classes

    head = "Keys (key=value, unit and range, meaning)"
    return "\n".join([head, *_lines(request_rows(settings))])


def group_help(name: str, chosen: Iterable[str] = ()) -> str:
    """Return the choices of a group, or of the named ones, and the keys of each; of a root key, the key.

    Args:
        chosen: the choices to show; none: all.

    Raises:
        RequestError: there is no such group or root key.
    """
    from rp2k_lab.config.reference import group_sections, root_rows

    asked, name = name, name.replace(".", "/")
    if name in root_defaults() and name not in groups():
        return "\n".join(_lines(row for row in root_rows() if row[0] == name))
    if name not in groups():
        known = dict.fromkeys([*groups(), *root_defaults()])
        raise RequestError(f"help={asked}: there is no such group\nuse one of {', '.join(known)}")
    parts = [textwrap.fill(f"{name}={', '.join(choices(name))}", _columns(), subsequent_indent="  ")]
    for title, rows in group_sections(name, tuple(chosen)):
        parts += ["", *([f"{title}:"] if title else []), *_lines(rows)]
    return "\n".join(parts)


def _columns() -> int:
    return min(_MAX_COLUMNS, shutil.get_terminal_size((100, 0)).columns)


def _lines(rows: Iterable[Row]) -> Iterable[str]:
    """Yield two lines or more for each key."""
    for key, value, values, meaning in rows:
        yield f"  {f'{key}={value}':{_KEY_COLUMNS}}  {values}".rstrip()
        if meaning:
            yield textwrap.fill(meaning, _columns(), initial_indent=" " * 6, subsequent_indent=" " * 6)
