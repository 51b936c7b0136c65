"""Run a command line: Hydra composes the configuration, a task runs, an error becomes an exit code and two lines."""

import argparse
import difflib
import importlib
import io
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from omegaconf import DictConfig, OmegaConf

from rp2k_lab import PROJECT
from rp2k_lab.cli.command_line import check_arguments
from rp2k_lab.config.choices import choices, chosen_by_default, defaults_of, flatten, groups, plain, root_defaults
from rp2k_lab.core.disk import explain_full_disk
from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.redaction import redact, redact_args
from rp2k_lab.core.signals import claim_sigint, claim_sigterm
from rp2k_lab.device.msrun import check_launch, is_launched, is_rank_zero

log = logging.getLogger(__name__)

_REPORTED = "already reported by the failed job of the sweep"

_HELP = """\
rp2k-lab: train and compare image classifiers for retail products

  python run.py                                     a quick run on synthetic shelf photos
  python run.py model=seresnext50 aug=cutout        choose a network and an augmentation
  python run.py -m aug=none,cutout seed=1,2         a sweep of four runs
  python run.py -m ablation=augmentation            a table of levels and seeds; task=report adds the verdict
  python run.py dataset=rp2k dataset.root=FOLDER device=gpu
  make ui                                           open the MLflow page of all runs

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
    """Run Hydra's entry point and return the exit code."""
    claim_sigint()
    claim_sigterm()
    sys.argv[1:] = redact_args(sys.argv[1:])
    if is_launched() and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # msrun copies a worker's output from a file
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises errors instead of printing a page and exiting 1
    register_resolvers()
    argparse.ArgumentParser.error = _refuse_arguments
    _compose_once()
    _check_jobs_together()
    # argparse accepts flags only before or after all overrides; allow `run.py epochs=2 -m seed=1,2`.
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda argument: argument not in ("-m", "--multirun"))
    if {"-m", "--multirun"} & set(sys.argv[1:]) and any(a.startswith("ablation=") for a in sys.argv[1:]):
        sys.argv.append("hydra/sweeper=optuna")  # a table's runs are a study
    if {"--help", "-h"} & set(sys.argv[1:]):
        _show_help()
    try:
        check_arguments(sys.argv[1:])
        hydra_main()
    except OSError as error:
        reported = _REPORTED in getattr(error, "__notes__", ())
        if not reported and error.filename and not explain_full_disk(error):  # Hydra could not create the run folder
            error = RequestError(f"{error.filename}: {error.strerror}\nuse another folder: hydra.run.dir=<folder>")
        return report_error(error)
    except (Exception, KeyboardInterrupt) as error:
        return report_error(error)
    return 0


def _compose_once() -> None:
    """Skip Hydra's first composition of each request: it only reads hydra.mode, which -m alone decides here."""
    from hydra._internal.hydra import Hydra

    Hydra.get_mode = lambda *_, **__: None


def _check_jobs_together() -> None:
    """Check the values of all jobs of -m before the first starts; Hydra itself only composes them then."""
    from hydra.plugins.sweeper import Sweeper

    def check(self: Sweeper, batch: Sequence[Sequence[str]]) -> None:
        from rp2k_lab.config.schema import parse

        context, config = self.hydra_context, self.config
        assert context is not None  # both from Hydra's `setup`
        assert config is not None
        try:
            for overrides in batch:
                composed = context.config_loader.load_sweep_config(config, list(overrides))
                without_hydra = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
                parse(plain(without_hydra, resolve=True))
        except Exception:
            folder = Path(config.hydra.sweep.dir)
            (folder / "multirun.yaml").unlink(missing_ok=True)  # written by Hydra before this check
            _remove_if_empty(folder)
            raise

    Sweeper.validate_batch_is_legal = check


def _show_help() -> None:
    """Print the help text and the choices, and let Hydra's --cfg print the keys.

    Hydra's own list of choices is slow: it copies the whole configuration twice per group.
    """
    print(_HELP)
    print("Choices (group=choice)")
    for group in groups():
        print(f"  {group}: {', '.join(choices(group))}")
    print("\nKeys (key=value; meaning of each: docs/config.md)", flush=True)
    sys.argv[1:] = [argument for argument in sys.argv[1:] if argument not in ("--help", "-h")] + ["--cfg", "job"]


def _refuse_arguments(self: argparse.ArgumentParser, message: str) -> NoReturn:
    """Replace argparse's page of usage by two lines."""
    raise RequestError(f"{message}\nuse run.py [-m] group=choice key=value …; python run.py --help lists both")


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
    return f"{first}\nuse group=choice or key=value; python run.py --help lists both"


def _unknown_key(key: str) -> str:
    from rp2k_lab.config.migrations import RENAMED

    if key in RENAMED:
        return f"{key}: renamed to {RENAMED[key]}\nuse {RENAMED[key]}=…"
    (group, in_group, _), parent = key.partition("."), key.rpartition(".")[0]
    known = _keys_of_the_request()
    owners = [f"{group}={choice}" for choice in choices(group) if key in _keys_of(group, choice)] if in_group else []
    if owners:
        return f"{key}: the {group} of this request has no such key\nleave it out, or use {' or '.join(owners)}"
    if close := difflib.get_close_matches(key, known, 3, 0.75):
        return f"{key}: there is no such key\ndid you mean {' or '.join(close)}?"
    siblings = [k for k in known if k.rpartition(".")[0] == parent] or [k for k in known if "." not in k]
    return f"{key}: there is no such key\nuse one of {', '.join(siblings)}"


def _keys_of_the_request() -> list[str]:
    """Return the root keys and the keys of the chosen or default choices.

    They are read from the files, because the request cannot be composed.
    """
    chosen = chosen_by_default() | {"hydra.sweeper": "optuna"}
    chosen |= {a.partition("=")[0]: a.partition("=")[2] for a in sys.argv[1:] if a.partition("=")[0] in chosen}
    keys = set(root_defaults()) | set(groups())
    return sorted(keys.union(*(_keys_of(group, choice) for group, choice in chosen.items())))


def _keys_of(group: str, choice: str) -> set[str]:
    """Return the keys of a choice (`aug.length` and others for aug=cutout); none for a sweep over several choices."""
    try:
        keys = [key for key, _ in flatten(defaults_of(group.replace(".", "/"), choice))]
    except OSError:
        return set()
    return {f"{group}.{key}" for key in keys if key not in ("name", "_target_")}


def _remove_if_empty(folder: Path) -> None:
    """Remove the run folder, which Hydra creates before the request is checked, unless it has content."""
    outputs = PROJECT / "outputs"
    while folder.is_relative_to(outputs) and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
