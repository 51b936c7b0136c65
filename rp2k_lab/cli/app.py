"""Run a command line: Hydra composes the configuration, a task runs, an error becomes an exit code and two lines."""

import difflib
import importlib
import io
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from rp2k_lab import COMMAND, PROJECT, SERVER_COMMAND
from rp2k_lab.cli.command_line import split_arguments
from rp2k_lab.config.choices import CONF, choices, chosen_by_default, defaults_of, flatten, groups, plain, root_defaults
from rp2k_lab.core.disk import explain_full_disk
from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.redaction import redact, redact_args
from rp2k_lab.core.signals import claim_sigint, claim_sigterm
from rp2k_lab.device.msrun import check_launch, is_launched, is_rank_zero

log = logging.getLogger(__name__)

_REPORTED = "already reported by the failed job of the sweep"

_HELP = f"""\
rp2k-lab: train and compare image classifiers for retail products

  {COMMAND}                                     a quick run on synthetic shelf photos
  {COMMAND} model=seresnext50 aug=cutout        choose a network and an augmentation
  {COMMAND} -m aug=none,cutout seed=1,2         a sweep of four runs
  {COMMAND} -m ablation=augmentation            a table of levels and seeds; task=report adds the verdict
  {COMMAND} dataset=rp2k dataset.root=FOLDER device=gpu
  {SERVER_COMMAND}                                           open the MLflow page of all runs

--cfg job prints the composed configuration without running it; --hydra-help lists more flags.
"""


def register_resolvers() -> None:
    """Register `${project:folder}`, a folder of the clone, whatever the shell's folder.

    OmegaConf's resolvers are removed: they read the environment (oc.env) or parse text into configurations.
    """
    OmegaConf.register_new_resolver("project", lambda folder: str(PROJECT / folder), replace=True)
    for name in ("env", "decode", "create", "select", "deprecated", "dict.keys", "dict.values"):
        OmegaConf.clear_resolver(f"oc.{name}")


def run_task(composed: DictConfig) -> float | None:
    """Check the composed configuration, run its task and return the objective."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    level = logging.INFO if is_rank_zero() else logging.ERROR
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stdout, force=True)
    folder = Path(HydraConfig.get().runtime.output_dir)
    sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    if not is_rank_zero():
        _remove_if_empty(folder)  # Hydra creates one for each worker, named by its own clock
    try:
        from rp2k_lab.config.schema import parse

        settings = plain(composed, resolve=True)
        config = parse(settings)
        check_launch(config, sweep)
        if config.ablation.name != "none" and config.task.name != "report":
            raise RequestError(f"ablation={config.ablation.name}: a table needs several runs\nadd -m, or task=report")
        if config.runs:
            from rp2k_lab.tracking.run_lookup import resolve

            settings["runs"] = list(resolve(config))  # the record has ids, too
            config = config.model_copy(update={"runs": tuple(settings["runs"])})
        more_configs = ()  # of the runs after the first, if a task takes several
        if config.runs and config.task.name not in ("report", "sync"):  # these two need no configuration of a run
            from rp2k_lab.tracking.run_lookup import restore

            config, *more_configs = restore(config, settings, list(HydraConfig.get().overrides.task))
            if config.task.name == "train":
                check_launch(config, sweep)  # a run of several workers is resumed with several
        return importlib.import_module(f"rp2k_lab.task.{config.task.name}").run(config, folder, *more_configs)
    except Exception as error:
        if not sweep:
            sys.exit(report_error(error))
        # The other jobs of a sweep continue; Hydra raises this error again at the end.
        error.add_note(_REPORTED)
        if is_rank_zero():
            _print_error(f"job {HydraConfig.get().job.num}: {error}")
        raise
    finally:
        _remove_if_empty(folder)


def main(hydra_main: Callable[[], None]) -> int:
    """Run the command line and return the exit code.

    Args:
        hydra_main: Hydra's entry point, for a command with flags.
    """
    claim_sigint()
    claim_sigterm()
    sys.argv[1:] = redact_args(sys.argv[1:])
    if is_launched() and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # msrun copies a worker's output from a file
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises errors instead of printing a page and exiting 1
    register_resolvers()
    try:
        flags, overrides = split_arguments(sys.argv[1:])
        if "-m" in flags and any(override.startswith("ablation=") for override in overrides):
            overrides.append("hydra/sweeper=optuna")  # a table's runs are a study
        if flags and "-m" not in flags:
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `--help | head` ends without a message
        if "-h" in flags:
            _show_help()
            flags = ["--cfg=job"]
        sys.argv[1:] = [*flags, *overrides]
        hydra_main() if flags else _run_job(overrides)
    except OSError as error:
        reported = _REPORTED in getattr(error, "__notes__", ())
        if not reported and error.filename and not explain_full_disk(error):  # the run folder cannot be created
            error = RequestError(f"{error.filename}: {error.strerror}\nuse another folder: hydra.run.dir=<folder>")
        return report_error(error)
    except (Exception, KeyboardInterrupt) as error:
        return report_error(error)
    return 0


def _run_job(overrides: list[str]) -> None:
    """Compose the configuration and run its task in its folder.

    `hydra.main` does the same, but composes twice (Hydra 1.3): once only to read hydra.mode.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.hydra_config import HydraConfig

    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("config", overrides, return_hydra_config=True)
        folder = Path(composed.hydra.run.dir).absolute()
        composed.hydra.runtime.output_dir = str(folder)
        HydraConfig.instance().set_config(composed)
        folder.mkdir(parents=True, exist_ok=True)
        run_task(OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"]))


def _show_help() -> None:
    """Print the help text and the choices; Hydra's --cfg prints the keys.

    Hydra's own list of choices is slow: it copies the whole configuration twice per group.
    """
    print(_HELP)
    print("Choices (group=choice)")
    for group in groups():
        print(f"  {group}: {', '.join(choices(group))}")
    print("\nKeys (key=value; meaning of each: docs/config.md)", flush=True)


def report_error(error: BaseException) -> int:
    """Print at most two lines on stderr, after the traceback with debug=true, and return the exit code."""
    if "debug=true" in sys.argv[1:]:
        _print_error("".join(traceback.format_exception(error)))
    code = getattr(error, "exit_code", None)
    if _REPORTED in getattr(error, "__notes__", ()):
        return code or 1
    if isinstance(error, KeyboardInterrupt):
        print("stopped", file=sys.stderr)
        return code or 130
    request_problem = str(error) if code == RequestError.exit_code else explain_composition_error(error)
    if request_problem:
        if is_rank_zero():  # every worker of msrun has the same problem
            _print_error(request_problem)
        return RequestError.exit_code
    if code is not None:
        _print_error(str(error))
        return code
    reason = (str(error).strip().splitlines() or ["no message"])[0]
    _print_error(explain_full_disk(error) or f"{type(error).__name__}: {reason}\nadd debug=true for the traceback")
    return 1


def _print_error(message: str) -> None:
    print(redact(message), file=sys.stderr)


def explain_composition_error(error: BaseException) -> str | None:
    """Return two lines for an error of Hydra or OmegaConf, None for any other error."""
    from hydra.errors import HydraException, OverrideParseException
    from omegaconf.errors import OmegaConfBaseException

    if not isinstance(error, (HydraException, OmegaConfBaseException)):
        return None
    text = f"{error}\n{error.__cause__ or ''}"
    if match := re.search(r"Could not find '([^']+)/([^'/]+)'", text):
        group, choice = match.groups()
        return f"{group}={choice}: there is no such choice\nchoose one of {', '.join(choices(group))}"
    if match := re.search(r"Could not override '([^']+)'", text):
        return _unknown_key(match.group(1))
    if match := re.search(r"Could not append to config\. An item is already at '([^']+)'", text):
        return f"+{match.group(1)}: the key already exists\nleave out the +"
    if isinstance(error, OverrideParseException):
        forms = "group=choice, key=value, key=[a,b] or \"key='other text'\""
        return f"{error.override}: cannot be parsed\nuse {forms}"
    key = getattr(error, "full_key", None)
    first = (f"{key}: " if key else "") + str(error).strip().splitlines()[0]
    return f"{first}\nuse group=choice or key=value; {COMMAND} --help lists both"


def _unknown_key(key: str) -> str:
    from rp2k_lab.config.migrations import todays_key

    if (new := todays_key(key, " ".join(sys.argv[1:]))) != key:
        return f"{key}: renamed to {new}\nuse {new}=…"
    (group, _, in_group), parent = key.partition("."), key.rpartition(".")[0]
    known = _keys_of_the_request()
    inner = f"{group}/{in_group.partition('.')[0]}"
    part = inner if inner in groups() else group  # aug.erase.length: choices of aug/erase have it
    owners = [f"{part}={choice}" for choice in choices(part) if key in _keys_of(part, choice)] if in_group else []
    if owners:
        return f"{key}: the {part} of this request has no such key\nleave it out, or use {' or '.join(owners)}"
    if close := difflib.get_close_matches(key, known, 3, 0.75):
        return f"{key}: there is no such key\ndid you mean {' or '.join(close)}?"
    siblings = [k for k in known if k.rpartition(".")[0] == parent] or [k for k in known if "." not in k]
    return f"{key}: there is no such key\nuse one of {', '.join(siblings)}"


def _keys_of_the_request() -> list[str]:
    """Return the root keys and the keys of the chosen or default choices.

    They are read from the files, because the request cannot be composed.
    """
    given = {key: value for key, _, value in (argument.partition("=") for argument in sys.argv[1:])}
    keys = set(root_defaults()) | set(groups())
    for group, choice in (chosen_by_default() | {"hydra.sweeper": "optuna"}).items():
        inner = {key.removeprefix(f"{group}/"): value for key, value in given.items() if key.startswith(f"{group}/")}
        for name in re.findall(r"[^\s,\[\]]+", given.get(group, choice)):
            keys |= _keys_of(group, name, inner)
    return sorted(keys)


def _keys_of(group: str, choice: str, inner: Mapping[str, str] | None = None) -> set[str]:
    """Return the keys of a choice (`aug.erase.length` and others for aug=cutout); none if there is no such choice.

    Args:
        inner: the choices of groups within the group.
    """
    try:
        keys = [key for key, _ in flatten(defaults_of(group.replace(".", "/"), choice, inner))]
    except OSError:
        return set()
    prefix = group.replace("/", ".")
    return {f"{prefix}.{key}" for key in keys if key.rpartition(".")[2] not in ("name", "_target_")}


def _remove_if_empty(folder: Path) -> None:
    """Remove the run folder, which Hydra creates before the request is checked, unless it has content."""
    outputs = PROJECT / "outputs"
    while folder.is_relative_to(outputs) and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
